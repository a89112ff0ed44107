package model_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// damaged is one way to spoil a checkpoint. The error must contain every one of names: the file, tensor or key to blame.
type damaged struct {
	what  string
	names []string
	spoil func(fstest.MapFS)
}

// openEverything is what a command does with a checkpoint directory before the first token.
func openEverything(dir fs.FS) error {
	cfg, err := model.LoadConfig(dir)
	if err != nil {
		return err
	}
	if _, err := model.LoadGeneration(dir, cfg); err != nil {
		return err
	}
	ckpt, err := safetensors.Open(dir)
	if err != nil {
		return err
	}
	defer ckpt.Close()
	dev := cpu.New(cpu.Options{Threads: 1})
	defer dev.Close()
	_, err = model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{})
	return err
}

// TestDamagedCheckpoints opens more than 200 spoilt copies of a golden: each gives an error that names what is wrong, none
// panics.
func TestDamagedCheckpoints(t *testing.T) {
	base := fstest.MapFS{}
	for _, name := range dirNames(t, "testdata/micro-scout") {
		data, err := os.ReadFile("testdata/micro-scout/" + name)
		if err != nil {
			t.Fatal(err)
		}
		base[name] = &fstest.MapFile{Data: data}
	}
	delete(base, "expected.safetensors")
	if err := openEverything(base); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	list := slices.Concat(damagedFiles(base), damagedHeaders(), damagedTensors(t, base), damagedConfigs(), damagedIndexes())
	for _, d := range list {
		dir := maps.Clone(base)
		d.spoil(dir)
		err := openEverything(dir)
		if err == nil {
			t.Errorf("%s: opened", d.what)
			continue
		}
		for _, name := range d.names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s: the error does not name %q: %v", d.what, name, err)
			}
		}
		if len(err.Error()) > 2000 {
			t.Errorf("%s: an error of %d bytes", d.what, len(err.Error()))
		}
	}
	t.Logf("%d damaged checkpoints", len(list))
	if len(list) < 200 {
		t.Errorf("%d damaged checkpoints, want at least 200", len(list))
	}
}

