package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2"
	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

// Bounds of one rendering.
const (
	maxRendered = 16 << 20 // bytes of output
	maxTime     = 10 * time.Second
)

// JinjaTemplate reads a chat template in the Jinja language, as checkpoints bring it, with the functions that
// transformers adds (raise_exception, strftime_now, and tojson as Python's json.dumps). The language is gonja's, which
// differs from Python's in places; what it cannot do is an error.
//
// Text of messages cannot become special tokens: a private-use character is set into whatever in it could be a part
// of a special token's name, and is taken out after rendering. A rendering is bounded in time and size; a template that
// loops without writing anything keeps its goroutine, so templates must come from whoever runs the server.
func (t *Tokenizer) JinjaTemplate(source string) (template ChatTemplate, err error) {
	defer func() {
		if p := recover(); p != nil {
			template, err = nil, fmt.Errorf("tokenizer: chat template: gonja failed: %v", p)
		}
	}()
	for name := range t.special {
		if !strings.HasPrefix(name, "<|") || !strings.HasSuffix(name, "|>") {
			return nil, fmt.Errorf("tokenizer: chat template: special token %q: only names like <|…|> can be kept apart from text", name)
		}
	}
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	if err := filters.Replace("tojson", toJSONFilter); err != nil {
		return nil, fmt.Errorf("tokenizer: chat template: %w", err)
	}
	loader, err := loaders.NewMemoryLoader(map[string]string{"/template": source})
	if err != nil {
		return nil, fmt.Errorf("tokenizer: chat template: %w", err)
	}
	settings := config.New()
	settings.TrimBlocks, settings.LeftStripBlocks = true, true // as transformers sets them
	compiled, err := exec.NewTemplate("/template", settings, loader, &exec.Environment{
		Context: exec.EmptyContext().Update(gonja.DefaultContext), Filters: filters, Tests: builtins.Tests,
		ControlStructures: builtins.ControlStructures, Methods: builtins.Methods,
	})
	if err != nil {
		// gonja repeats the whole template in front of the cause
		return nil, fmt.Errorf("tokenizer: chat template: %s", strings.ReplaceAll(err.Error(), source, "…"))
	}
	return &jinjaChat{t: t, source: source, compiled: compiled}, nil
}

type jinjaChat struct {
	t        *Tokenizer
	source   string
	compiled *exec.Template
}

// Render implements ChatTemplate.
func (j *jinjaChat) Render(c Chat) ([]int32, error) {
	p, err := j.render(c)
	if err != nil {
		return nil, err
	}
	return p.ids(j.t)
}

// Text implements ChatTemplate.
func (j *jinjaChat) Text(c Chat) (string, error) {
	p, err := j.render(c)
	return p.String(), err
}

func (j *jinjaChat) render(c Chat) (prompt, error) {
	guard, err := j.guard(c)
	if err != nil {
		return nil, err
	}
	data, err := j.context(c, guard)
	if err != nil {
		return nil, err
	}
	text, err := j.execute(data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: chat template: %w", err)
	}
	var p prompt
	bos := ""
	if j.t.bos >= 0 {
		bos = j.t.Name(j.t.bos)
		p.special(bos)
	}
	j.t.cut(text, func(string, int32) bool { return true }, func(start, end int, id int32) {
		switch part := text[start:end]; {
		case id < 0 || !j.t.IsSpecial(id):
			p.write(strings.ReplaceAll(part, guard, ""))
		case id != j.t.bos:
			p.special(part)
		case len(p) > 1:
			err = fmt.Errorf("tokenizer: chat template: it writes %s behind other text", bos)
		}
	})
	return p, err
}

// guard returns a private-use character that occurs nowhere in the chat or the template.
func (j *jinjaChat) guard(c Chat) (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("tokenizer: chat: %w", err)
	}
	for r := rune(0x100000); r < 0x10FFFE; r++ {
		// Arguments and tools may write it as an escape, too: surrogates in JSON.
		high, low := 0xD800+(r-0x10000)>>10, 0xDC00+(r-0x10000)&0x3ff
		escape := fmt.Sprintf(`\u%04x\u%04x`, high, low)
		if !strings.ContainsRune(string(text), r) && !strings.ContainsRune(j.source, r) && !strings.Contains(strings.ToLower(string(text)), escape) {
			return string(r), nil
		}
	}
	return "", errors.New("tokenizer: chat: the text uses every private-use character")
}

// apart keeps text from being, or completing, a special token's name.
func apart(s, guard string) string {
	s = strings.ReplaceAll(s, "<|", "<"+guard+"|")
	s = strings.ReplaceAll(s, "|>", "|"+guard+">")
	if trimmed := strings.TrimRightFunc(s, pythonSpace); strings.HasSuffix(trimmed, "<") {
		s = trimmed + guard + s[len(trimmed):]
	}
	if trimmed := strings.TrimLeftFunc(s, pythonSpace); strings.HasPrefix(trimmed, "|") || strings.HasPrefix(trimmed, ">") {
		s = s[:len(s)-len(trimmed)] + guard + trimmed
	}
	return s
}

