package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chulengo/model"
	"chulengo/safetensors"
)

func (a *app) quantizeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quantize [flags] IN OUT",
		Short: a.say("Write a quantised checkpoint", "写出量化后的模型"),
		Long: a.say(`Quantise the plain checkpoint IN (a folder, or ORG/NAME in a local cache) and write it to the new folder OUT, in the format of
compressed-tensors, which other runtimes read too. Tokenizer, chat template and the other small files are copied.
int4: experts and feed-forwards in INT4, groups of 128; int4-mixed (the default): attention and output projection in FP8 besides;
fp8: all of them in FP8.`,
			`把未量化的模型 IN（目录，或本机缓存中的 组织/名称）量化后写入新目录 OUT，格式为 compressed-tensors，其他运行时也能读取。
分词器、对话模板等小文件一并复制。
int4：专家与前馈用 INT4，每组 128；int4-mixed（默认）：注意力和输出投影另用 FP8；fp8：以上全部用 FP8。`),
		Args: a.arguments(2, 2, "IN OUT"),
	}
	a.addFlags(cmd.Flags(), []string{"quant"})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if a.opts.Quant == "" {
			a.opts.Quant = string(model.RecipeINT4Mixed)
		}
		if err := a.checkDevice(); err != nil {
			return err
		}
		ctx, stop := a.signalled(cmd.Context())
		defer stop()
		return a.quantize(ctx, args[0], args[1])
	}
	return cmd
}

// quantize writes into a folder beside out, which gets its name when everything is there.
func (a *app) quantize(ctx context.Context, in, out string) (err error) {
	src, err := a.resolve(in)
	if err != nil {
		return err
	}
	config, err := model.LoadConfig(src.files)
	if err != nil {
		return bad(src, err)
	}
	before, err := fs.ReadFile(src.files, "config.json")
	if err != nil {
		return bad(src, err)
	}
	weights, err := safetensors.Open(src.files)
	if err != nil {
		return bad(src, err)
	}
	defer weights.Close()
	if _, err := model.DeviceBytes(weights, config, a.recipe(), 1); err != nil { // what cannot be quantised, before anything is written
		return bad(src, err)
	}
	if _, err := os.Lstat(out); err == nil {
		return usage("%s is there already; quantize writes a new folder", "%s 已经存在；quantize 只写入新目录", out)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return failed(err, "cannot write %s", "无法写入 %s", out)
	}
	out = filepath.Clean(out)
	temp, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return failed(err, "cannot write %s", "无法写入 %s", out)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(temp)
		}
	}()
	if err := os.Chmod(temp, 0o755); err != nil {
		return failed(err, "cannot write %s", "无法写入 %s", out)
	}
	if err := model.Quantise(ctx, weights, config, temp, model.LoadOptions{Progress: a.loadBar(), Recipe: a.recipe()}); err != nil {
		return bad(src, err)
	}
	text, err := model.QuantisedConfig(before, a.recipe())
	if err == nil {
		err = os.WriteFile(filepath.Join(temp, "config.json"), text, 0o644)
	}
	if err == nil {
		err = copySmall(temp, src.files)
	}
	if err == nil {
		err = os.Rename(temp, out)
	}
	if err != nil {
		return failed(err, "cannot write %s", "无法写入 %s", out)
	}
	return a.print(out)
}

// weightFiles are the ends of names of files that hold weights, in whatever format, or say where they are.
var weightFiles = []string{".safetensors", ".safetensors.gz", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".onnx"}

// copySmall copies the files of a checkpoint's folder that are no weights: tokenizer, templates, licence.
func copySmall(to string, from fs.FS) error {
	entries, err := fs.ReadDir(from, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		info, err := fs.Stat(from, name) // through links, as hub caches have them
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || name == "config.json" || strings.HasPrefix(name, ".") ||
			slices.ContainsFunc(weightFiles, func(end string) bool { return strings.HasSuffix(name, end) }) {
			continue
		}
		if err := copyFile(filepath.Join(to, name), from, name); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to string, from fs.FS, name string) error {
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
