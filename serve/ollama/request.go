package ollama

import (
	"encoding/base64"
	"math"
	"strings"
	"time"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

type request struct {
	completion.Request
	model  string
	stream bool
	chat   bool   // an answer has a message; otherwise a response
	load   string // there is nothing to answer, but this to say: the model is loaded, or unloaded
}

// common reads the fields that chat and generate share.
func common(v body.Value) *request {
	r := &request{model: v.Get("model").Text(""), stream: v.Get("stream").Bool(true)}
	r.Clamp = true
	o := v.Get("options")
	o.Object()
	r.rest(v, o)
	s := &r.Sampling
	s.Temperature = o.Get("temperature").Float(0, 100)
	s.TopP = o.Get("top_p").Float(0, 1)
	s.MinP = o.Get("min_p").Float(0, 1)
	s.RepetitionPenalty = o.Get("repeat_penalty").Float(0.01, 100)
	s.PresencePenalty = o.Get("presence_penalty").Float(-2, 2)
	s.FrequencyPenalty = o.Get("frequency_penalty").Float(-2, 2)
	if k := o.Get("top_k"); k.Is() {
		n := k.Int(0, -1, math.MaxInt32)
		s.TopK = &n
	}
	if seed := o.Get("seed"); seed.Is() {
		n := int64(seed.Int(0, math.MinInt64, math.MaxInt))
		s.Seed = &n
	}
	r.MaxTokens = max(0, o.Get("num_predict").Int(0, -2, math.MaxInt32)) // -1, -2: until the context is full
	r.Stop = o.Get("stop").Texts(64)
	for _, stop := range r.Stop {
		if stop == "" {
			o.Get("stop").Fail("停止字符串不能为空", "want stop strings that are not empty")
		}
	}
	switch format := v.Get("format"); {
	case format.IsObject():
		r.Format = completion.Format{Schema: format.Raw(), Param: "format"}
	case format.Text("") == "json":
		r.Format = completion.Format{JSON: true, Param: "format"}
	case format.Text("") != "":
		format.Fail("应为 json 或一个 JSON schema", "want json or a JSON schema")
	}
	return r
}

// rest reads what changes little or nothing here, but must make sense.
func (r *request) rest(v, o body.Value) {
	o.Get("num_ctx").Int(0, 0, math.MaxInt32)
	o.Get("num_keep").Int(0, -1, math.MaxInt32)
	o.Get("repeat_last_n").Int(0, -1, math.MaxInt32)
	r.load = "load"
	alive := v.Get("keep_alive")
	long, err := time.ParseDuration(textOf(alive))
	switch {
	case alive.IsNumber():
		if string(alive.Raw()) == "0" {
			r.load = "unload"
		}
	case alive.Is() && err != nil:
		alive.Fail("应为秒数，或 5m 这样的时间", "want a number of seconds, or a time such as 5m")
	case alive.Is() && long == 0:
		r.load = "unload"
	}
	switch think := v.Get("think"); {
	case think.IsText() && think.One("", "low", "medium", "high") != "", !think.IsText() && think.Bool(false):
		think.Fail("这个模型不会先思考再回答，应为 false", "this model does not think before it answers; want false")
	}
	r.LogProbs, r.Top = v.Get("logprobs").Bool(false), v.Get("top_logprobs").Int(0, 0, 20)
	if r.Top > 0 && !r.LogProbs {
		v.Get("top_logprobs").Fail("需要 logprobs 为 true", "want logprobs to be true as well")
	}
}

// textOf is a string, or "" where the value is something else.
func textOf(v body.Value) string {
	if v.IsText() {
		return v.Text("")
	}
	return ""
}

// images reads raw base64 pictures.
func images(v body.Value) (parts []completion.Part) {
	for _, item := range v.List() {
		file, err := base64.StdEncoding.DecodeString(item.Text(""))
		if err != nil || !item.IsText() {
			item.Fail("不是有效的 base64", "not valid base64")
		}
		parts = append(parts, completion.Part{Image: &completion.Image{Data: file}})
	}
	return parts
}

func readChat(v body.Value) (*request, error) {
	r := common(v)
	r.chat = true
	list := v.Get("messages")
	if len(list.List()) > 0 {
		r.load = ""
	}
	for _, item := range list.List() {
		if !item.IsObject() {
			item.Fail("应为对象", "want an object")
			break
		}
		role := item.Get("role")
		if !role.Is() {
			item.Missing("role")
		}
		m := completion.Message{Role: role.One("", "system", "user", "assistant", "tool"), Parts: images(item.Get("images"))}
		if text := item.Get("content").Text(""); text != "" || len(m.Parts) == 0 {
			m.Parts = append(m.Parts, completion.Part{Text: text})
		}
		for _, call := range item.Get("tool_calls").List() {
			if !call.Object() {
				continue
			}
			f := call.Get("function")
			f.Object()
			arguments := f.Get("arguments")
			arguments.Object()
			m.Calls = append(m.Calls, completion.Call{ID: call.Get("id").Text(""), Name: f.Get("name").Text(""), Arguments: string(arguments.Raw())})
		}
		r.Messages = append(r.Messages, m)
	}
	for _, item := range v.Get("tools").List() {
		if !item.IsObject() {
			item.Fail("应为对象", "want an object")
			break
		}
		f := item.Get("function")
		if !f.Is() {
			item.Missing("function")
		}
		f.Object()
		name, parameters := f.Get("name"), f.Get("parameters")
		if f.IsObject() && !name.Is() {
			f.Missing("name")
		}
		parameters.Object()
		r.Tools = append(r.Tools, completion.Tool{Name: name.Text(""), Parameters: parameters.Raw(), Definition: item.Raw()})
	}
	return r, v.Err()
}

func readGenerate(v body.Value) (*request, error) {
	r := common(v)
	prompt, raw := v.Get("prompt").Text(""), v.Get("raw").Bool(false)
	if prompt != "" {
		r.load = ""
	}
	if suffix := v.Get("suffix"); suffix.Text("") != "" {
		suffix.Fail("不支持在两段文字之间补写", "this model does not fill in between two texts")
	}
	if raw {
		r.Text, r.NoBOS = prompt, strings.HasPrefix(prompt, "<|begin_of_text|>")
		return r, v.Err()
	}
	if system := v.Get("system").Text(""); system != "" {
		r.Messages = append(r.Messages, completion.Text(completion.RoleSystem, system))
	}
	m := completion.Message{Role: completion.RoleUser, Parts: append(images(v.Get("images")), completion.Part{Text: prompt})}
	r.Messages = append(r.Messages, m)
	return r, v.Err()
}
