package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) tokenizeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tokenize [flags] [TEXT]",
		Short: a.say("Turn text into token ids and back", "文字与 token 编号互相转换"),
		Long: a.say("Print the tokens of a text (an argument, or standard input), one a line: id and piece. With --ids print the text of ids.",
			"逐行显示文字（参数或标准输入）的 token：编号与片段。使用 --ids 时显示编号对应的文字。"),
		Args: a.arguments(0, 1, "TEXT"),
	}
	a.addFlags(cmd.Flags(), modelOptions, []string{"ids", "special", "json"})
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		d, err := a.describeModel()
		if err != nil {
			return err
		}
		if err := d.needTokenizer(); err != nil {
			return err
		}
		return a.tokenize(d, args)
	}
	return cmd
}

// tokens is what tokenize --json prints.
type tokens struct {
	Text   string   `json:"text"`
	IDs    []int32  `json:"ids"`
	Pieces []string `json:"pieces"`
}

func (a *app) tokenize(d *described, args []string) error {
	var out tokens
	var err error
	if a.opts.IDs != "" {
		if len(args) > 0 {
			return usage("give either a text or --ids, not both", "文字与 --ids 只能选一个")
		}
		if out.IDs, err = parseIDs("--ids", a.opts.IDs, d.tokenizer.VocabSize()); err != nil {
			return err
		}
		out.Text = d.tokenizer.Decode(out.IDs)
	} else {
		text, got, err := a.text(args)
		if err != nil {
			return err
		}
		if !got {
			return usage("tokenize: TEXT is missing", "tokenize：缺少文字")
		}
		out.Text, out.IDs = text, orEmpty(a.encode(d, text))
	}
	out.Pieces = make([]string, len(out.IDs))
	for i, id := range out.IDs {
		out.Pieces[i] = d.tokenizer.Name(id)
	}
	switch {
	case a.opts.JSON:
		return a.printJSON(out)
	case a.opts.IDs != "":
		return a.print(out.Text)
	}
	for i, id := range out.IDs {
		if _, err := fmt.Fprintf(a.out, "%7d  %s\n", id, out.Pieces[i]); err != nil {
			return err
		}
	}
	return nil
}
