package tokenizer

import (
	"encoding/json"
	"errors"
	"hash/fnv"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"

	"github.com/nlpodyssey/gotokenizers/strutils"
)

// edited returns the demo's tokenizer.json after edit.
func edited(t *testing.T, edit func(file map[string]any)) fs.FS {
	t.Helper()
	var file map[string]any
	readJSON(t, "../demo/checkpoint/tokenizer.json", &file)
	edit(file)
	text, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"tokenizer.json": {Data: text}}
}

func model(file map[string]any) map[string]any { return file["model"].(map[string]any) }

// Merges may be strings; ids may stand in another order than merges; merging by the list then decides.
func TestFileVariants(t *testing.T) {
	text := randomText(5, 20_000) + strings.Repeat(hanSample, 20) + "The capital of France is Paris. "
	want := demo(t).Encode(text)
	joined := load(t, edited(t, func(file map[string]any) {
		list := model(file)["merges"].([]any)
		for i, pair := range list {
			list[i] = pair.([]any)[0].(string) + " " + pair.([]any)[1].(string)
		}
	}), Options{})
	if got := joined.Encode(text); !slices.Equal(got, want) {
		t.Error("merges as strings give other ids")
	}
	const n = 6125
	reversed := load(t, edited(t, func(file map[string]any) {
		vocab := model(file)["vocab"].(map[string]any)
		if len(vocab) != n {
			t.Fatalf("%d tokens", len(vocab))
		}
		for token, id := range vocab {
			vocab[token] = n - 1 - int(id.(float64))
		}
	}), Options{})
	got := reversed.Encode(text)
	for i := range got {
		got[i] = n - 1 - got[i]
	}
	if !slices.Equal(got, want) {
		t.Error("reversed ids give other tokens")
	}
	if s := reversed.Decode(reversed.Encode(hanSample)); s != hanSample {
		t.Errorf("got %q", s)
	}
}

