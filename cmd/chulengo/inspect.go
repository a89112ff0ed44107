package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"chulengo/kernels"
	"chulengo/model"
	"chulengo/safetensors"
)

func (a *app) inspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect [flags] [DIR]",
		Short: a.say("Show a checkpoint: layers, tensors, memory needed", "查看模型：各层、张量与所需内存"),
		Args:  a.arguments(0, 1, "DIR"),
	}
	a.addFlags(cmd.Flags(), modelOptions, []string{"json"})
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 1 {
			a.opts.Model = args[0]
		}
		d, err := a.describeModel()
		if err != nil {
			return err
		}
		weights, err := safetensors.Open(d.files)
		if err != nil {
			return bad(d.source, err)
		}
		defer weights.Close()
		r, err := inspect(d, weights)
		if err != nil {
			return bad(d.source, err)
		}
		if a.opts.JSON {
			return a.printJSON(r)
		}
		return a.printInspection(r)
	}
	return cmd
}

// inspection is what inspect --json prints.
type inspection struct {
	Model      string         `json:"model"`
	Dir        string         `json:"dir,omitempty"`
	Files      []string       `json:"files"`
	Bytes      int64          `json:"bytes"`
	Parameters int64          `json:"parameters"`
	Tokenizer  bool           `json:"tokenizer"`
	Config     configJSON     `json:"config"`
	Layers     []layerJSON    `json:"layers"`
	Modules    []moduleJSON   `json:"modules"`
	Tensors    []tensorJSON   `json:"tensors"`
	KV         []kvJSON       `json:"kv"`
	Generation map[string]any `json:"generation"`

	notes []model.Note
}

type configJSON struct {
	Dim     int  `json:"dim"`
	Heads   int  `json:"heads"`
	KVHeads int  `json:"kv_heads"`
	HeadDim int  `json:"head_dim"`
	Experts int  `json:"experts"`
	Vocab   int  `json:"vocab"`
	Context int  `json:"context"`
	QKNorm  bool `json:"qk_norm"`
	Vision  bool `json:"vision"`
}

type layerJSON struct {
	Layer       int  `json:"layer"`
	RoPE        bool `json:"rope"`
	Chunk       int  `json:"chunk"` // 0: sees everything
	Temperature bool `json:"temperature"`
	MoE         bool `json:"moe"`
	FFN         int  `json:"ffn_dim"`
}

type moduleJSON struct {
	Module     string `json:"module"`
	Tensors    int    `json:"tensors"`
	DType      string `json:"dtype"`
	Scales     string `json:"scales,omitempty"` // of a quantised module
	Parameters int64  `json:"parameters"`
	Bytes      int64  `json:"bytes"`
}

type tensorJSON struct {
	Name   string `json:"name"`
	Module string `json:"module"`
	DType  string `json:"dtype"`
	Shape  []int  `json:"shape"`
	Bytes  int64  `json:"bytes"`
	File   string `json:"file"`
}

// kvJSON is the memory that keys and values of one sequence of Tokens take.
type kvJSON struct {
	Tokens  int   `json:"tokens"`
	Global  int64 `json:"global_bytes"`
	Chunked int64 `json:"chunked_bytes"`
}

// inspect collects what there is to know without reading the weights themselves.
func inspect(d *described, weights *safetensors.Checkpoint) (*inspection, error) {
	c := d.config
	r := &inspection{Model: d.name, Dir: d.dir, Files: weights.Files(), Bytes: weights.Bytes(), Tokenizer: d.tokenizer != nil,
		Config: configJSON{c.Dim, c.Heads, c.KVHeads, c.HeadDim, c.Experts, c.Vocab, c.Context, c.QKNorm, c.Vision != nil},
		Generation: map[string]any{"do_sample": d.generation.Sample, "temperature": d.generation.Temperature, "top_p": d.generation.TopP,
			"top_k": d.generation.TopK, "eos": d.generation.EOS}}
	for l := range c.Layers {
		r.Layers = append(r.Layers, layerJSON{l, c.UsesRoPE(l), c.ChunkSize(l), c.AttnTemp(l) != nil, c.IsMoE(l), c.FFNDim(l)})
	}
	inv, err := model.Inspect(weights, c)
	if err != nil {
		return nil, err
	}
	if err := r.addTensors(weights, inv); err != nil {
		return nil, err
	}
	r.addKV(c)
	return r, nil
}

func (r *inspection) addTensors(weights *safetensors.Checkpoint, inv *model.Inventory) error {
	modules := map[string]string{} // of each tensor; "": none reads it
	for _, t := range inv.Tensors {
		modules[t.Name] = t.Module
	}
	for _, name := range weights.Names() {
		t, err := weights.Tensor(name)
		if err != nil {
			return err
		}
		r.Tensors = append(r.Tensors, tensorJSON{name, modules[name], t.DType.String(), orEmpty(t.Shape), int64(len(t.Data)), t.File})
	}
	r.Parameters = inv.Parameters
	for _, m := range inv.Modules {
		r.Modules = append(r.Modules, moduleJSON{m.Name, m.Tensors, m.DType, m.Scales, m.Parameters, m.Bytes})
	}
	slices.SortStableFunc(r.Modules, func(a, b moduleJSON) int { return cmp.Compare(b.Bytes, a.Bytes) })
	r.notes = inv.Notes
	return nil
}

