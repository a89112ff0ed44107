package openai

import (
	"math"
	"strconv"

	"chulengo/serve/internal/body"
	"chulengo/serve/internal/completion"
)

// Bounds of what clients may ask for.
const (
	mostChoices   = 128
	mostTop       = 20 // alternatives of a token
	mostStops     = 64
	mostBias      = 1024 // ids
	highestTemp   = 100.0
	highestRepeat = 100.0
)

// sampling reads the fields that chats and completions have in common. least is the smallest number of tokens that an
// answer may have.
func sampling(v body.Value, r *completion.Request, least int) {
	s := &r.Sampling
	s.Temperature = v.Get("temperature").Float(0, highestTemp)
	s.TopP = v.Get("top_p").Float(0, 1)
	s.MinP = v.Get("min_p").Float(0, 1)
	s.RepetitionPenalty = v.First("repetition_penalty", "repeat_penalty").Float(1/highestRepeat, highestRepeat)
	s.PresencePenalty = v.Get("presence_penalty").Float(-2, 2)
	s.FrequencyPenalty = v.Get("frequency_penalty").Float(-2, 2)
	if k := v.Get("top_k"); k.Is() {
		all := k.Int(0, -1, math.MaxInt32)
		s.TopK = &all
	}
	if seed := v.Get("seed"); seed.Is() {
		// -1 is llama-server's word for a fresh one.
		if n := int64(seed.Int(-1, math.MinInt64, math.MaxInt)); n != -1 {
			s.Seed = &n
		}
	}
	s.LogitBias = bias(v.Get("logit_bias"))

	r.MaxTokens = maxTokens(v, least)
	r.MinTokens = v.Get("min_tokens").Int(0, 0, math.MaxInt32)
	stop := v.Get("stop")
	r.Stop = stop.Texts(mostStops)
	for i, text := range r.Stop {
		if text == "" {
			if stop.IsList() {
				stop = stop.List()[i]
			}
			stop.Fail("停止字符串不能为空", "want a stop string that is not empty")
		}
	}
	r.StopIDs = v.Get("stop_token_ids").IDs(mostBias)
	r.IgnoreEOS = v.Get("ignore_eos").Bool(false)
	r.KeepStop = v.Get("include_stop_str_in_output").Bool(false)
	r.Specials = !v.Get("skip_special_tokens").Bool(true)
	r.Choices = v.Get("n").Int(1, 1, mostChoices)
	if n := v.Get("prompt_logprobs"); n.Is() {
		r.PromptLogProbs, r.PromptTop = true, n.Int(0, 0, mostTop)
	}
	r.CacheSalt = v.Get("cache_salt").Text("")
	r.NoCache = !v.Get("cache_prompt").Bool(true)
	r.Progress = v.Get("return_progress").Bool(false)
}

// maxTokens is the longest answer; 0: none was named.
func maxTokens(v body.Value, least int) int {
	tokens := v.First("max_completion_tokens", "max_tokens")
	if predict := v.Get("n_predict"); !tokens.Is() && predict.Is() {
		return max(0, predict.Int(0, -2, math.MaxInt32)) // llama-server: -1 is without bound, -2 to the context's end
	}
	return tokens.Int(0, least, math.MaxInt32)
}

// bias reads {"<id>": bias}.
func bias(v body.Value) map[int32]float32 {
	names, values := v.Fields()
	if len(names) > mostBias {
		v.Fail("最多 %d 项，实际有 %d 项", "want at most %d items, got %d", mostBias, len(names))
		return nil
	}
	var out map[int32]float32
	for i, name := range names {
		id, err := strconv.ParseInt(name, 10, 32)
		if err != nil || id < 0 {
			values[i].Fail("字段名应为 token 编号", "want a token id as the name")
			return nil
		}
		if b := values[i].Float(-100, 100); b != nil {
			if out == nil {
				out = map[int32]float32{}
			}
			out[int32(id)] = float32(*b)
		}
	}
	return out
}

// format reads what restricts an answer: response_format, and the fields of vLLM and llama-server that do the same.
func format(v body.Value, r *completion.Request) {
	f := &r.Format
	claim := func(field body.Value) bool {
		if !field.Is() {
			return false
		}
		if f.Param != "" {
			field.Fail("与 %s 不能同时使用", "cannot be combined with %s", f.Param)
			return false
		}
		f.Param = field.Path()
		return true
	}
	schema := func(field body.Value) {
		if !field.IsObject() && !isBool(field) {
			field.Object()
			return
		}
		if claim(field) {
			f.Schema = field.Raw()
		}
	}
	if format := v.Get("response_format"); format.Object() {
		kind := format.Get("type")
		if !kind.Is() {
			format.Missing("type")
		}
		switch kind.One("", "text", "json_object", "json_schema") {
		case "json_object":
			if given := format.Get("schema"); given.Is() { // llama-server's
				schema(given)
			} else if claim(kind) {
				f.JSON = true
			}
		case "json_schema":
			inside := format.Get("json_schema")
			if !inside.Is() {
				format.Missing("json_schema")
			}
			inside.Object()
			given := inside.Get("schema")
			if inside.IsObject() && !given.Is() {
				inside.Missing("schema")
			}
			inside.Get("name").Text("")
			inside.Get("strict").Bool(false) // the schema is always kept
			schema(given)
		}
	}
	structured := v.Get("structured_outputs")
	structured.Object()
	schema(v.First("guided_json", "json_schema"))
	schema(structured.Get("json"))
	for _, field := range []body.Value{v.First("regex", "guided_regex"), structured.Get("regex")} {
		if s := field.Text(""); s != "" && claim(field) {
			f.Regex = s
		}
	}
	for _, field := range []body.Value{v.First("grammar", "guided_grammar"), structured.Get("grammar")} {
		if s := field.Text(""); s != "" && claim(field) {
			f.EBNF = s
		}
	}
	if structured.Get("json_object").Bool(false) && claim(structured.Get("json_object")) {
		f.JSON = true
	}
}

// isBool says whether a value is true or false, which are schemas as well.
func isBool(v body.Value) bool {
	raw := string(v.Raw())
	return raw == "true" || raw == "false"
}

// streaming are a request's wishes for its stream.
type streaming struct {
	on         bool
	usage      bool // a last chunk with the usage
	continuous bool // and the usage so far on every chunk
}

func stream(v body.Value) streaming {
	s := streaming{on: v.Get("stream").Bool(false)}
	if o := v.Get("stream_options"); o.Object() {
		s.continuous = o.Get("continuous_usage_stats").Bool(false)
		s.usage = o.Get("include_usage").Bool(false) || s.continuous
	}
	return s
}