// context makes the template's variables; every string in them is kept apart from special tokens.
func (j *jinjaChat) context(c Chat, guard string) (*exec.Context, error) {
	value := func(raw json.RawMessage) (any, error) {
		v, err := parseOrdered(raw)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: chat: %w", err)
		}
		return jinjaValue(v, guard), nil
	}
	messages := []any{}
	for _, m := range c.Messages {
		d := exec.NewDict()
		set(d, "role", apart(m.Role, guard))
		switch {
		case len(m.Result) > 0:
			v, err := value(m.Result)
			if err != nil {
				return nil, err
			}
			set(d, "content", v)
		case len(m.Content) == 1 && m.Content[0].Type == "text":
			set(d, "content", apart(m.Content[0].Text, guard))
		case len(m.Content) == 0:
			set(d, "content", "")
		default:
			parts := []any{}
			for _, part := range m.Content {
				p := exec.NewDict()
				set(p, "type", apart(part.Type, guard))
				if part.Type == "text" {
					set(p, "text", apart(part.Text, guard))
				}
				parts = append(parts, p)
			}
			set(d, "content", parts)
		}
		if m.HasToolCalls || len(m.ToolCalls) > 0 {
			calls := []any{}
			for _, call := range m.ToolCalls {
				arguments, err := value(call.Arguments)
				if err != nil {
					return nil, err
				}
				function, outer := exec.NewDict(), exec.NewDict()
				set(function, "name", apart(call.Name, guard))
				set(function, "arguments", arguments)
				set(outer, "type", "function")
				set(outer, "function", function)
				calls = append(calls, outer)
			}
			set(d, "tool_calls", calls)
		}
		messages = append(messages, d)
	}
	variables := map[string]any{
		"messages": messages, "add_generation_prompt": !c.NoGenerationPrompt,
		"raise_exception": func(message string) (string, error) { return "", errors.New(message) },
		"strftime_now":    func(format string) string { return strftime(time.Now(), format) },
		"bos_token":       "",
	}
	if j.t.bos >= 0 {
		variables["bos_token"] = j.t.Name(j.t.bos)
	}
	if len(c.Tools) > 0 {
		tools := []any{}
		for _, raw := range c.Tools {
			v, err := value(raw)
			if err != nil {
				return nil, err
			}
			tools = append(tools, v)
		}
		variables["tools"] = tools
	}
	return exec.NewContext(variables), nil
}

func set(d *exec.Dict, key string, v any) {
	d.Pairs = append(d.Pairs, &exec.Pair{Key: exec.AsValue(key), Value: exec.AsValue(v)})
}

// jinjaValue turns a JSON value into what gonja works with; objects keep their order.
func jinjaValue(v any, guard string) any {
	switch v := v.(type) {
	case string:
		return apart(v, guard)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int(n)
		}
		f, _ := v.Float64()
		return f
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = jinjaValue(v[i], guard)
		}
		return list
	case *jsonObject:
		d := exec.NewDict()
		for _, key := range v.keys {
			set(d, apart(key, guard), jinjaValue(v.values[key], guard))
		}
		return d
	}
	return v
}

// fromJinja is the way back, for tojson.
func fromJinja(v *exec.Value) any {
	switch {
	case v.IsNil():
		return nil
	case v.IsBool():
		return v.Bool()
	case v.IsString():
		return v.String()
	case v.IsInteger():
		return json.Number(fmt.Sprint(v.Integer()))
	case v.IsFloat():
		return json.Number(pythonFloat(v.Float()))
	case v.IsDict():
		object := &jsonObject{values: map[string]any{}}
		v.Iterate(func(_, _ int, key, value *exec.Value) bool {
			object.keys = append(object.keys, key.String())
			object.values[key.String()] = fromJinja(value)
			return true
		}, func() {})
		return object
	case v.IsList():
		list := []any{}
		v.Iterate(func(_, _ int, item, _ *exec.Value) bool {
			list = append(list, fromJinja(item))
			return true
		}, func() {})
		return list
	}
	return v.String()
}

func toJSONFilter(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := 0
	for name, v := range params.KwArgs {
		if name == "indent" && v.IsInteger() {
			indent = min(max(v.Integer(), 0), 16)
		}
	}
	var out strings.Builder
	writePython(&out, fromJinja(in), indent, "\n")
	return exec.AsSafeValue(out.String())
}

// boundedWriter fails once too much was written or the time is over.
type boundedWriter struct {
	text strings.Builder
	end  time.Time
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	if w.text.Len()+len(p) > maxRendered {
		return 0, fmt.Errorf("the rendered text is longer than %d bytes", maxRendered)
	}
	if time.Now().After(w.end) {
		return 0, fmt.Errorf("rendering took longer than %v", maxTime)
	}
	return w.text.Write(p)
}

func (j *jinjaChat) execute(data *exec.Context) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("gonja failed: %v", p)
			}
			done <- r
		}()
		w := &boundedWriter{end: time.Now().Add(maxTime)}
		r.err = j.compiled.Execute(io.Writer(w), data)
		r.text = w.text.String()
	}()
	timeout := time.NewTimer(maxTime)
	defer timeout.Stop()
	select {
	case r := <-done:
		return r.text, r.err
	case <-timeout.C:
		return "", fmt.Errorf("rendering took longer than %v", maxTime)
	}
}

// strftime formats a time as Python's strftime does, for the directives that templates use.
func strftime(at time.Time, format string) string {
	layouts := map[byte]string{'d': "02", 'b': "Jan", 'B': "January", 'Y': "2006", 'y': "06", 'm': "01", 'H': "15",
		'M': "04", 'S': "05", 'A': "Monday", 'a': "Mon", 'I': "03", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700"}
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		if layout, ok := layouts[format[i]]; ok {
			out.WriteString(at.Format(layout))
		} else if format[i] == '%' {
			out.WriteByte('%')
		} else {
			out.WriteString("%" + format[i:i+1])
		}
	}
	return out.String()
}
