package model

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"chulengo/kernels"
	"chulengo/safetensors"
)

// Checkpoints are written in the format of compressed-tensors, which other runtimes read: packed words for Int4, bytes for FP8, experts
// one by one; what is not quantised keeps its tensor as it is.

// shardBytes is the size of a shard, as published checkpoints have it.
const shardBytes = 5_000_000_000

// Quantise writes a plain checkpoint, quantised by o.Recipe, as safetensors shards with an index into dir, an existing folder. A few
// matrices at a time are in memory. The rest of a checkpoint's folder is the caller's: its config.json is that of QuantisedConfig.
func Quantise(ctx context.Context, ckpt *safetensors.Checkpoint, c *Config, dir string, o LoadOptions) error {
	found, err := describe(c).resolve(ckpt)
	if err != nil {
		return err
	}
	if err := found.apply(o.Recipe); err != nil {
		return err
	}
	var tensors []safetensors.Tensor
	var jobs []func() (int64, error)
	var out *safetensors.ShardedWriter
	copied := map[*safetensors.Tensor]bool{}
	for _, row := range found.rows {
		for part, experts := range row.sources {
			for expert, s := range experts {
				if !row.spec.Coding.Format.Quantised() {
					for _, t := range s.tensors {
						if !copied[t] {
							copied[t] = true
							tensors = append(tensors, safetensors.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape})
							jobs = append(jobs, func() (int64, error) { return int64(len(t.Data)), out.Put(t.Name, t.Data) })
						}
					}
					continue
				}
				name, n, k := row.linear(part, expert), row.spec.Parts[part], row.spec.K
				tensors = append(tensors, packedTensors(name, row.spec.Coding, n, k)...)
				jobs = append(jobs, func() (int64, error) {
					m, err := row.matrix(expert, s)
					if err != nil {
						return 0, err
					}
					for _, t := range packMatrix(name, m) {
						if err := out.Put(t.Name, t.Data); err != nil {
							return 0, err
						}
					}
					return s.bytes(), nil
				})
			}
		}
	}
	if out, err = safetensors.CreateSharded(dir, tensors, shardBytes, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, job := range jobs {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := job()
			if d := done.Add(n); err == nil && o.Progress != nil {
				o.Progress(d, found.bytes)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		out.Abort()
		return err
	}
	return out.Close()
}

// linear is the name of the module that a matrix is in a checkpoint whose experts are stored one by one.
func (w weight) linear(part, expert int) string {
	if !w.tensors[0].fused {
		return strings.TrimSuffix(w.tensors[part].Name, ".weight")
	}
	return expertName(w.tensors[0].Name, strconv.Itoa(expert), w.spec.Parts, part)
}

// packedTensors are the names, dtypes and shapes of what packMatrix gives.
func packedTensors(module string, c kernels.Coding, n, k int) []safetensors.Tensor {
	rows, cols := c.Grid(n, k)
	scale := safetensors.Tensor{Name: module + ".weight_scale", DType: safetensors.BF16, Shape: []int{rows, cols}}
	if c.Format == kernels.F8E4M3 {
		return []safetensors.Tensor{{Name: module + ".weight", DType: safetensors.F8_E4M3, Shape: []int{n, k}}, scale}
	}
	return []safetensors.Tensor{{Name: module + ".weight_packed", DType: safetensors.I32, Shape: []int{n, k / 8}}, scale,
		{Name: module + ".weight_shape", DType: safetensors.I64, Shape: []int{2}}}
}

// packMatrix gives the tensors of a matrix that a recipe quantised. Words of 8 codes, the first in the lowest bits, have the bytes of codes
// of which the even one is in the low half.
func packMatrix(module string, m kernels.Matrix) []safetensors.Tensor {
	list := packedTensors(module, m.Coding, m.N, m.K)
	list[0].Data = m.Data
	for _, s := range m.Scales { // values of BF16
		list[1].Data = binary.LittleEndian.AppendUint16(list[1].Data, uint16(math.Float32bits(s)>>16))
	}
	if len(list) > 2 {
		list[2].Data = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(m.N)), uint64(m.K))
	}
	return list
}

// QuantisedConfig is the config.json of a checkpoint that a recipe quantised: the one before, with a quantization_config.
func QuantisedConfig(before []byte, r Recipe) ([]byte, error) {
	var err error
	o := parseObject("config.json", before, &err)
	if err != nil {
		return nil, err
	}
	o.values["quantization_config"], err = json.Marshal(compressedConfig(r))
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(o.values, "", "  ")
	return append(text, '\n'), err
}

// compressedConfig says in the words of compressed-tensors what a recipe quantises.
func compressedConfig(r Recipe) map[string]any {
	weights := func(c kernels.Coding) map[string]any {
		w := map[string]any{"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true, "dynamic": false, "observer": "minmax", "group_size": nil, "actorder": nil, "block_structure": nil}
		if c.Format == kernels.Int4 {
			w["num_bits"], w["type"], w["strategy"], w["group_size"] = 4, "int", "group", c.Cols
		}
		return w
	}
	group := func(c kernels.Coding, targets ...string) map[string]any {
		g := map[string]any{"targets": targets, "weights": weights(c), "input_activations": nil, "output_activations": nil, "format": "pack-quantized"}
		if c.Format == kernels.F8E4M3 { // who multiplies in FP8 scales activations token by token
			g["format"] = "float-quantized"
			g["input_activations"] = map[string]any{"num_bits": 8, "type": "float", "strategy": "token", "symmetric": true, "dynamic": true}
		}
		return g
	}
	groups, format := map[string]any{}, "pack-quantized"
	ignore := []string{"re:.*router", "re:.*vision_model.*", "re:.*multi_modal_projector.*"}
	ffn := "re:.*feed_forward[.](experts|shared_expert|gate_proj|up_proj|down_proj).*"
	switch attention := []string{"re:.*self_attn.*", "re:.*lm_head"}; r {
	case RecipeINT4:
		groups["group_0"] = group(int4Groups, ffn)
		ignore = append(attention, ignore...)
	case RecipeINT4Mixed:
		format = "mixed-precision"
		groups["group_0"], groups["group_1"] = group(int4Groups, ffn), group(fp8Rows, attention...)
	case RecipeFP8:
		format = "float-quantized"
		groups["group_0"] = group(fp8Rows, append(attention, ffn)...)
	}
	return map[string]any{"quant_method": "compressed-tensors", "quantization_status": "compressed", "format": format, "config_groups": groups,
		"ignore": ignore, "kv_cache_scheme": nil}
}