// addKV sizes keys and values at a few lengths; a sequence keeps one chunk in the layers that see chunks.
func (r *inspection) addKV(c *model.Config) {
	spec := c.KVSpec(kernels.F32, 1)
	chunk := 0
	for l := range c.Layers {
		chunk = max(chunk, c.ChunkSize(l))
	}
	for _, n := range []int{1, 2048, 8192, 32768, 131072, 1048576, c.Context} {
		if n > c.Context || len(r.KV) > 0 && r.KV[len(r.KV)-1].Tokens == n {
			continue
		}
		kept := n
		if chunk > 0 {
			kept = min(n, chunk)
		}
		r.KV = append(r.KV, kvJSON{n, int64(n) * int64(spec.PageBytes(kernels.GroupGlobal)), int64(kept) * int64(spec.PageBytes(kernels.GroupChunked))})
	}
}

func (a *app) printInspection(r *inspection) error {
	yes := func(b bool) string {
		if b {
			return a.say("yes", "有")
		}
		return a.say("no", "无")
	}
	c := r.Config
	head := table{}
	head.add(a.say("model", "模型"), r.Model)
	head.add(a.say("parameters", "参数量"), fmt.Sprintf("%.1fM", float64(r.Parameters)/1e6))
	head.add(a.say("files", "文件"), fmt.Sprintf(a.say("%d, %s", "%d 个，%s"), len(r.Files), size(r.Bytes)))
	head.add(a.say("width", "宽度"), fmt.Sprint(c.Dim))
	head.add(a.say("heads", "注意力头"), fmt.Sprintf(a.say("%d queries, %d keys, of %d", "%d 个查询头，%d 个键头，各 %d 维"), c.Heads, c.KVHeads, c.HeadDim))
	head.add(a.say("experts", "专家"), fmt.Sprint(c.Experts))
	head.add(a.say("vocabulary", "词表"), fmt.Sprint(c.Vocab))
	head.add(a.say("context", "上下文"), fmt.Sprint(c.Context))
	head.add(a.say("vision tower", "视觉塔"), yes(c.Vision))
	head.add(a.say("tokenizer", "分词器"), yes(r.Tokenizer))

	layers := table{right: []bool{true}}
	layers.add(a.say("LAYER", "层"), a.say("POSITION", "位置"), a.say("SEES", "可见范围"), a.say("TEMPERATURE", "温度"), a.say("FEED-FORWARD", "前馈"))
	for _, l := range r.Layers {
		position, sees, ffn := "NoPE", a.say("everything", "全部"), a.say("dense", "稠密")
		if l.RoPE {
			position = "RoPE"
		}
		if l.Chunk > 0 {
			sees = fmt.Sprintf(a.say("chunk of %d", "%d 的块"), l.Chunk)
		}
		if l.MoE {
			ffn = fmt.Sprintf(a.say("%d experts + shared", "%d 个专家＋共享专家"), c.Experts)
		}
		layers.add(fmt.Sprint(l.Layer), position, sees, yes(l.Temperature), fmt.Sprintf("%s, %d", ffn, l.FFN))
	}
	modules := table{right: []bool{false, true, true, false, false, true}}
	modules.add(a.say("MODULE", "模块"), a.say("TENSORS", "张量"), a.say("PARAMETERS", "参数量"), a.say("DTYPE", "类型"), a.say("SCALES", "缩放系数"), a.say("SIZE", "大小"))
	for _, m := range r.Modules {
		modules.add(a.term(m.Module), fmt.Sprint(m.Tensors), fmt.Sprintf("%.1fM", float64(m.Parameters)/1e6), m.DType, a.scales(m.Scales), size(m.Bytes))
	}
	memory := table{right: []bool{true, true, true, true}}
	memory.add(a.say("TOKENS", "TOKEN 数"), a.say("KV GLOBAL", "全局 KV"), a.say("KV CHUNKED", "分块 KV"), a.say("WITH WEIGHTS", "连同权重"))
	for _, k := range r.KV {
		memory.add(fmt.Sprint(k.Tokens), size(k.Global), size(k.Chunked), size(r.Bytes+k.Global+k.Chunked))
	}
	for _, n := range r.notes {
		a.noteLoad(n)
	}
	for i, t := range []*table{&head, &layers, &modules, &memory} {
		if i == 3 {
			if err := a.print(a.say("memory of one conversation (float32 keys and values):", "一个对话所需内存（float32 的键和值）：")); err != nil {
				return err
			}
		}
		if err := t.write(a.out); err != nil {
			return err
		}
		if i < 3 {
			if err := a.print(""); err != nil {
				return err
			}
		}
	}
	return nil
}
