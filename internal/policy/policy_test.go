// Package policy holds the rules about the repository that a test can keep: who may import whom. DO NOT CHANGE THE TABLE TO FIX A BUILD: it is the architecture.
package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms lists, for every folder, the folders of ours that its packages may import and the third-party modules (by prefix).
// A package belongs to the longest folder that is its prefix. Tests are free.
var rooms = map[string]struct{ ours, theirs []string }{
	"safetensors":  {nil, []string{"github.com/x448/float16", "golang.org/x/sys", "golang.org/x/sync"}},
	"tokenizer":    {nil, []string{"github.com/nlpodyssey/gotokenizers", "github.com/nikolalohinski/gonja/v2"}},
	"kernels":      {nil, nil},
	"kernels/cpu":  {[]string{"kernels"}, []string{"golang.org/x/sys/cpu", "github.com/x448/float16"}},
	"kernels/cuda": {[]string{"kernels"}, []string{"gorgonia.org/cu", "github.com/x448/float16"}},
	"model":        {[]string{"kernels", "safetensors"}, []string{"golang.org/x/image", "golang.org/x/sync"}},
	"engine":       {[]string{"model", "tokenizer", "kernels"}, nil},
	"serve":        {[]string{"engine", "tokenizer", "serve", "internal"}, []string{"github.com/labstack/echo/v4", "modernc.org/sqlite", "github.com/jackc/pgx/v5", "github.com/prometheus", "github.com/google/uuid", "golang.org/x/net", "code.dny.dev/ssrf", "golang.org/x/sync", "golang.org/x/time"}},
	"bench":        {[]string{"engine", "model", "tokenizer", "kernels", "kernels/cpu", "safetensors", "demo", "serve"}, []string{"golang.org/x"}},
	"demo":         {[]string{"safetensors"}, nil},
	"internal":     {[]string{"internal"}, []string{""}},
	"cmd":          {[]string{""}, []string{""}},
}

// TestImports reads the imports of every Go file of the module, whatever its build tags. (It parses the files itself:
// what go list prints would not invalidate the test cache.)
func TestImports(t *testing.T) {
	seen := 0
	for path, file := range sources(t) {
		room := roomOf(path)
		if room == "" {
			t.Errorf("%s lies in no room of the table", path)
			continue
		}
		for _, spec := range file.Imports {
			seen++
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(imp, "/")
			if ours, ok := strings.CutPrefix(imp, "chulengo/"); ok {
				if to := roomOf(ours); to != room && !slices.Contains(rooms[room].ours, to) && !slices.Contains(rooms[room].ours, "") {
					t.Errorf("%s imports %s: want one of %v", path, ours, rooms[room].ours)
				}
			} else if strings.Contains(first, ".") && !hasPrefix(imp, rooms[room].theirs) {
				t.Errorf("%s imports %s: want one of %v", path, imp, rooms[room].theirs)
			} else if imp == "C" && room != "kernels/cuda" {
				t.Errorf("%s uses cgo: only kernels/cuda may", path)
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d imports seen", seen)
	}
}

// sources parses the imports of the module's files; tests and modules within it are left out.
func sources(t *testing.T) map[string]*ast.File {
	out := map[string]*ast.File{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == root {
				return nil
			}
			_, err := os.Stat(filepath.Join(path, "go.mod"))
			if err == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin" || d.Name() == "build" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		out[filepath.ToSlash(rel)], err = parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func roomOf(path string) (room string) {
	for r := range rooms {
		if (path == r || strings.HasPrefix(path, r+"/")) && len(r) > len(room) {
			room = r
		}
	}
	return room
}

func hasPrefix(imp string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(imp, p) })
}