func dirNames(t *testing.T, dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

const (
	firstShard = "model-00001-of-00004.safetensors"
	lastShard  = "model-00004-of-00004.safetensors"
	indexFile  = "model.safetensors.index.json"
)

// damagedFiles removes, empties and cuts every file.
func damagedFiles(base fstest.MapFS) (list []damaged) {
	for _, name := range slices.Sorted(maps.Keys(base)) {
		name := name
		size := len(base[name].Data)
		set := func(what string, data []byte) {
			list = append(list, damaged{name + " " + what, []string{name}, func(d fstest.MapFS) { d[name] = &fstest.MapFile{Data: data} }})
		}
		if name == "generation_config.json" {
			set("is no JSON", []byte("{"))
			continue
		}
		if name != indexFile {
			list = append(list, damaged{name + " is missing", []string{name}, func(d fstest.MapFS) { delete(d, name) }})
		}
		set("is empty", nil)
		set("is cut in half", base[name].Data[:size/2])
		set("lacks its last byte", bytes.TrimRight(base[name].Data, "\n")[:len(bytes.TrimRight(base[name].Data, "\n"))-1])
		set("is noise", bytes.Repeat([]byte{0xa5, 0x5a, 0xff}, 100))
		set("is zeros", make([]byte, 4096))
		if strings.HasSuffix(name, ".safetensors") {
			set("has one byte more", append(bytes.Clone(base[name].Data), 0))
			set("ends in its header", base[name].Data[:40])
			set("ends in its length", base[name].Data[:5])
		}
	}
	list = append(list, damaged{"no checkpoint files at all", []string{"config.json"}, func(d fstest.MapFS) { clear(d) }})
	list = append(list, damaged{"only config.json", []string{"model.safetensors"}, func(d fstest.MapFS) {
		for name := range d {
			if strings.HasPrefix(name, "model") {
				delete(d, name)
			}
		}
	}})
	return list
}

// header splits a safetensors file.
func header(data []byte) (h map[string]any, body []byte) {
	n := binary.LittleEndian.Uint64(data)
	if err := json.Unmarshal(data[8:8+n], &h); err != nil {
		panic(err)
	}
	return h, data[8+n:]
}

func withHeader(text, body []byte) *fstest.MapFile {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return &fstest.MapFile{Data: slices.Concat(out, text, body)}
}

// damagedHeaders spoils the entry of one tensor in the first and the last shard in every way that the format forbids.
func damagedHeaders() (list []damaged) {
	edits := []struct {
		what string
		edit func(entry map[string]any)
	}{
		{"unknown dtype", func(e map[string]any) { e["dtype"] = "BF17" }},
		{"dtype of another size", func(e map[string]any) { e["dtype"] = "F32" }},
		{"dtype is a number", func(e map[string]any) { e["dtype"] = 16 }},
		{"dtype is missing", func(e map[string]any) { delete(e, "dtype") }},
		{"shape is missing", func(e map[string]any) { delete(e, "shape") }},
		{"offsets are missing", func(e map[string]any) { delete(e, "data_offsets") }},
		{"negative dimension", func(e map[string]any) { e["shape"] = []int{-1, 4} }},
		{"dimension with a fraction", func(e map[string]any) { e["shape"] = []float64{1.5, 2} }},
		{"dimensions overflow", func(e map[string]any) { e["shape"] = []int64{1 << 40, 1 << 40} }},
		{"dimension beyond int64", func(e map[string]any) { e["shape"] = []json.Number{"99999999999999999999"} }},
		{"shape is a string", func(e map[string]any) { e["shape"] = "80" }},
		{"one dimension more", func(e map[string]any) { e["shape"] = append(e["shape"].([]any), 2) }},
		{"three offsets", func(e map[string]any) { e["data_offsets"] = []int{0, 1, 2} }},
		{"one offset", func(e map[string]any) { e["data_offsets"] = []int{0} }},
		{"reversed offsets", func(e map[string]any) { o := e["data_offsets"].([]any); e["data_offsets"] = []any{o[1], o[0]} }},
		{"negative offset", func(e map[string]any) { o := e["data_offsets"].([]any); e["data_offsets"] = []any{-2, o[1]} }},
		{"offsets beyond the file", func(e map[string]any) {
			o := e["data_offsets"].([]any)
			e["data_offsets"] = []any{o[0].(float64) + 1e9, o[1].(float64) + 1e9}
		}},
		{"offsets two bytes on", func(e map[string]any) {
			o := e["data_offsets"].([]any)
			e["data_offsets"] = []any{o[0].(float64) + 2, o[1].(float64) + 2}
		}},
		{"unknown key", func(e map[string]any) { e["stride"] = 1 }},
	}
	for _, shard := range []string{firstShard, lastShard} {
		for _, edit := range edits {
			var names = []string{shard}
			list = append(list, damaged{shard + ": " + edit.what, names, func(d fstest.MapFS) {
				h, body := header(d[shard].Data)
				name := slices.Sorted(maps.Keys(h))[1] // after __metadata__
				edit.edit(h[name].(map[string]any))
				text, err := json.Marshal(h)
				if err != nil {
					panic(err)
				}
				d[shard] = withHeader(text, body)
			}})
		}
		raw := func(what string, f func(text string) string) {
			list = append(list, damaged{shard + ": " + what, []string{shard}, func(d fstest.MapFS) {
				n := binary.LittleEndian.Uint64(d[shard].Data)
				d[shard] = withHeader([]byte(f(string(d[shard].Data[8:8+n]))), d[shard].Data[8+n:])
			}})
		}
		raw("header is a list", func(string) string { return "[]" })
		raw("header is null", func(string) string { return "null" })
		raw("header begins with a space", func(s string) string { return " " + s })
		raw("header is cut", func(s string) string { return strings.TrimRight(s, " ")[:len(s)/2] })
		raw("header is followed by noise", func(s string) string { return strings.TrimRight(s, " ") + "x" })
		raw("header is not UTF-8", func(s string) string { return strings.Replace(s, "language_model", "langu\xff\xfege_model", 1) })
		raw("a tensor twice", func(s string) string {
			s = strings.TrimRight(s, " ")
			i := strings.Index(s, `"language_model`)
			return s[:i] + s[i:strings.Index(s[i:], "},")+i+2] + s[i:]
		})
		raw("an entry is a number", func(s string) string { return strings.Replace(s, "{", `{"x":1,`, 1) })
		raw("metadata is a list", func(s string) string { return strings.Replace(s, `{"format":"pt"}`, `[]`, 1) })
		for what, length := range map[string]uint64{"header length 0": 0, "header length beyond the file": 1 << 24, "header length above the limit": 100<<20 + 1,
			"header length of all ones": math.MaxUint64} {
			list = append(list, damaged{shard + ": " + what, []string{shard}, func(d fstest.MapFS) {
				data := bytes.Clone(d[shard].Data)
				binary.LittleEndian.PutUint64(data, length)
				d[shard] = &fstest.MapFile{Data: data}
			}})
		}
	}
	return list
}

// damagedTensors rewrites the checkpoint as one file with one tensor missing, misshapen, of another dtype, or not finite.
func damagedTensors(t *testing.T, base fstest.MapFS) (list []damaged) {
	ckpt, err := safetensors.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer ckpt.Close()
	var all []safetensors.Tensor
	for _, name := range ckpt.Names() {
		x, err := ckpt.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, safetensors.Tensor{Name: name, DType: x.DType, Shape: x.Shape, Data: bytes.Clone(x.Data)})
	}
	rewrite := func(what, name string, f func(x *safetensors.Tensor) []safetensors.Tensor) {
		list = append(list, damaged{name + " " + what, []string{name}, func(d fstest.MapFS) {
			var out []safetensors.Tensor
			for _, x := range all {
				if x.Name == name {
					x.Data = bytes.Clone(x.Data)
					out = append(out, f(&x)...)
				} else {
					out = append(out, x)
				}
			}
			var file bytes.Buffer
			if _, err := safetensors.WriteTo(&file, out, nil); err != nil {
				panic(err)
			}
			delete(d, indexFile)
			d["model.safetensors"] = &fstest.MapFile{Data: file.Bytes()}
		}})
	}
	one := func(x *safetensors.Tensor) []safetensors.Tensor { return []safetensors.Tensor{*x} }
	const layer = "language_model.model.layers.2."
	for _, name := range []string{"language_model.model.embed_tokens.weight", "language_model.lm_head.weight", "language_model.model.norm.weight",
		layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight", layer + "self_attn.q_proj.weight",
		layer + "self_attn.k_proj.weight", layer + "self_attn.v_proj.weight", layer + "self_attn.o_proj.weight",
		layer + "feed_forward.router.weight", layer + "feed_forward.experts.gate_up_proj", layer + "feed_forward.experts.down_proj",
		layer + "feed_forward.shared_expert.gate_proj.weight", layer + "feed_forward.shared_expert.up_proj.weight",
		layer + "feed_forward.shared_expert.down_proj.weight", "multi_modal_projector.linear_1.weight"} {
		rewrite("is missing", name, func(*safetensors.Tensor) []safetensors.Tensor { return nil })
		rewrite("has one dimension more", name, func(x *safetensors.Tensor) []safetensors.Tensor {
			x.Shape = append([]int{1}, x.Shape...)
			return one(x)
		})
		rewrite("is shorter", name, func(x *safetensors.Tensor) []safetensors.Tensor {
			x.Data = x.Data[:len(x.Data)/x.Shape[0]*(x.Shape[0]-1)]
			x.Shape = append([]int{x.Shape[0] - 1}, x.Shape[1:]...)
			return one(x)
		})
		rewrite("is empty", name, func(x *safetensors.Tensor) []safetensors.Tensor {
			x.Data, x.Shape = nil, []int{0}
			return one(x)
		})
		rewrite("is of integers", name, func(x *safetensors.Tensor) []safetensors.Tensor {
			x.DType = safetensors.I16
			return one(x)
		})
		rewrite("is renamed", name, func(x *safetensors.Tensor) []safetensors.Tensor {
			x.Name += "s"
			return one(x)
		})
		rewrite("has a twin", name, func(x *safetensors.Tensor) []safetensors.Tensor {
			twin := *x
			twin.Name = name + ".weight_scale"
			return append(one(x), twin)
		})
		if strings.HasPrefix(name, "multi_modal") {
			continue // the text path does not read its values
		}
		for what, code := range map[string]uint16{"has a NaN": 0x7fc0, "has an infinity": 0x7f80, "has a negative infinity": 0xff80} {
			rewrite(what, name, func(x *safetensors.Tensor) []safetensors.Tensor {
				binary.LittleEndian.PutUint16(x.Data[len(x.Data)-2:], code)
				return one(x)
			})
		}
	}
	return list
}

