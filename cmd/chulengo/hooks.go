package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"chulengo/model"
)

func (a *app) hooksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hooks [flags] [GLOB...]",
		Short: a.say("List the values that can be captured", "列出可以捕获的数值"),
		Long: a.say("List the values that generate --capture can write: name, shape and bytes of one token. In a GLOB * stands for any\ncharacters, {a,b} for alternatives, {4..7} for numbers.\nValues under vision. have rows of the tiles of pictures in place of tokens: patches and the class token, later one for each token.",
			"列出 generate --capture 可以写入的数值：名称、每个 token 的形状与字节数。通配式中 * 表示任意字符，{a,b} 表示几者之一，{4..7} 表示一段数字。\nvision. 之下的数值以图块的行代替 token：先是图像块与类别 token，之后每个 token 一行。"),
	}
	a.addFlags(cmd.Flags(), modelOptions, []string{"json"})
	cmd.RunE = func(_ *cobra.Command, globs []string) error {
		d, err := a.describeModel()
		if err != nil {
			return err
		}
		if len(globs) == 0 {
			globs = []string{"*"}
		}
		hooks, err := model.SelectAllHooks(d.config, globs)
		if err != nil {
			return &message{code: exitUsage, en: "hooks", zh: "没有这样的钩子", cause: err}
		}
		if a.opts.JSON {
			return a.printJSON(hookManifest(d, hooks))
		}
		return a.printHooks(hooks)
	}
	return cmd
}

type manifest struct {
	Version int        `json:"hook_manifest"`
	Model   string     `json:"model"`
	Hooks   []hookJSON `json:"hooks"`
}

type hookJSON struct {
	Name  string `json:"name"`
	Shape []int  `json:"shape"` // of one token
	Axes  string `json:"axes"`
	DType string `json:"dtype"`
	Bytes int    `json:"bytes_per_token"`
	Means string `json:"means"`

	Vision bool `json:"vision,omitempty"` // rows of tiles in place of tokens
}

func hookManifest(d *described, hooks []model.Hook) manifest {
	m := manifest{Version: model.HookManifest, Model: d.name}
	for _, h := range hooks {
		m.Hooks = append(m.Hooks, hookJSON{h.Name, orEmpty(h.Shape), h.Axes, dtype(h).String(), 4 * h.Width(), h.Means, h.IsVision()})
	}
	return m
}

func (a *app) printHooks(hooks []model.Hook) error {
	t := table{right: []bool{false, false, false, true, false}}
	t.add(a.say("NAME", "名称"), a.say("SHAPE", "形状"), a.say("DTYPE", "类型"), a.say("BYTES/TOKEN", "字节/token"), a.say("MEANING", "含义"))
	sum := 0
	for _, h := range hooks {
		t.add(h.Name, shape(h.Shape), dtype(h).String(), fmt.Sprint(4*h.Width()), a.term(h.Means))
		if !h.IsVision() {
			sum += 4 * h.Width()
		}
	}
	if err := t.write(a.out); err != nil {
		return err
	}
	return a.print("", fmt.Sprintf(a.say("%d values, %s a token", "共 %d 项，每个 token %s"), len(hooks), size(int64(sum))))
}

// shape writes a shape as [2, 3].
func shape(dims []int) string {
	return "[" + strings.Join(strings.Fields(strings.Trim(fmt.Sprint(dims), "[]")), ", ") + "]"
}