func TestLoadErrors(t *testing.T) {
	if _, err := Load(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	for want, edit := range map[string]func(map[string]any){
		"split pattern is not Llama 4's": func(f map[string]any) {
			f["pre_tokenizer"].(map[string]any)["pretokenizers"].([]any)[0].(map[string]any)["pattern"] = map[string]string{"Regex": `\w+`}
		},
		"normalizer":                  func(f map[string]any) { f["normalizer"] = map[string]string{"type": "NFC"} },
		"type \"WordPiece\"":          func(f map[string]any) { model(f)["type"] = "WordPiece" },
		"byte_fallback":               func(f map[string]any) { model(f)["byte_fallback"] = true },
		"dropout":                     func(f map[string]any) { model(f)["dropout"] = 0.1 },
		"merges is missing":           func(f map[string]any) { delete(model(f), "merges") },
		"vocab is missing":            func(f map[string]any) { delete(model(f), "vocab") },
		"not in the vocabulary":       func(f map[string]any) { delete(model(f)["vocab"].(map[string]any), "er") },
		"is not a token":              func(f map[string]any) { delete(model(f)["vocab"].(map[string]any), "!") },
		"have the id":                 func(f map[string]any) { model(f)["vocab"].(map[string]any)["er"] = 5 },
		"has 3 parts":                 func(f map[string]any) { model(f)["merges"].([]any)[3] = []string{"a", "b", "c"} },
		"two tokens with a space":     func(f map[string]any) { model(f)["merges"].([]any)[3] = "ab" },
		"stands for no byte":          func(f map[string]any) { model(f)["vocab"].(map[string]any)["中"] = 9999 },
		"lstrip":                      func(f map[string]any) { f["added_tokens"].([]any)[0].(map[string]any)["lstrip"] = true },
		"in the vocabulary":           func(f map[string]any) { f["added_tokens"].([]any)[0].(map[string]any)["id"] = 7 },
		"only the sequence of Split":  func(f map[string]any) { delete(f, "pre_tokenizer") },
		"decoder: type \"WordPiece\"": func(f map[string]any) { f["decoder"] = map[string]string{"type": "WordPiece"} },
	} {
		if _, err := Load(edited(t, edit)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "tokenizer.json") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for text, want := range map[string]string{"": "ends", "[]": "'{'", `{"model": 3}`: "object", `{"model": {"vocab": {"a": -1}}}`: "token id",
		`{"model": {"vocab": {"a`: "end of a string", "{} x": "end of the file"} {
		if _, err := Load(fstest.MapFS{"tokenizer.json": {Data: []byte(text)}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{"": "byte 0x00 is not a token", "AA== 1": "want 0", "AA==": "line 1", "?? 0": "base64", "AA== x": "not a number"} {
		if _, err := Load(fstest.MapFS{"tokenizer.model": {Data: []byte(text)}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	text, err := os.ReadFile("../demo/checkpoint/tokenizer.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text[:3000])
	f.Add([]byte(`{"model": {"vocab": {"a": 0, "\u0120": 1}, "merges": [["a", "b"], "a b"]}, "added_tokens": []}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if tok, err := Load(fstest.MapFS{"tokenizer.json": {Data: text}}); (tok == nil) == (err == nil) {
			t.Errorf("got %v, %v", tok, err)
		}
		if tok, err := Load(fstest.MapFS{"tokenizer.model": {Data: text}}); (tok == nil) == (err == nil) {
			t.Errorf("got %v, %v", tok, err)
		}
	})
}

// The generated table is the reference's: the checksum pins it, and most code points agree with Go's.
func TestClasses(t *testing.T) {
	table := classes()
	if len(table.pages) > 255 {
		t.Fatalf("%d different pages do not fit a byte", len(table.pages))
	}
	differ := 0
	sum := fnv.New64a()
	for r := rune(0); r <= unicode.MaxRune; r++ {
		c := table.pages[table.page[r>>8]][r&0xff]
		var want class
		if unicode.In(r, unicode.Lu, unicode.Lt, unicode.Lm, unicode.Lo, unicode.M) {
			want |= upper
		}
		if unicode.In(r, unicode.Ll, unicode.Lm, unicode.Lo, unicode.M) {
			want |= lower
		}
		if unicode.Is(unicode.N, r) {
			want |= number
		}
		if unicode.Is(unicode.White_Space, r) {
			want |= space
		}
		if r == '\r' || r == '\n' {
			want |= newline
		}
		if unicode.IsLetter(r) {
			want |= letter
		}
		if c != want {
			differ++
		}
		sum.Write([]byte{byte(c)})
	}
	// Go's tables are of another version of Unicode: a few thousand code points differ, and never most.
	if differ > 20_000 {
		t.Errorf("%d code points differ from Go's classes", differ)
	}
	if got := sum.Sum64(); got != 0xb8c961f20db8459c {
		t.Errorf("the classes have the checksum %#x: run internal/gen/classes.py, and pin what it gives", got)
	}
	for r, want := range map[rune]class{0x13461: upper | lower | letter, 0x2EBF1: upper | lower | letter, 0x17F: lower | letter, 0x1C5: upper | letter,
		0x301: upper | lower, 0x2160: number, 0x3000: space, '\n': space | newline, 0x85: space, 0x200B: 0, 0xFFFD: 0} {
		if c, _ := table.at(string(r), 0); c != want {
			t.Errorf("%U: class %b, want %b", r, c, want)
		}
	}
}

func TestSplitter(t *testing.T) {
	for text, want := range map[string]string{
		"Hello, world!":      "Hello|,| world|!",
		"I'll we'Re don'ſ x": "I'll| we'Re| don'ſ| x",
		"a  b \n c   ":       "a| | b| \n| c|   ",
		"12345 6":            "123|45| |6",
		"a//\n/x":            "a|//\n/|x",
		"CamelCaseHTML":      "Camel|Case|HTML",
		"\u0301a \u0301":     "\u0301a| \u0301",
	} {
		captures, err := Splitter{}.FindMatches(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range captures {
			got = append(got, text[c.Offsets.Start:c.Offsets.End])
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestEncoding(t *testing.T) {
	tok := demo(t)
	text := "What is 世界?<|eot|> 🦙"
	e := tok.Encoding(text, allSpecials)
	ids := tok.EncodeAllowing(text, allSpecials)
	at := 0
	for i, id := range e.IDs {
		if int32(id) != ids[i] || (e.SpecialTokensMask[i] == 1) != tok.IsSpecial(ids[i]) || e.Offsets[i].Start != at {
			t.Errorf("token %d: %+v", i, e)
		}
		at = e.Offsets[i].End
	}
	if at != len(text) || len(ids) != len(e.IDs) {
		t.Errorf("offsets end at %d of %d", at, len(text))
	}
	for _, o := range []Options{{}, {Engine: GoTokenizers}} {
		tokens, err := load(t, demoDir, o).Model().Tokenize(byteLevel(" world"))
		if err != nil || len(tokens) == 0 || tokens[0].Offsets != (strutils.ByteOffsets{End: len(tokens[0].Value)}) {
			t.Errorf("engine %d: got %+v, %v", o.Engine, tokens, err)
		}
	}
}

// Where the reference's template has corners (an empty list of calls, results that are text, several calls).
func TestTemplateCorners(t *testing.T) {
	const begin, end = "<|begin_of_text|>", "<|header_start|>assistant<|header_end|>\n\n"
	user := "<|header_start|>user<|header_end|>\n\nq<|eot|>"
	for in, want := range map[string]string{
		`[{"role":"assistant","content":"x","tool_calls":[]}]`:                       begin + end,
		`[{"role":"user","content":"q"},{"role":"tool","content":"a \"é\" <&' "}]`:   begin + user + "<|header_start|>ipython<|header_end|>\n\n\"a \\\"é\\\" <&' \"<|eot|>" + end,
		`[{"role":"user","content":"q"},{"role":"tool","content":[1,1.0,{"b":[]}]}]`: begin + user + "<|header_start|>ipython<|header_end|>\n\n[1, 1.0, {\"b\": []}]<|eot|>" + end,
		`[{"role":"user","content":"q"},{"role":"system","content":" late "}]`:       begin + user + "<|header_start|>system<|header_end|>\n\n late <|eot|>" + end,
		`[{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"text","text":"h"},{"type":"image"}],"tool_calls":[{"function":{"name":"f","arguments":{"é":"<a>","x":1e20}}},{"function":{"name":"g","arguments":"{}"}}]}]`: begin + user + end + "<|python_start|>h<|image|><|python_end|>{\"name\": \"f\", \"parameters\": {\"é\": \"<a>\", \"x\": 1e+20}}{\"name\": \"g\", \"parameters\": \"{}\"}<|eot|>" + end,
	} {
		var c Chat
		if err := json.Unmarshal([]byte(in), &c.Messages); err != nil {
			t.Fatal(err)
		}
		if got, err := demo(t).NativeTemplate().Text(c); err != nil || got != want {
			t.Errorf("%s:\ngot  %q (%v)\nwant %q", in, got, err, want)
		}
	}
	for _, c := range []Chat{{}, {Messages: []Message{Text("system", "s")}, Tools: []json.RawMessage{[]byte("{}")}},
		{Messages: []Message{{Role: "user", Content: []Part{{Type: "audio"}}}}}} {
		if got, err := demo(t).NativeTemplate().Text(c); err == nil || got != "" {
			t.Errorf("%+v: got %q, want an error", c, got)
		}
	}
}

func TestPythonJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":[],"c":{}}`: `{"b": 1, "a": [], "c": {}}`, `"<é>&'\u0001\n/"`: `"<é>&'\u0001\n/"`, `[1e20, 1.0, 0.00001, 1E3, -0, 123456789012345678901234567890]`: `[1e+20, 1.0, 1e-05, 1000.0, 0, 123456789012345678901234567890]`,
		`{"a":1,"b":2,"a":3}`: `{"a": 3, "b": 2}`, `[null,true,false]`: `[null, true, false]`,
	} {
		if got, err := pythonJSON([]byte(in), 0); err != nil || got != want {
			t.Errorf("%s: got %s (%v), want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "{", "[1", "1 2", strings.Repeat("[", 2000)} {
		if got, err := pythonJSON([]byte(in), 4); err == nil {
			t.Errorf("%.20q: got %s, want an error", in, got)
		}
	}
}