// damagedConfigs changes one value of config.json; the table of model's own tests has more of these.
func damagedConfigs() (list []damaged) {
	for key, value := range map[string]any{
		"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 64, "intermediate_size": 24, "vocab_size": 255,
		"num_local_experts": 7, "num_key_value_heads": 5, "rms_norm_eps": "small", "moe_layers": []int{0, 1}, "interleave_moe_layer_step": "x",
		"attention_chunk_size": "8192", "hidden_act": "relu", "rope_parameters": map[string]any{"rope_type": "linear"}, "no_rope_layers": []int{1},
		"layer_types": []string{"sliding_attention"}, "eos_token_id": 1 << 20,
	} {
		list = append(list, damaged{fmt.Sprintf("config.json with %s %v", key, value), nil, func(d fstest.MapFS) {
			var c map[string]any
			if err := json.Unmarshal(d["config.json"].Data, &c); err != nil {
				panic(err)
			}
			c["text_config"].(map[string]any)[key] = value
			text, _ := json.Marshal(c)
			d["config.json"] = &fstest.MapFile{Data: text}
		}})
	}
	return list
}

// damagedIndexes spoils the index of the shards.
func damagedIndexes() (list []damaged) {
	add := func(what string, names []string, f func(weights map[string]any) any) {
		list = append(list, damaged{"index: " + what, names, func(d fstest.MapFS) {
			var index map[string]any
			if err := json.Unmarshal(d[indexFile].Data, &index); err != nil {
				panic(err)
			}
			index["weight_map"] = f(index["weight_map"].(map[string]any))
			text, _ := json.Marshal(index)
			d[indexFile] = &fstest.MapFile{Data: text}
		}})
	}
	const name = "language_model.model.norm.weight"
	set := func(value any) func(map[string]any) any {
		return func(w map[string]any) any { w[name] = value; return w }
	}
	add("weight_map is a list", []string{indexFile}, func(map[string]any) any { return []int{} })
	add("weight_map is null", []string{indexFile}, func(map[string]any) any { return nil })
	add("a shard is a number", []string{indexFile}, set(1))
	add("a shard is missing", []string{"model-00009.safetensors"}, set("model-00009.safetensors"))
	add("a shard lies elsewhere", []string{"../model.safetensors"}, set("../model.safetensors"))
	add("a shard has an absolute path", []string{"/etc/passwd"}, set("/etc/passwd"))
	add("a shard has no name", []string{name}, set(""))
	add("a tensor in another shard", []string{name}, func(w map[string]any) any {
		if w[name] == firstShard {
			w[name] = lastShard
		} else {
			w[name] = firstShard
		}
		return w
	})
	add("a tensor unlisted", []string{name}, func(w map[string]any) any { delete(w, name); return w })
	add("a tensor that no shard has", []string{"extra.weight"}, func(w map[string]any) any { w["extra.weight"] = firstShard; return w })
	add("nothing listed", nil, func(map[string]any) any { return map[string]any{} })
	return list
}
