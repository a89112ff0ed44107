package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// root builds the command tree.
func (a *app) root() *cobra.Command {
	a.opts.defaults()
	root := &cobra.Command{
		Use:   "chulengo",
		Short: a.say("Run Llama 4 checkpoints", "运行 Llama 4 模型"),
		Long: a.say("chulengo runs Llama 4 checkpoints: a chat page, chats in the terminal, and a look inside.\nWithout --model it uses the small demo checkpoint that is built in.",
			"chulengo 运行 Llama 4 模型：对话网页、终端对话，以及观察模型内部。\n不指定 --model 时使用内置的小型演示模型。"),
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return misuse("there is no command %q; did you mean %s?", "没有 %q 这个命令，是不是 %s？", args[0], strings.Join(near, ", "))
			}
			return misuse("there is no command %q", "没有 %q 这个命令", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("chulengo {{.Version}}\n")
	a.addFlags(root.PersistentFlags(), []string{"config", "lang", "verbose", "quiet"})
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return a.settle(cmd) }
	root.AddCommand(a.serveCommand(), a.chatCommand(), a.generateCommand(), a.inspectCommand(), a.pullCommand(),
		a.tokenizeCommand(), a.hooksCommand(), a.workerCommand(), a.quantizeCommand(), a.benchCommand(), a.configCommand(), a.versionCommand())
	a.localize(root)
	return root
}

// arguments checks how many there are: at least min and, unless negative, at most max. what names them.
func (a *app) arguments(min, max int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < min:
			return misuse("%s: %s is missing", "%s：缺少 %s", cmd.Name(), what)
		case max == 0 && len(args) > 0:
			return misuse("%s takes no arguments, got %q", "%s 不需要参数，多了 %q", cmd.Name(), args[0])
		case max > 0 && len(args) > max:
			return misuse("%s: %q is too much; put texts with spaces into quotes", "%s：多了 %q；含空格的文字请加引号", cmd.Name(), args[max])
		}
		return nil
	}
}

// localize gives cobra's own commands and texts the language of the app.
func (a *app) localize(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Short = a.say("Help about any command", "显示某个命令的用法")
			cmd.Long = cmd.Short
		case "completion":
			cmd.Short = a.say("Generate the completion script of a shell", "生成 shell 的自动补全脚本")
			cmd.PersistentPreRunE = func(*cobra.Command, []string) error { return nil }
			if a.lang == "zh" {
				cmd.Long = "为指定的 shell 生成自动补全脚本。"
				for _, shell := range cmd.Commands() {
					shell.Short = "生成 " + shell.Name() + " 的自动补全脚本"
				}
			}
		}
	}
	variables := a.say("Every option is also an environment variable and a key of --config: --max-tokens, CHULENGO_MAX_TOKENS, max_tokens.",
		"每个选项也可写成环境变量或 --config 文件中的键：--max-tokens、CHULENGO_MAX_TOKENS、max_tokens。")
	template := root.UsageTemplate()
	if a.lang == "zh" {
		cobra.AddTemplateFunc("chineseDefaults", func(usages string) string { return defaultNote.ReplaceAllString(usages, "（默认 $1）") })
		template = chinese.Replace(template)
		for _, cmd := range append(descendants(root), root) {
			cmd.InitDefaultHelpFlag()
			if use := strings.ReplaceAll(cmd.Use, "[flags]", "[选项]"); use != cmd.Use {
				cmd.Use = use
			} else if cmd.Runnable() {
				cmd.Use += " [选项]"
			}
			cmd.DisableFlagsInUseLine = true
			cmd.Flags().Lookup("help").Usage = cmd.Name() + " 的用法"
		}
		root.InitDefaultVersionFlag()
		root.Flags().Lookup("version").Usage = "显示版本"
	}
	root.SetUsageTemplate(template + "{{if .HasAvailableLocalFlags}}\n" + variables + "\n{{end}}")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return err })
	for _, cmd := range append(descendants(root), root) {
		cmd.Flags().SortFlags = false
	}
}

// defaultNote is what pflag appends to the description of an option.
var defaultNote = regexp.MustCompile(`\(default ([^)]*)\)`)

// chinese translates cobra's usage template.
var chinese = strings.NewReplacer("Usage:", "用法：", "Aliases:", "别名：", "Examples:", "例子：", "Available Commands:", "命令：",
	"Additional Commands:", "其他命令：", "Global Flags:", "通用选项：", "Flags:", "选项：", "Additional help topics:", "其他说明：",
	`Use "{{.CommandPath}} [command] --help" for more information about a command.`, `运行 {{.CommandPath}} 命令 --help 查看该命令的用法。`,
	"[flags]", "[选项]", "[command]", "[命令]", "| trimTrailingWhitespaces", "| chineseDefaults | trimTrailingWhitespaces")

func descendants(cmd *cobra.Command) []*cobra.Command {
	list := slices.Clone(cmd.Commands())
	for _, child := range cmd.Commands() {
		list = append(list, descendants(child)...)
	}
	return list
}

// print writes lines to standard output.
func (a *app) print(lines ...string) error {
	_, err := fmt.Fprintln(a.out, strings.Join(lines, "\n"))
	return err
}
