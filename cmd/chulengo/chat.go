package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"chulengo/engine"
	"chulengo/tokenizer"
)

func (a *app) chatCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chat [flags] [PROMPT]",
		Short: a.say("Talk in the terminal, or get one answer", "在终端对话，或得到一个回答"),
		Long: a.say(`Talk to the model. With a PROMPT, or with one on standard input, chat prints one answer and ends.
With --interactive, standard input is a conversation of one message a line even if it is no terminal.
Pictures of --image belong to the first message; in a conversation the path of a picture is enough.`,
			`与模型对话。给出提示（参数或标准输入）时只输出一个回答。
使用 --interactive 时，标准输入不是终端也逐行对话。
--image 的图片属于第一条消息；对话中写出（或拖入）图片的路径即可。`),
	}
	a.addFlags(cmd.Flags(), deviceOptions, chatOptions, samplingOptions, []string{"image", "max-tokens", "interactive", "data-dir"})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := a.sampling(nil); err != nil {
			return err
		}
		if a.opts.Interactive && len(args) > 0 {
			return usage("give either a prompt or --interactive, not both", "提示与 --interactive 只能选一个")
		}
		prompt, once := "", false
		if !a.opts.Interactive {
			var err error
			if prompt, once, err = a.text(args); err != nil {
				return err
			}
			if once && strings.TrimSpace(prompt) == "" {
				return usage("the prompt is empty", "提示为空")
			}
		}
		if once {
			return a.withModel(func(ctx context.Context, l *loaded) error { return a.answerOnce(ctx, l, prompt) })(cmd, args)
		}
		return a.converse(cmd.Context())
	}
	return cmd
}

// answerOnce prints the answer to one prompt.
func (a *app) answerOnce(ctx context.Context, l *loaded, prompt string) error {
	c, err := a.newConversation(l)
	if err != nil {
		return err
	}
	return c.ask(ctx, prompt)
}

// conversation is a chat in the terminal.
type conversation struct {
	app      *app
	model    *loaded
	template tokenizer.ChatTemplate
	system   string
	messages []tokenizer.Message // without the system's

	pictures []*engine.PictureFile // of the messages, in order
	added    []*engine.PictureFile // of the next message
}

func (a *app) newConversation(l *loaded) (*conversation, error) {
	t, err := a.template(l.described)
	if err != nil {
		return nil, err
	}
	c := &conversation{app: a, model: l, template: t, system: a.opts.System}
	c.added, err = l.readPictures(a.opts.Images)
	return c, err
}

// message is what the user says next: the pictures that were added, and a text.
func (c *conversation) message(text string) tokenizer.Message {
	m := tokenizer.Message{Role: "user"}
	for range c.added {
		m.Content = append(m.Content, tokenizer.Part{Type: "image"})
	}
	m.Content = append(m.Content, tokenizer.Part{Type: "text", Text: text})
	return m
}

// ask prints the answer to a message as it is made, and remembers both. An answer that was stopped keeps what it said;
// one that failed leaves no trace.
func (c *conversation) ask(ctx context.Context, text string) error {
	a := c.app
	messages := append(c.messages[:len(c.messages):len(c.messages)], c.message(text))
	pictures := append(c.pictures[:len(c.pictures):len(c.pictures)], c.added...)
	c.added = nil
	prompt, media, err := c.render(messages, pictures)
	if err != nil {
		return err
	}
	r := engine.Request{Prompt: prompt, Media: media, MaxTokens: a.opts.MaxTokens}
	if r.Sampling, err = a.sampling(c.model.generation); err != nil {
		return err
	}
	result, err := c.model.engine.Generate(ctx, r, func(e engine.Event) error {
		_, err := fmt.Fprint(a.out, e.Text)
		return err
	})
	if result == nil {
		return err
	}
	fmt.Fprintln(a.out)
	if err == nil || ctx.Err() != nil {
		c.messages, c.pictures = append(messages, tokenizer.Text("assistant", result.Text)), pictures
	}
	if err == nil {
		a.timings(c.model, r.Sampling, result)
		if result.Finish == engine.FinishLength {
			a.note("(the answer was cut at %d tokens)", "（回答在 %d 个 token 处截断）", result.Generated)
		}
	}
	return err
}

// render is the prompt of messages with their pictures.
func (c *conversation) render(messages []tokenizer.Message, pictures []*engine.PictureFile) ([]int32, []engine.Media, error) {
	if c.system != "" {
		messages = append([]tokenizer.Message{tokenizer.Text("system", c.system)}, messages...)
	}
	ids, err := c.template.Render(tokenizer.Chat{Messages: messages})
	if err != nil {
		return nil, nil, failed(err, "the chat template failed", "对话模板出错")
	}
	if len(pictures) == 0 {
		return ids, nil, nil
	}
	reader, err := c.model.pictures()
	if err != nil {
		return nil, nil, err
	}
	ids, media, err := reader.Expand(ids, pictures)
	if err != nil {
		return nil, nil, failed(err, "the chat template does not give every picture its place", "对话模板没有给每张图片留位置")
	}
	return ids, media, nil
}
