package tokenizer

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

type chatCase struct {
	Name     string
	Messages []Message
	Tools    []json.RawMessage
	Text     string
}

func chatCases(t testing.TB) (template string, cases []chatCase) {
	var file struct {
		Template string
		Cases    []chatCase
	}
	readJSON(t, shared(t, "llama4", "chat_template_cases.json"), &file)
	if len(file.Cases) < 8 {
		t.Fatalf("%d cases, want 8 or more", len(file.Cases))
	}
	return file.Template, file.Cases
}

func allSpecials(string, int32) bool { return true }

func TestNativeTemplate(t *testing.T) {
	_, cases := chatCases(t)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			chat := Chat{Messages: c.Messages, Tools: c.Tools}
			text, err := demo(t).NativeTemplate().Text(chat)
			if err != nil {
				t.Fatal(err)
			}
			if text != c.Text {
				t.Fatalf("got\n%s\nwant\n%s", text, c.Text)
			}
			for _, tok := range []*Tokenizer{demo(t), llama4(t)} {
				ids, err := tok.NativeTemplate().Render(chat)
				if err != nil {
					t.Fatal(err)
				}
				if want := tok.EncodeAllowing(c.Text, allSpecials); !slices.Equal(ids, want) {
					t.Errorf("got\n%v\nwant\n%v", ids, want)
				}
			}
		})
	}
}

// The prompts that the demo checkpoint was checked with.
func TestDemoPrompts(t *testing.T) {
	var cases []struct {
		Messages [][]json.RawMessage
		IDs      []int32 `json:"prompt_ids"`
		Text     string
		Out      []int32 `json:"generated_ids"`
	}
	readJSON(t, shared(t, "demo-model", "expected", "cases.json"), &cases)
	compared := 0
	for i, c := range cases {
		var chat Chat
		for _, m := range c.Messages {
			var role, text string
			if len(m) != 2 || json.Unmarshal(m[0], &role) != nil || json.Unmarshal(m[1], &text) != nil {
				break
			}
			chat.Messages = append(chat.Messages, Text(role, text))
		}
		if len(chat.Messages) != len(c.Messages) || len(c.Messages) == 0 || strings.Contains(demo(t).Decode(c.IDs), "<|image") {
			continue // a picture: the processor's part of the prompt
		}
		compared++
		got, err := demo(t).NativeTemplate().Render(chat)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, c.IDs) {
			t.Errorf("case %d: got\n%v\nwant\n%v", i, got, c.IDs)
		}
		if got := demo(t).DecodeText(c.Out); got != c.Text {
			t.Errorf("case %d: got %q, want %q", i, got, c.Text)
		}
	}
	if compared < 9 {
		t.Errorf("%d prompts compared, want 9", compared)
	}
}
