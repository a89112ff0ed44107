package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chulengo/demo"
)

// outcome is what one run of the program left behind.
type outcome struct {
	code        int
	out, errout string
}

// command runs the program in this process. vars are NAME=VALUE.
func command(t *testing.T, stdin string, vars []string, args ...string) outcome {
	t.Helper()
	env := map[string]string{"LANG": "en_US.UTF-8", "HOME": t.TempDir()}
	if device := os.Getenv("CHULENGO_TEST_DEVICE"); device != "" { // what tests run the demo checkpoint on: package demotest
		env["CHULENGO_DEVICE"] = device
	}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	var out, errout bytes.Buffer
	code := run(context.Background(), args, world{strings.NewReader(stdin), &out, &errout, func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}})
	return outcome{code, out.String(), errout.String()}
}

// wants fails unless the run ended as it should; errout is a part of standard error.
func (o outcome) wants(t *testing.T, code int, out, errout string) {
	t.Helper()
	if o.code != code || o.out != out || !strings.Contains(o.errout, errout) {
		t.Errorf("got code %d, out %q, err %q; want code %d, out %q, err with %q", o.code, o.out, o.errout, code, out, errout)
	}
}

// copyDemo writes the demo checkpoint to a folder and lets change spoil it.
func copyDemo(t *testing.T, change func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	entries, err := fs.ReadDir(demo.FS(), ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".gz") // unpacked, as checkpoints mostly lie on disks
		data, err := fs.ReadFile(demo.FS(), name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(dir)
	return dir
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	yaml := file(t, "c.yaml", "top_k: 7\nsystem: from file\nmax_tokens: 70\ncapture: [a b, 'c{1,2}']\n")
	toml := file(t, "c.toml", "top_k = 7\n")
	jsonc := file(t, "c.json", `{"top_k": 7}`)
	for _, c := range []struct {
		name          string
		vars, args    []string
		key           string
		value, origin string
	}{
		{"default", nil, nil, "addr", "127.0.0.1:5000", "default"},
		{"unset number", nil, nil, "top_k", "", "default"},
		{"file", nil, []string{"--config", yaml}, "top_k", "7", yaml},
		{"toml", nil, []string{"--config", toml}, "top_k", "7", toml},
		{"json", nil, []string{"--config", jsonc}, "top_k", "7", jsonc},
		{"file named by the environment", []string{"CHULENGO_CONFIG=" + yaml}, nil, "system", "from file", yaml},
		{"environment over file", []string{"CHULENGO_TOP_K=8"}, []string{"--config", yaml}, "top_k", "8", "CHULENGO_TOP_K"},
		{"flag over environment", []string{"CHULENGO_TOP_K=8"}, []string{"--config", yaml, "--top-k", "9"}, "top_k", "9", "flag"},
		{"flag that says the default", []string{"CHULENGO_ADDR=1.2.3.4:5"}, []string{"--addr", "127.0.0.1:5000"}, "addr", "127.0.0.1:5000", "flag"},
		{"empty variable", []string{"CHULENGO_TOP_K="}, []string{"--config", yaml}, "top_k", "7", yaml},
		{"list", nil, []string{"--config", yaml}, "capture", "a b c{1,2}", yaml},
		{"list in the environment", []string{"CHULENGO_CAPTURE=x{1,2} y"}, nil, "capture", "x{1,2} y", "CHULENGO_CAPTURE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := command(t, "", c.vars, append([]string{"config", "show", "--json"}, c.args...)...)
			var all map[string]setting
			if err := json.Unmarshal([]byte(o.out), &all); err != nil {
				t.Fatalf("%v: %s%s", err, o.out, o.errout)
			}
			if got := all[c.key]; got.Value != c.value || got.Origin != c.origin {
				t.Errorf("%s: got %+v, want %q from %q", c.key, got, c.value, c.origin)
			}
		})
	}
}

