package main

import (
	"fmt"
	"time"

	"chulengo/engine"
)

// timings prints with --verbose what an answer took, in the lines that Ollama's users know.
func (a *app) timings(l *loaded, s engine.Sampling, r *engine.Result) {
	if !a.opts.Verbose || r == nil {
		return
	}
	t := r.Timings
	line := func(en, zh, value string) { fmt.Fprintf(a.err, "%-22s%s\n", a.say(en, zh)+a.say(":", "："), value) }
	rate := func(n int, d time.Duration) string {
		if d <= 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f tokens/s", float64(n)/d.Seconds())
	}
	fmt.Fprintln(a.err)
	line("total duration", "总时间", (t.Queue + t.Prefill + t.Decode).String())
	line("load duration", "加载时间", l.took.String())
	line("prompt eval count", "提示 token 数", fmt.Sprintf("%d token(s)", r.Prompt))
	line("prompt eval duration", "提示处理时间", t.Prefill.String())
	line("prompt eval rate", "提示处理速度", rate(r.Prompt, t.Prefill))
	line("eval count", "生成 token 数", fmt.Sprintf("%d token(s)", r.Generated))
	line("eval duration", "生成时间", t.Decode.String())
	line("eval rate", "生成速度", rate(r.Generated-1, t.Decode))
	if s.Temperature > 0 {
		line("seed", "随机种子", fmt.Sprint(s.Seed))
	}
	line("finish reason", "结束原因", a.term(string(r.Finish)))
}
