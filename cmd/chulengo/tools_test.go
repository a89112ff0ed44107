package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestTokenize(t *testing.T) {
	command(t, "", nil, "tokenize", "Hello").wants(t, 0, "   1127  Hello\n", "")
	command(t, "Hello\n", nil, "tokenize").wants(t, 0, "   1127  Hello\n", "")
	command(t, "", nil, "tokenize", "--ids", "1127,6133").wants(t, 0, "Hello<|eot|>\n", "")
	command(t, "", nil, "tokenize", "--json", "--special", "Hello<|eot|>").wants(t, 0, `{"text":"Hello<|eot|>","ids":[1127,6133],"pieces":["Hello","<|eot|>"]}`+"\n", "")
	var plain tokens
	o := command(t, "", nil, "tokenize", "--json", "Hello<|eot|>")
	if err := json.Unmarshal([]byte(o.out), &plain); err != nil || slices.Contains(plain.IDs, 6133) {
		t.Errorf("got %+v (%v)", o, err)
	}
	command(t, "", nil, "tokenize", "--ids", "6144").wants(t, exitUsage, "", `got "6144"`)
	command(t, "", nil, "tokenize", "a", "b").wants(t, exitUsage, "", "quotes")
	command(t, "\xff", nil, "tokenize").wants(t, exitFailed, "", "not UTF-8")
}

func TestHooks(t *testing.T) {
	o := command(t, "", nil, "hooks", "--json")
	var m manifest
	if err := json.Unmarshal([]byte(o.out), &m); err != nil || m.Version != 1 || len(m.Hooks) != 1+8*19+2+1+4*3+3 {
		t.Fatalf("%d hooks, %v", len(m.Hooks), err)
	}
	for _, h := range m.Hooks {
		n := 4
		for _, d := range h.Shape {
			n *= d
		}
		if h.Bytes != n || h.Shape == nil || h.Means == "" {
			t.Errorf("%+v: want %d bytes", h, n)
		}
	}
	o = command(t, "", nil, "hooks", "blocks.{0..7}.mlp.hook_router_logits")
	if got := strings.Count(o.out, "hook_router_logits"); got != 8 || !strings.Contains(o.out, "256 B a token") {
		t.Errorf("got %s", o.out)
	}
}

func TestInspect(t *testing.T) {
	dir := copyDemo(t, func(string) {})
	for _, args := range [][]string{{"inspect", "--json"}, {"inspect", "--json", dir}, {"inspect", "--json", "--model", dir}} {
		o := command(t, "", nil, args...)
		var r inspection
		if err := json.Unmarshal([]byte(o.out), &r); err != nil {
			t.Fatalf("%v: %+v", err, o)
		}
		sum, rope := int64(0), 0
		for _, m := range r.Modules {
			sum += m.Bytes
		}
		for _, l := range r.Layers {
			if l.RoPE {
				rope++
			}
		}
		if r.Parameters*2 != sum || sum > r.Bytes || len(r.Layers) != 8 || rope != 6 || !r.Tokenizer || len(r.Files) != 4 || !r.Config.Vision {
			t.Errorf("%v: %d parameters, %d bytes of tensors in %d, %d layers, %d RoPE", args, r.Parameters, sum, r.Bytes, len(r.Layers), rope)
		}
		// One token in 2 global and 6 chunked layers: keys and values of 2 heads of 128 float32.
		if k := r.KV[0]; k.Tokens != 1 || k.Global != 2*2*2*128*4 || k.Chunked != 6*2*2*128*4 {
			t.Errorf("%v: %+v", args, k)
		}
		if last := r.KV[len(r.KV)-1]; last.Tokens != 32768 || last.Chunked != 128*6*2*2*128*4 {
			t.Errorf("%v: %+v", args, last)
		}
	}
	if o := command(t, "", []string{"LANG=zh_CN.UTF-8"}, "inspect"); o.code != 0 || !strings.Contains(o.out, "8 个专家＋共享专家") {
		t.Errorf("got %+v", o)
	}
}

func TestVersion(t *testing.T) {
	o := command(t, "", nil, "version")
	o.wants(t, 0, "chulengo "+version()+"\n", "")
	command(t, "", nil, "--version").wants(t, 0, o.out, "")
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if o := command(t, "", nil, "completion", shell); o.code != 0 || !strings.Contains(o.out, "chulengo") {
			t.Errorf("%s: code %d, %d bytes", shell, o.code, len(o.out))
		}
	}
}

func TestModelNames(t *testing.T) {
	for dir, want := range map[string]string{
		"/x/models--meta-llama--Llama-4-Scout-17B-16E-Instruct/snapshots/0123abcd": "Llama-4-Scout-17B-16E-Instruct",
		"/x/tiny": "tiny",
	} {
		if got := folder(dir).name; got != want {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
}

func TestTableAlignsChinese(t *testing.T) {
	var out strings.Builder
	tab := table{right: []bool{false, true}}
	tab.add("名称", "数")
	tab.add("a", "10")
	if err := tab.write(&out); err != nil || out.String() != "名称  数\na     10\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
