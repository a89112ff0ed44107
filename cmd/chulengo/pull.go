package main

import (
	"github.com/spf13/cobra"

	"chulengo/internal/hub"
)

func (a *app) pullCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull [flags] ms://ORG/NAME | hf://ORG/NAME",
		Short: a.say("Download a checkpoint from ModelScope or Hugging Face", "从魔搭 ModelScope 或 Hugging Face 下载模型"),
		Long: a.say(`Download a checkpoint. What was interrupted goes on where it was; files that are already there are verified and kept.
Proxies, tokens and mirrors come from the customary variables: HTTPS_PROXY, HF_TOKEN, HF_ENDPOINT, MODELSCOPE_API_TOKEN,
MODELSCOPE_ENDPOINT. The folder is printed at the end.`,
			`下载模型。中断后再次运行会继续；已有的文件校验后保留。
代理、令牌和镜像取自惯用的环境变量：HTTPS_PROXY、HF_TOKEN、HF_ENDPOINT、MODELSCOPE_API_TOKEN、MODELSCOPE_ENDPOINT。最后输出所在目录。`),
		Args: a.arguments(1, 1, "ms://ORG/NAME"),
	}
	a.addFlags(cmd.Flags(), []string{"revision", "dir", "include", "exclude", "files", "rehash"})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := hub.ParseRef(args[0])
		if err != nil {
			return err
		}
		if ref.Hub == "" {
			return usage("say from which hub: ms://%[1]s (ModelScope) or hf://%[1]s (Hugging Face)", "请说明从哪个站下载：ms://%[1]s（魔搭）或 hf://%[1]s（Hugging Face）", ref.String())
		}
		if a.opts.Revision != "" {
			ref.Revision = a.opts.Revision
		}
		return a.pull(cmd, ref)
	}
	return cmd
}

func (a *app) pull(cmd *cobra.Command, ref hub.Ref) error {
	ctx, stop := a.signalled(cmd.Context())
	defer stop()
	o := hub.Options{Dir: a.opts.Dir, Include: a.opts.Include, Exclude: a.opts.Exclude, Files: a.opts.Files, Rehash: a.opts.Rehash}
	var show *hub.Terminal
	if !a.opts.Quiet {
		show = hub.NewTerminal(a.err, terminal(a.err), a.lang)
		o.Progress = show
	}
	dir, err := hub.Pull(ctx, ref, o)
	if show != nil {
		show.Close()
	}
	if err != nil {
		if a.signal.Load() != nil {
			a.note("stopped; the same command goes on from here", "已停止；再次运行同一命令会继续下载")
		}
		return err
	}
	return a.print(dir)
}
