package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/peterh/liner"
)

// converse is the conversation at the terminal. Ctrl-C stops an answer, not the program; Ctrl-D leaves.
func (a *app) converse(ctx context.Context) error {
	l, err := a.load(ctx, a.loadBar())
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := a.newConversation(l)
	if err != nil {
		return err
	}
	input := a.lines()
	defer input.Close()
	a.note("%s: /help lists the commands, Ctrl-D leaves", "%s：/help 列出命令，Ctrl-D 退出", l.name)
	for {
		text, isCommand, err := readMessage(input)
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			a.note("(Ctrl-D or /bye leaves)", "（Ctrl-D 或 /bye 退出）")
			continue
		case errors.Is(err, io.EOF):
			if terminal(a.in) {
				fmt.Fprintln(a.err) // the shell's prompt gets a line of its own
			}
			return nil
		case err != nil:
			return failed(err, "cannot read the message", "无法读取输入")
		}
		if isCommand {
			if leave := c.command(text); leave {
				return nil
			}
			continue
		}
		paths, text := dropped(text)
		if files, err := l.readPictures(paths); err != nil {
			fmt.Fprintln(a.err, a.say("error: ", "错误：")+a.describe(err))
			continue
		} else if c.added = append(c.added, files...); len(files) > 0 && text == "" {
			a.note("%d picture(s) for the next message", "下一条消息将附带 %d 张图片", len(c.added))
		}
		if text == "" {
			continue
		}
		if err := c.askInterruptibly(ctx, text); err != nil {
			fmt.Fprintln(a.err, a.say("error: ", "错误：")+a.describe(err))
		}
	}
}

// askInterruptibly lets Ctrl-C stop the answer.
func (c *conversation) askInterruptibly(ctx context.Context, text string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	err := c.ask(ctx, text)
	if ctx.Err() != nil {
		c.app.note("(stopped)", "（已停止）")
		return nil
	}
	return err
}

// lineReader gives lines without their ends.
type lineReader interface {
	Prompt(prompt string) (string, error)
	Remember(text string)
	Close() error
}

// lines reads from the terminal with editing and a history, or plainly from elsewhere.
func (a *app) lines() lineReader {
	if a.in != io.Reader(os.Stdin) || !terminal(a.in) || !terminal(a.out) {
		return &plainLines{bufio.NewReader(a.in)}
	}
	e := &editor{State: liner.NewLiner()}
	e.SetCtrlCAborts(true)
	e.SetMultiLineMode(true)
	if dir, err := a.dataDir(); err == nil {
		e.history = filepath.Join(dir, "chat_history")
		if f, err := os.Open(e.history); err == nil {
			e.ReadHistory(f)
			f.Close()
		}
	}
	return e
}

// editor is a line editor whose history is kept. Failing to keep it is no reason to bother anybody.
type editor struct {
	*liner.State
	history string // file; "": none
}

func (e *editor) Remember(text string) { e.AppendHistory(text) }

func (e *editor) Close() error {
	if e.history != "" && os.MkdirAll(filepath.Dir(e.history), 0o700) == nil {
		if f, err := os.OpenFile(e.history, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err == nil {
			e.WriteHistory(f)
			f.Close()
		}
	}
	return e.State.Close()
}

type plainLines struct{ r *bufio.Reader }

func (p *plainLines) Prompt(string) (string, error) {
	line, err := p.r.ReadString('\n')
	if err == io.EOF && line != "" {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}
func (p *plainLines) Remember(string) {}
func (p *plainLines) Close() error    { return nil }

// quotes begin and end a message of several lines.
const quotes = `"""`

// readMessage reads one message, or a line that begins with "/": a command, given without it. What stands in quotes is
// never a command.
func readMessage(in lineReader) (text string, isCommand bool, err error) {
	line, err := in.Prompt(">>> ")
	if err != nil {
		return "", false, err
	}
	line = strings.TrimSpace(line)
	text, several := strings.CutPrefix(line, quotes)
	if !several {
		if line != "" {
			in.Remember(line)
		}
		if paths, _ := dropped(line); len(paths) > 0 {
			return line, false, nil // it may begin with a path
		}
		text, isCommand = strings.CutPrefix(line, "/")
		return text, isCommand, nil
	}
	for {
		if whole, end := strings.CutSuffix(text, quotes); end {
			in.Remember(quotes + strings.ReplaceAll(whole, "\n", " ") + quotes)
			return strings.TrimSpace(whole), false, nil
		}
		line, err := in.Prompt("... ")
		if err == io.EOF {
			return text, false, nil
		}
		if err != nil {
			return "", false, err
		}
		text += "\n" + strings.TrimRight(line, " ")
	}
}