func TestMisuse(t *testing.T) {
	unknown, broken := file(t, "c.yaml", "top_q: 7\n"), file(t, "d.json", "{")
	for _, c := range []struct {
		name   string
		vars   []string
		args   []string
		en, zh string
	}{
		{"command", nil, []string{"srve"}, `no command "srve"; did you mean serve?`, `没有 "srve" 这个命令，是不是 serve？`},
		{"option", nil, []string{"chat", "--nope"}, "no option --nope", "没有 --nope 这个选项"},
		{"no value", nil, []string{"chat", "--seed"}, "--seed needs a value", "--seed 后面缺少值"},
		{"bad value", nil, []string{"chat", "--top-k", "x", "hi"}, `--top-k: want an integer, got "x"`, `--top-k 的值 "x" 不合适：应为整数`},
		{"bad variable", []string{"CHULENGO_TOP_P=x"}, []string{"chat", "hi"}, `CHULENGO_TOP_P: want a number, got "x"`, `CHULENGO_TOP_P 的值 "x" 不合适：应为数`},
		{"bad key", nil, []string{"chat", "hi", "--config", unknown}, "there is no option top_q", "没有 top_q 这个选项"},
		{"bad file", nil, []string{"chat", "hi", "--config", broken}, "cannot read the configuration", "无法读取配置文件"},
		{"range", nil, []string{"chat", "hi", "--top-p", "2"}, "--top-p: want a number above 0 and at most 1, got 2", "--top-p 的值 2 不合适：应大于 0 且不超过 1"},
		{"not a number", nil, []string{"chat", "hi", "--temperature", "NaN"}, "--temperature: want", "--temperature 的值"},
		{"device", nil, []string{"chat", "hi", "--device", "cuda"}, "no CUDA kernels", "不含 CUDA 内核"},
		{"devices", nil, []string{"chat", "hi", "--devices", "cuda:0,cuda:1"}, "no CUDA kernels", "不含 CUDA 内核"},
		{"devices", nil, []string{"chat", "hi", "--devices", "cuda:0,cpu"}, "cuda:0,cuda:1", "cuda:0,cuda:1"},
		{"language", nil, []string{"chat", "hi", "--lang", "fr"}, "--lang: want zh or en", "--lang: want zh or en"},
		{"address", nil, []string{"serve", "--addr", "5000"}, "--addr: want HOST:PORT", "应为 主机:端口"},
		{"proxy", nil, []string{"serve", "--addr", "127.0.0.1:0", "--trusted-proxy", "x"}, `--trusted-proxy: want an IP address or a range such as 10.0.0.0/8, got "x"`, `--trusted-proxy 的值 "x" 不合适：应为 IP 地址`},
		{"host", nil, []string{"serve", "--addr", "127.0.0.1:0", "--allowed-host", "http://x"}, `--allowed-host: want a name`, `--allowed-host 的值 "http://x" 不合适`},
		{"origin", nil, []string{"serve", "--addr", "127.0.0.1:0", "--cors-origin", "x"}, `--cors-origin: want scheme://host`, `--cors-origin 的值 "x" 不合适`},
		{"key", nil, []string{"serve", "--addr", "127.0.0.1:0", "--api-key", "a b"}, `--api-key: want visible ASCII characters without spaces, got 1`, `--api-key 的值 1 不合适`},
		{"key file", nil, []string{"serve", "--addr", "127.0.0.1:0", "--api-key-file", "/no/such/file"}, `--api-key-file: "/no/such/file" cannot be read`, `无法读取 "/no/such/file"`},
		{"rate", nil, []string{"serve", "--addr", "127.0.0.1:0", "--rate-limit", "-1"}, `--rate-limit: want a number of requests a second`, `--rate-limit 的值 -1 不合适`},
		{"base path", nil, []string{"serve", "--addr", "127.0.0.1:0", "--base-path", "/a b"}, `--base-path: want a plain path such as /chat, got "/a b"`, `--base-path 的值 "/a b" 不合适`},
		{"batch", nil, []string{"serve", "--max-batch", "0"}, `--max-batch: want 1 or more, got 0`, `--max-batch 的值 0 不合适`},
		{"queue", nil, []string{"serve", "--max-queue", "-1"}, `--max-queue: want 0 or more, got -1`, `--max-queue 的值 -1 不合适`},
		{"timeout", nil, []string{"serve", "--answer-timeout", "-1s"}, `--answer-timeout: want 0 or more, got -1s`, `--answer-timeout 的值 -1s 不合适`},
		{"empty prompt", nil, []string{"chat"}, "the prompt is empty", "提示为空"},
		{"ids", nil, []string{"generate", "--prompt-ids", "1,6144"}, `from 0 to 6143, got "6144"`, `"6144" 不合适：token 编号应在 0 与 6143 之间`},
		{"two prompts", nil, []string{"generate", "--prompt-ids", "1", "hi"}, "not both", "只能选一个"},
		{"capture alone", nil, []string{"generate", "hi", "--capture", "*"}, "--capture needs --trace", "--capture 需要"},
		{"trace alone", nil, []string{"generate", "hi", "--trace", "x"}, "--trace needs --capture", "--trace 需要"},
		{"no hook", nil, []string{"generate", "hi", "--trace", "x", "--capture", "blocks.9.*"}, `no hook matches "blocks.9.*"`, "chulengo hooks 列出所有名称"},
		{"trace limit", nil, []string{"generate", "hi", "--trace", "x", "--capture", "*", "--trace-limit", "1MB"}, "more than --trace-limit 1MB", "超过了 --trace-limit 1MB"},
		{"context", nil, []string{"generate", "hi", "--max-tokens", "40000"}, "exceeds the context of 32768", "超过了 32768 的上下文长度"},
		{"which hub", nil, []string{"pull", "a/b"}, "ms://a/b (ModelScope) or hf://a/b", "ms://a/b（魔搭）"},
		{"missing", nil, []string{"pull"}, "pull: ms://ORG/NAME is missing", "pull：缺少 ms://ORG/NAME"},
		{"template", nil, []string{"chat", "hi", "--chat-template", "nope"}, "want native, checkpoint or a file", "应为 native、checkpoint 或文件"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if cudaBuilt && strings.Contains(c.en, "no CUDA kernels") {
				t.Skip("this build has them")
			}
			command(t, "", c.vars, c.args...).wants(t, exitUsage, "", c.en)
			if c.name != "language" {
				command(t, "", append(c.vars, "LC_ALL=zh_CN.UTF-8"), c.args...).wants(t, exitUsage, "", c.zh)
			}
		})
	}
}

