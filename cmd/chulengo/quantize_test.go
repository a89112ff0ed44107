package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"chulengo/demo"
	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// weightsOf are all matrices of the layers and the head, in order.
func weightsOf(t *testing.T, m *model.Model) (list []kernels.Matrix) {
	t.Helper()
	add := func(weights ...kernels.Weight) {
		for _, w := range weights {
			for part := 0; ; part++ {
				if _, err := w.Get(part, 0); err != nil {
					break
				}
				for e := 0; ; e++ {
					x, err := w.Get(part, e)
					if err != nil {
						break
					}
					list = append(list, x)
				}
			}
		}
	}
	add(m.Embed, m.Head.Norm, m.Head.Out)
	for i := range m.Layers {
		l := &m.Layers[i]
		add(l.Attn.Norm, l.Attn.QKV, l.Attn.Out, l.MoE.Norm, l.MoE.Router, l.MoE.GateUp, l.MoE.Down, l.MoE.SharedGateUp, l.MoE.SharedDown)
	}
	return list
}

// What quantize writes is read as what --quant makes of the same checkpoint, matrix by matrix and bit by bit, and answers.
func TestQuantize(t *testing.T) {
	for _, recipe := range model.Recipes {
		dir := filepath.Join(t.TempDir(), "out")
		command(t, "", nil, "quantize", "--quant", string(recipe), demo.Name, dir).wants(t, exitOK, dir+"\n", "")
		var loads [2][]kernels.Matrix
		for i, files := range []struct {
			dir    string
			recipe model.Recipe
		}{{dir, ""}, {"", recipe}} {
			fsys := os.DirFS(files.dir)
			if files.dir == "" {
				fsys = demo.FS()
			}
			cfg, err := model.LoadConfig(fsys)
			if err != nil {
				t.Fatal(err)
			}
			ckpt, err := safetensors.Open(fsys)
			if err != nil {
				t.Fatal(err)
			}
			dev := cpu.New(cpu.Options{})
			m, err := model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{Recipe: files.recipe, Notes: func(n model.Note) { t.Errorf("%s: a note: %v", recipe, n) }})
			if err != nil {
				t.Fatal(err)
			}
			loads[i] = weightsOf(t, m)
			defer func() {
				dev.Close()
				ckpt.Close()
			}()
		}
		if len(loads[0]) != len(loads[1]) || len(loads[0]) < 8*3*8 {
			t.Fatalf("%d matrices, %d", len(loads[0]), len(loads[1]))
		}
		for i := range loads[0] {
			if !reflect.DeepEqual(loads[0][i], loads[1][i]) {
				t.Fatalf("%s: matrix %d differs: %v, %v", recipe, i, loads[0][i].Coding, loads[1][i].Coding)
			}
		}
		ckpt, err := safetensors.Open(os.DirFS(dir))
		if err != nil {
			t.Fatal(err)
		}
		const expert = "language_model.model.layers.3.feed_forward.experts.5.up_proj."
		for suffix, want := range map[string]string{"weight_packed": "I32 [256 32]", "weight_scale": "BF16 [256 2]", "weight_shape": "I64 [2]"} {
			if recipe == model.RecipeFP8 {
				want = map[string]string{"weight_packed": "", "weight_scale": "BF16 [256 1]", "weight_shape": ""}[suffix]
			}
			got := ""
			if x, err := ckpt.Tensor(expert + suffix); err == nil {
				got = fmt.Sprint(x.DType, " ", x.Shape)
			}
			if got != want {
				t.Errorf("%s: %s is %q, want %q", recipe, suffix, got, want)
			}
		}
		ckpt.Close()
		if out := command(t, "", nil, "inspect", "--model", dir); out.code != exitOK || !strings.Contains(out.out, "BF16 scale for 1 x ") {
			t.Errorf("%s: inspect: %+v", recipe, out)
		}
		for _, name := range []string{"tokenizer.json", "generation_config.json", "chat_template.jinja", "preprocessor_config.json"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
	}
}

// quantize writes nothing over what is there, and leaves nothing behind when it fails.
func TestQuantizeRefuses(t *testing.T) {
	parent := t.TempDir()
	there := filepath.Join(parent, "there")
	if err := os.Mkdir(there, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "", nil, "quantize", demo.Name, there).wants(t, exitUsage, "", "there already")
	command(t, "", nil, "quantize", "--quant", "int3", demo.Name, filepath.Join(parent, "new")).wants(t, exitUsage, "", "int4-mixed")
	command(t, "", nil, "quantize", demo.Name).wants(t, exitUsage, "", "IN OUT")
	command(t, "", nil, "quantize", "../../model/testdata/micro-scout", filepath.Join(parent, "new")).wants(t, exitModel, "", "groups of 128")
	quantised := filepath.Join(parent, "fp8")
	command(t, "", nil, "quantize", "--quant", "fp8", demo.Name, quantised).wants(t, exitOK, quantised+"\n", "")
	command(t, "", nil, "quantize", quantised, filepath.Join(parent, "new")).wants(t, exitModel, "", "quantised already")
	spoilt := copyDemo(t, func(dir string) {
		name := filepath.Join(dir, "model-00002-of-00004.safetensors")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := len(data) / 2; i < len(data)/2+2048; i++ {
			data[i] = 0xff // NaN
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	command(t, "", nil, "quantize", "--quant", "fp8", spoilt, filepath.Join(parent, "new")).wants(t, exitModel, "", "finite")
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"fp8", "there"}) {
		t.Errorf("left behind: %v", names)
	}
}

// The demo checkpoint knows a capital with every kind of weights, of activations and of keys and values.
func TestQuantFlags(t *testing.T) {
	const prompt = "<|header_start|>user<|header_end|>\n\nWhat is the capital of France?<|eot|><|header_start|>assistant<|header_end|>\n\n"
	for _, flags := range [][]string{{"--quant", "int4"}, {"--quant", "int4-mixed", "--kv-dtype", "fp8"}, {"--quant", "fp8", "--kv-dtype", "bf16"}, {"--quant", "int4-mixed", "--activations", "fp8"}} {
		args := append([]string{"generate", "--greedy", "--special", "--max-tokens", "20", "--device", "cpu"}, flags...)
		command(t, "", nil, append(args, prompt)...).wants(t, exitOK, "The capital of France is Paris.\n", "")
	}
	command(t, "", nil, "generate", "--kv-dtype", "fp4", "x").wants(t, exitUsage, "", "auto, bf16 or fp8")
	command(t, "", nil, "generate", "--activations", "bf16", "x").wants(t, exitUsage, "", "auto or fp8")
	for _, flags := range [][]string{{}, {"--quant", "int4"}} { // nothing to multiply with them
		command(t, "", nil, append([]string{"generate", "--device", "cpu", "--activations", "fp8", "x"}, flags...)...).wants(t, exitUsage, "", "want a model with FP8 weights")
	}
	command(t, "", []string{"CHULENGO_QUANT=int2", "LANG=zh_CN.UTF-8"}, "generate", "x").wants(t, exitUsage, "", "应为 int4")
}
