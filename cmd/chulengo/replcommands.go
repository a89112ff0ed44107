package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// settable are the options that /set changes.
var settable = append([]string{"max-tokens", "verbose"}, samplingOptions...)

// command runs a line that began with "/"; leave ends the conversation.
func (c *conversation) command(line string) (leave bool) {
	a := c.app
	name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	rest = strings.TrimSpace(rest)
	switch name {
	case "help", "?":
		fmt.Fprintln(a.err, a.say(replHelp, replHelpChinese))
	case "clear":
		c.messages, c.pictures, c.added = nil, nil, nil
		a.note("the conversation begins anew", "对话已清空")
	case "system":
		if rest == "" {
			fmt.Fprintln(a.err, a.say("system: ", "系统文字：")+c.system)
			break
		}
		c.system = strings.Trim(rest, `"`)
		c.messages, c.pictures = nil, nil
		a.note("system text set; the conversation begins anew", "系统文字已更改；对话已清空")
	case "set":
		if err := c.set(rest); err != nil {
			fmt.Fprintln(a.err, a.say("error: ", "错误：")+a.describe(err))
		}
	case "bye", "exit", "quit":
		return true
	default:
		fmt.Fprintf(a.err, a.say("there is no command /%s; /help lists them\n", "没有 /%s 这个命令；/help 列出所有命令\n"), name)
	}
	return false
}

// set changes an option for the rest of the conversation, or lists them.
func (c *conversation) set(line string) error {
	a := c.app
	flags := pflag.NewFlagSet("set", pflag.ContinueOnError)
	before := a.opts // adding flags must not bring defaults back
	a.addFlags(flags, settable)
	a.opts = before
	name, value, _ := strings.Cut(strings.TrimPrefix(line, "parameter "), " ")
	if name == "" {
		var t table
		flags.VisitAll(func(f *pflag.Flag) { t.add("  "+f.Name, f.Value.String()) })
		return t.write(a.err)
	}
	f := flags.Lookup(strings.ReplaceAll(name, "_", "-"))
	if f == nil {
		return usage("/set knows no %q; it knows %s", "/set 没有 %q；可用的有 %s", name, strings.Join(settable, ", "))
	}
	if value == "" && f.Value.Type() == "bool" {
		value = "true"
	}
	if err := a.set(f, f.Name, []string{strings.TrimSpace(value)}); err != nil {
		return err
	}
	if _, err := a.sampling(c.model.generation); err != nil {
		a.opts = before
		return err
	}
	a.note("%s = %s", "%s = %s", f.Name, f.Value.String())
	return nil
}

const replHelp = `  /clear           forget the conversation
  /system TEXT     set the system text
  /set             list the parameters; /set NAME VALUE changes one
  /bye             leave (also Ctrl-D)
  """              begins and ends a message of several lines
  a picture's path (or a picture dropped here) shows it with the message
  Ctrl-C           stops the answer`

const replHelpChinese = `  /clear           忘记这次对话
  /system 文字     设置系统文字
  /set             列出参数；/set 名称 值 更改参数
  /bye             退出（也可按 Ctrl-D）
  """              多行消息的开头与结尾
  图片路径         写出（或拖入）即随消息发送
  Ctrl-C           停止正在生成的回答`