func TestUnusableCheckpoints(t *testing.T) {
	remove := func(names ...string) func(string) {
		return func(dir string) {
			for _, name := range names {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	replace := func(name, old, new string) func(string) {
		return func(dir string) {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(data, []byte(old)) {
				t.Fatalf("%s has no %s (%v)", name, old, err)
			}
			if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte(old), []byte(new)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name, dir string
		en, zh    string
	}{
		{"absent", filepath.Join(t.TempDir(), "none"), "is neither a folder nor ORG/NAME", "既不是目录，也不是"},
		{"file", file(t, "x", ""), "is a file", "是文件"},
		{"empty", t.TempDir(), "config.json", "config.json 不存在"},
		{"not downloaded", "org/name", "cannot use org/name", "无法使用 org/name"},
		{"no tokenizer", copyDemo(t, remove("tokenizer.json")), "has no tokenizer", "没有分词器"},
		{"no shard", copyDemo(t, remove("model-00002-of-00004.safetensors")), "model-00002-of-00004.safetensors", "model-00002-of-00004.safetensors"},
		{"no weights", copyDemo(t, remove("model.safetensors.index.json")), "model.safetensors", "也没有 model.safetensors"},
		{"short shard", copyDemo(t, func(dir string) {
			if err := os.Truncate(filepath.Join(dir, "model-00003-of-00004.safetensors"), 100_000); err != nil {
				t.Fatal(err)
			}
		}), "model-00003-of-00004.safetensors", "model-00003-of-00004.safetensors"},
		{"wrong width", copyDemo(t, replace("config.json", `"hidden_size": 256`, `"hidden_size": 512`)), "want", "应为"},
		{"bad key", copyDemo(t, replace("config.json", `"head_dim": 128`, `"head_dim": "x"`)), "text_config.head_dim", "text_config.head_dim 不合适"},
		{"other model", copyDemo(t, replace("config.json", `"llama4"`, `"llama3"`)), "model_type", "model_type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			en := command(t, "", nil, "chat", "--model", c.dir, "hi")
			en.wants(t, exitModel, "", c.en)
			command(t, "", []string{"LANG=zh_CN.UTF-8"}, "chat", "--model", c.dir, "hi").wants(t, exitModel, "", c.zh)
			if strings.Count(en.errout, "\n") != 1 {
				t.Errorf("want one line, got %q", en.errout)
			}
		})
	}
}

func TestLanguage(t *testing.T) {
	for _, c := range []struct {
		vars []string
		args []string
		zh   bool
	}{
		{[]string{"LANG=zh_CN.UTF-8"}, nil, true},
		{[]string{"LANG=en_US.UTF-8"}, nil, false},
		{[]string{"LANG=C"}, nil, false},
		{[]string{"LANG=en_US.UTF-8", "LC_ALL=zh_TW.UTF-8"}, nil, true},
		{[]string{"LANG=zh_CN.UTF-8", "LC_MESSAGES=en_GB.UTF-8"}, nil, false},
		{[]string{"LANG=zh_CN.UTF-8"}, []string{"--lang", "en"}, false},
		{[]string{"LANG=en_US.UTF-8", "CHULENGO_LANG=zh"}, nil, true},
		{[]string{"CHULENGO_LANG=zh"}, []string{"--lang=en"}, false},
	} {
		o := command(t, "", c.vars, append(c.args, "help")...)
		if got := strings.Contains(o.out, "用法："); got != c.zh || o.code != 0 {
			t.Errorf("%v %v: Chinese %v, want %v", c.vars, c.args, got, c.zh)
		}
	}
}

// TestEveryTextHasTwoLanguages reads every help text in both languages.
func TestEveryTextHasTwoLanguages(t *testing.T) {
	for _, name := range []string{"", "serve", "chat", "generate", "inspect", "pull", "tokenize", "hooks", "bench", "config", "config show", "version", "completion"} {
		args := append(strings.Fields(name), "--help")
		en, zh := command(t, "", nil, args...), command(t, "", []string{"LANG=zh_CN.UTF-8"}, args...)
		if en.code != 0 || zh.code != 0 {
			t.Errorf("%s: codes %d and %d", name, en.code, zh.code)
		}
		if i := strings.IndexFunc(en.out, func(r rune) bool { return r >= 0x3000 }); i >= 0 {
			t.Errorf("%s: English help has Chinese: %.40s", name, en.out[i:])
		}
		for _, word := range []string{"Usage:", "Flags:", "[flags]", "help for", "(default"} {
			if strings.Contains(zh.out, word) {
				t.Errorf("%s: Chinese help has %q", name, word)
			}
		}
	}
}
