package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"chulengo/demo"
	"chulengo/internal/hub"
	"chulengo/model"
)

// source is a checkpoint that was found: where it lies and what it is called.
type source struct {
	files fs.FS
	name  string // short, as in a path: chulengo-demo
	dir   string // "" for the built-in demo
	demo  bool
}

// where is the source as messages name it.
func (s *source) where() string {
	if s.dir == "" {
		return s.name
	}
	return s.dir
}

// hubSnapshot is the folder of a revision in Hugging Face's cache.
var hubSnapshot = regexp.MustCompile(`models--[^/\\]+--([^/\\]+)[/\\]snapshots[/\\][^/\\]+$`)

// resolve finds the checkpoint that --model means: nothing is the demo; what is a folder here is that folder; the rest
// names a repository that was downloaded.
func (a *app) resolve(name string) (*source, error) {
	if name == "" || name == demo.Name {
		return &source{files: demo.FS(), name: demo.Name, demo: true}, nil
	}
	if info, err := os.Stat(name); err == nil {
		if !info.IsDir() {
			return nil, unusable(nil, "%s is a file; --model wants the checkpoint's folder", "%s 是文件；--model 需要模型所在的目录", name)
		}
		return folder(name), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, unusable(err, "cannot open %s", "无法打开 %s", name)
	}
	ref, err := hub.ParseRef(name)
	if err != nil || filepath.IsAbs(name) || strings.HasPrefix(name, ".") {
		return nil, unusable(nil, "%s is neither a folder nor ORG/NAME of a downloaded checkpoint", "%s 既不是目录，也不是已下载模型的 组织/名称", name)
	}
	dir, err := hub.Find(ref)
	if err != nil {
		return nil, &message{code: exitModel, en: "cannot use " + name, zh: "无法使用 " + name, cause: err}
	}
	s := folder(dir)
	s.name = ref.Name
	return s, nil
}

func folder(dir string) *source {
	s := &source{files: os.DirFS(dir), dir: dir, name: dir}
	if abs, err := filepath.Abs(dir); err == nil {
		s.name = filepath.Base(abs)
		if m := hubSnapshot.FindStringSubmatch(abs); m != nil {
			s.name = m[1]
		}
	}
	return s
}

// llamaVocab is the size of the vocabulary that Llama 4 and what was made from it have.
const llamaVocab = 202048

// isLlama says whether weights are Llama's or made from them, whose licence asks for "Built with Llama".
func (s *source) isLlama(c *model.Config) bool {
	return !s.demo && (c.Vocab == llamaVocab || strings.Contains(strings.ToLower(s.name), "llama"))
}

// isScout says whether this is Llama 4 Scout, about which the tutorial's page speaks.
func (s *source) isScout(c *model.Config) bool {
	return !s.demo && c.Vocab == llamaVocab && c.Layers == 48 && c.Experts == 16 && c.Dim == 5120
}
