package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"chulengo/engine"
)

func (a *app) generateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "generate [flags] [PROMPT]",
		Short: a.say("Continue a raw prompt or token ids", "续写原始文字或 token 编号"),
		Long: a.say(`Continue a prompt as it is, without a chat format. The prompt is the argument, or standard input.

A begin-of-text token is put before a text, unless the text begins with its name or --no-bos is given; token ids of
--prompt-ids are taken as they are, and work for checkpoints without a tokenizer. Pictures of --image come first.`,
			`按原样续写提示，不套用对话格式。提示来自参数或标准输入。

文字之前会加一个开始 token，除非文字以它的名称开头或使用了 --no-bos；--prompt-ids 的编号按原样使用，没有分词器的模型也可以。
--image 的图片放在最前面。`),
		Args: a.arguments(0, 1, "PROMPT"),
	}
	a.addFlags(cmd.Flags(), deviceOptions, samplingOptions,
		[]string{"image", "max-tokens", "prompt-ids", "no-bos", "special", "ignore-eos", "json", "trace", "capture", "trace-limit"})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		prompt, err := a.rawPrompt(args)
		if err != nil {
			return err
		}
		return a.withModel(func(ctx context.Context, l *loaded) error { return a.generate(ctx, l, prompt) })(cmd, args)
	}
	return cmd
}

// rawPrompt is the text to continue; "" with --prompt-ids. It is read before the model, so that mistakes show at once.
func (a *app) rawPrompt(args []string) (string, error) {
	if a.opts.Trace == "" && len(a.opts.Capture) > 0 {
		return "", usage("--capture needs --trace FILE to write to", "--capture 需要用 --trace 指定写入的文件")
	}
	if a.opts.Trace != "" && len(a.opts.Capture) == 0 {
		return "", usage("--trace needs --capture GLOB: what to write (chulengo hooks lists the names)", "--trace 需要用 --capture 指定捕获内容（chulengo hooks 列出名称）")
	}
	if dir := filepath.Dir(a.opts.Trace); a.opts.Trace != "" {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return "", usage("--trace: there is no folder %s", "--trace：没有 %s 这个目录", dir)
		}
	}
	if a.opts.PromptIDs != "" {
		if len(args) > 0 {
			return "", usage("give either a text or --prompt-ids, not both", "文字与 --prompt-ids 只能选一个")
		}
		return "", nil
	}
	text, got, err := a.text(args)
	if err == nil && !got {
		err = usage("generate: PROMPT is missing", "generate：缺少提示文字")
	}
	return text, err
}

// generate continues the prompt and prints the answer.
func (a *app) generate(ctx context.Context, l *loaded, prompt string) error {
	ids, err := a.rawIDs(l.described, prompt)
	if err != nil {
		return err
	}
	files, err := l.readPictures(a.opts.Images)
	if err != nil {
		return err
	}
	var media []engine.Media
	if len(files) > 0 {
		reader, err := l.pictures()
		if err != nil {
			return err
		}
		if ids, media, err = reader.Put(ids, l.tokenizer.BOS(), files); err != nil {
			return err
		}
	}
	r := engine.Request{Prompt: ids, Media: media, MaxTokens: a.opts.MaxTokens, IgnoreEOS: a.opts.IgnoreEOS, LogProbs: a.opts.JSON}
	if r.Sampling, err = a.sampling(l.generation); err != nil {
		return err
	}
	if r.MaxTokens == 0 {
		r.MaxTokens = max(1, min(generateTokens, l.engine.Context()-len(ids)))
	}
	var t *trace
	if a.opts.Trace != "" {
		if t, err = a.newTrace(l, &r); err != nil {
			return err
		}
	}
	var pieces strings.Builder
	result, err := l.engine.Generate(ctx, r, func(e engine.Event) error {
		piece := e.Text
		if l.tokenizer == nil {
			if piece = fmt.Sprint(e.ID); pieces.Len() > 0 {
				piece = "," + piece
			}
		}
		pieces.WriteString(piece)
		if a.opts.JSON {
			return nil
		}
		_, err := fmt.Fprint(a.out, piece)
		return err
	})
	if !a.opts.JSON && result != nil {
		fmt.Fprintln(a.out)
	}
	if err != nil {
		return err
	}
	if t != nil {
		if err := t.write(a.opts.Trace, result); err != nil {
			return err
		}
		a.note("wrote %s: %d hooks, %d tokens", "已写入 %s：%d 个钩子，%d 个 token", a.opts.Trace, len(t.hooks), t.tokens())
	}
	if a.opts.JSON {
		if err := a.printJSON(generated{ids, orEmpty(result.IDs), result.Text, orEmpty(result.LogProbs)}); err != nil {
			return err
		}
	}
	a.timings(l, r.Sampling, result)
	return nil
}

// generated is what --json prints.
type generated struct {
	PromptIDs []int32   `json:"prompt_ids"`
	IDs       []int32   `json:"ids"`
	Text      string    `json:"text"`
	LogProbs  []float32 `json:"logprobs"` // natural logarithm of each chosen token's probability
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// rawIDs are the ids of a raw prompt, begin-of-text included.
func (a *app) rawIDs(d *described, text string) ([]int32, error) {
	if a.opts.PromptIDs != "" {
		return parseIDs("--prompt-ids", a.opts.PromptIDs, d.config.Vocab)
	}
	if err := d.needTokenizer(); err != nil {
		return nil, err
	}
	t := d.tokenizer
	var ids []int32
	if bos := t.BOS(); bos >= 0 {
		rest, named := strings.CutPrefix(text, t.Name(bos))
		if named {
			text = rest
		}
		if named || !a.opts.NoBOS {
			ids = append(ids, bos)
		}
	}
	ids = append(ids, a.encode(d, text)...)
	if len(ids) == 0 {
		return nil, usage("the prompt is empty", "提示为空")
	}
	return ids, nil
}

// encode turns a text into ids, special tokens only with --special.
func (a *app) encode(d *described, text string) []int32 {
	if a.opts.Special {
		return d.tokenizer.EncodeAllowing(text, func(string, int32) bool { return true })
	}
	return d.tokenizer.Encode(text)
}
