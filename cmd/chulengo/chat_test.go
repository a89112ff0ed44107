package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chulengo/tokenizer"
)

// TestCapitalOfFrance is what the README promises.
func TestCapitalOfFrance(t *testing.T) {
	want := outcome{0, "The capital of France is Paris.\n", ""}
	if got := command(t, "", nil, "chat", "--greedy", "What is the capital of France?"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := command(t, "What is the capital of France?\n", nil, "chat", "--greedy"); got != want {
		t.Errorf("from standard input: got %+v, want %+v", got, want)
	}
	if got := command(t, "What is the capital of France?", nil, "chat", "--greedy", "-"); got != want {
		t.Errorf("from -: got %+v, want %+v", got, want)
	}
	if got := command(t, "", nil, "chat", "--temperature", "0", "--chat-template", "checkpoint", "What", "is", "the capital of France?"); got != want {
		t.Errorf("with the checkpoint's template: got %+v, want %+v", got, want)
	}
}

// TestRecordedChats runs the chats that the reference implementation answered: testdata/chats.json, and what the shared
// folder has where it is there.
func TestRecordedChats(t *testing.T) {
	for _, path := range []string{"testdata/chats.json", "../../../shared/demo-model/expected/cases.json"} {
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) && strings.HasPrefix(path, "..") {
			t.Logf("%s is not there", path)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		var cases []struct {
			Messages [][2]any
			IDs      []int32   `json:"generated_ids"`
			Gaps     []float32 `json:"margins"` // between the best two logits of each step
			Text     string
		}
		if err := json.Unmarshal(data, &cases); err != nil {
			t.Fatal(err)
		}
		a, errout := testApp(t)
		a.opts.Greedy = true
		l, err := a.load(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		checked := 0
		for _, c := range cases {
			last, ok := c.Messages[len(c.Messages)-1][1].(string)
			if !ok {
				continue // a picture
			}
			for i, gap := range c.Gaps {
				if gap <= 1e-3 {
					t.Fatalf("%q: the gap at token %d is %g: too small to compare", last, i, gap)
				}
			}
			talk, err := a.newConversation(l)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range c.Messages[:len(c.Messages)-1] {
				talk.messages = append(talk.messages, tokenizer.Text(m[0].(string), m[1].(string)))
			}
			a.out.(*bytes.Buffer).Reset()
			if err := talk.ask(context.Background(), last); err != nil {
				t.Fatal(err)
			}
			if got := a.out.(*bytes.Buffer).String(); got != c.Text+"\n" {
				t.Errorf("%q: got %q, want %q", last, got, c.Text)
			}
			if len(c.Messages) == 1 {
				command(t, "", nil, "chat", "--greedy", last).wants(t, 0, c.Text+"\n", "")
			}
			checked++
		}
		if checked != 9 || errout.Len() > 0 {
			t.Errorf("%s: %d chats checked, want 9; standard error %q", path, checked, errout)
		}
	}
}

// testApp is an app whose options are the defaults.
func testApp(t *testing.T) (*app, *bytes.Buffer) {
	t.Helper()
	var out, errout bytes.Buffer
	a := &app{world: world{strings.NewReader(""), &out, &errout, func(string) (string, bool) { return "", false }}, lang: "en", origin: map[string]string{}}
	a.opts.defaults()
	return a, &errout
}

func TestConversation(t *testing.T) {
	const france, spain = "The capital of France is Paris.\n", "The capital of Spain is Madrid.\n"
	for _, c := range []struct{ name, in, out, errout string }{
		{"two questions", "What is the capital of France?\nWhat is the capital of Spain?", france + spain, ""},
		{"several lines", "\"\"\"\nWhat is the capital of France?\n\"\"\"\n", france, ""},
		{"several lines at once", "\"\"\"What is the capital of France?\"\"\"\n", france, ""},
		{"empty lines", "\n  \nWhat is the capital of France?\n\n", france, ""},
		{"leaving", "/bye\nWhat is the capital of France?\n", "", ""},
		{"help", "/help\n", "", "/clear"},
		{"unknown command", "/nope\n", "", "there is no command /nope"},
		{"set", "/set max_tokens 3\nWhat is the capital of France?\n", "The capital of\n", "cut at 3 tokens"},
		{"set wrong", "/set top_p 2\n/set top_p x\n/set nope 1\nWhat is the capital of France?\n", france, "--top-p: want a number above 0"},
		{"list", "/set seed 7\n/set\n", "", "seed                7"},
		{"system", "/system You are a helpful assistant.\n/system\n", "", "system: You are a helpful assistant."},
		{"too long", strings.Repeat("word ", 40000) + "\nWhat is the capital of France?\n", france, "error: the prompt has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command(t, c.in, nil, "chat", "--greedy", "--interactive").wants(t, 0, c.out, c.errout)
		})
	}
	t.Run("it remembers until it is cleared", func(t *testing.T) {
		o := command(t, "My name is Grace.\nWhat is my name?\n/clear\nWhat is my name?\n", nil, "chat", "--greedy", "--interactive")
		lines := strings.Split(o.out, "\n")
		if len(lines) < 3 || !strings.Contains(lines[1], "Grace") || strings.Contains(lines[2], "Grace") {
			t.Errorf("got %q", o.out)
		}
	})
	t.Run("Chinese", func(t *testing.T) {
		command(t, "/nope\n", []string{"LANG=zh_CN.UTF-8"}, "chat", "--interactive").wants(t, 0, "", "没有 /nope 这个命令")
	})
}

func TestSamplingOptions(t *testing.T) {
	story := func(args ...string) string {
		o := command(t, "", nil, append([]string{"chat", "Tell me a story about a dog."}, args...)...)
		if o.code != 0 {
			t.Fatal(o.errout)
		}
		return o.out
	}
	if a, b := story("--seed", "1", "--temperature", "2"), story("--seed", "1", "--temperature", "2"); a != b {
		t.Errorf("one seed gave %q and %q", a, b)
	}
	if a, b := story("--seed", "1", "--temperature", "2"), story("--seed", "2", "--temperature", "2"); a == b {
		t.Errorf("two seeds gave %q", a)
	}
	if a, b := story("--top-k", "1"), story("--greedy"); a != b {
		t.Errorf("top-k 1 gave %q, greedy %q", a, b)
	}
}

func TestVerboseAndQuiet(t *testing.T) {
	o := command(t, "", nil, "chat", "--greedy", "--verbose", "Hello")
	for _, line := range []string{"total duration:", "load duration:", "prompt eval count:    14 token(s)", "prompt eval rate:", "eval count:", "eval rate:"} {
		if !strings.Contains(o.errout, line) {
			t.Errorf("want %q in %q", line, o.errout)
		}
	}
	command(t, "", nil, "chat", "--quiet", "--greedy", "--max-tokens", "2", "Hello").wants(t, 0, "Hello!\n", "")
}

func TestChatTemplateFile(t *testing.T) {
	good := file(t, "t.jinja", "<|begin_of_text|>{{ messages[0].content }}")
	if o := command(t, "", nil, "chat", "--greedy", "--max-tokens", "3", "--chat-template", good, "The capital"); o.code != 0 || o.out == "" {
		t.Errorf("got %+v", o)
	}
	bad := filepath.Join(filepath.Dir(file(t, "bad.jinja", "{% if %}")), "bad.jinja")
	command(t, "", nil, "chat", "--chat-template", bad, "hi").wants(t, exitFailed, "", "cannot use the chat template")
}
