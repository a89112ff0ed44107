package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// text is the input of a command: its arguments, or standard input where there are none or the only one is "-". One
// line end at the end of standard input is the pipe's, not the text's. got is false when nobody gave any and standard
// input is a terminal.
func (a *app) text(args []string) (text string, got bool, err error) {
	if len(args) > 0 && !(len(args) == 1 && args[0] == "-") {
		return strings.Join(args, " "), true, nil
	}
	if terminal(a.in) && len(args) == 0 {
		return "", false, nil
	}
	data, err := io.ReadAll(a.in)
	if err != nil {
		return "", false, failed(err, "cannot read standard input", "无法读取标准输入")
	}
	if !utf8.Valid(data) {
		return "", false, failed(nil, "standard input is not UTF-8", "标准输入不是 UTF-8 文字")
	}
	text = string(data)
	if t, ok := strings.CutSuffix(text, "\n"); ok {
		text = strings.TrimSuffix(t, "\r")
	}
	return text, true, nil
}
