package model_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"chulengo/safetensors"
)

// A writer of quantised checkpoints that shares nothing with the reader: codes, scales and zeros are drawn first, each element is
// worth what the format's description says, and words are packed element by element.

// written is a checkpoint in the making.
type written struct {
	r       *rand.Rand
	config  map[string]any
	tensors []safetensors.Tensor
	values  map[string][]float32 // of each module [N, K]: what it is worth
	shapes  map[string][2]int
	groups  map[string][]int // of each input, by a name for modules that share them (scatter)
	group   map[string][]int // the same by module, where groups are scattered
	uneven  bool             // scattered groups differ in size
}

// Sizes that 128 divides, experts and dense layers, RoPE and NoPE.
const wDim, wExpertDim, wDenseDim, wHeads, wKVHeads, wHeadDim, wExperts, wLayers, wVocab = 128, 128, 256, 4, 2, 32, 3, 4, 64

func newWritten(t *testing.T, quantization map[string]any) *written {
	t.Helper()
	data, err := os.ReadFile("testdata/micro-maverick/config.json")
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]map[string]any
	json.Unmarshal(data, &whole) // only objects; the rest is not needed
	config := whole["text_config"]
	for _, key := range []string{"layer_types", "no_rope_layers", "moe_layers"} {
		delete(config, key)
	}
	maps.Copy(config, map[string]any{"hidden_size": wDim, "intermediate_size": wExpertDim, "intermediate_size_mlp": wDenseDim, "num_attention_heads": wHeads,
		"num_key_value_heads": wKVHeads, "head_dim": wHeadDim, "num_local_experts": wExperts, "num_hidden_layers": wLayers, "vocab_size": wVocab,
		"interleave_moe_layer_step": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3})
	if quantization != nil {
		config["quantization_config"] = quantization
	}
	return &written{r: rand.New(rand.NewPCG(11, 12)), config: config, values: map[string][]float32{}, shapes: map[string][2]int{},
		groups: map[string][]int{}, group: map[string][]int{}}
}

// pack stores a module [n, k] under its name and gives what its elements are worth.
type pack func(w *written, name string, n, k int) []float32

// fill writes a whole checkpoint; choose gives the packing of each linear layer, nil for one in BF16.
func (w *written) fill(choose func(name string) pack) {
	linear := func(name string, n, k int) {
		p := choose(name)
		if p == nil {
			p = packBF16
		}
		w.values[name], w.shapes[name] = p(w, name, n, k), [2]int{n, k}
	}
	vector := func(name string) {
		w.add(name+".weight", safetensors.F32, []int{wDim}, f32Bytes(w.draw(wDim, 1)))
	}
	linear("model.embed_tokens", wVocab, wDim)
	for l := range wLayers {
		p := fmt.Sprintf("model.layers.%d.", l)
		vector(p + "input_layernorm")
		vector(p + "post_attention_layernorm")
		linear(p+"self_attn.q_proj", wHeads*wHeadDim, wDim)
		linear(p+"self_attn.k_proj", wKVHeads*wHeadDim, wDim)
		linear(p+"self_attn.v_proj", wKVHeads*wHeadDim, wDim)
		linear(p+"self_attn.o_proj", wDim, wHeads*wHeadDim)
		ffn := func(p string, f int) {
			linear(p+"gate_proj", f, wDim)
			linear(p+"up_proj", f, wDim)
			linear(p+"down_proj", wDim, f)
		}
		p += "feed_forward."
		if l%2 == 0 {
			ffn(p, wDenseDim)
			continue
		}
		linear(p+"router", wExperts, wDim)
		ffn(p+"shared_expert.", wExpertDim)
		for e := range wExperts {
			ffn(fmt.Sprintf("%sexperts.%d.", p, e), wExpertDim)
		}
	}
	vector("model.norm")
	linear("lm_head", wVocab, wDim)
}

func (w *written) add(name string, d safetensors.DType, shape []int, data []byte) {
	w.tensors = append(w.tensors, safetensors.Tensor{Name: name, DType: d, Shape: shape, Data: data})
}

// dir is the checkpoint as a folder.
func (w *written) dir(t *testing.T) fstest.MapFS {
	t.Helper()
	config, err := json.Marshal(w.config)
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	if _, err := safetensors.WriteTo(&file, w.tensors, nil); err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"config.json": {Data: config}, safetensors.SingleName: {Data: []byte(file.String())}}
}

// plain is the same model in F32, from what its elements are worth.
func (w *written) plain(t *testing.T) fstest.MapFS {
	t.Helper()
	p := &written{config: maps.Clone(w.config)}
	delete(p.config, "quantization_config")
	for _, x := range w.tensors {
		if strings.Contains(x.Name, "norm.weight") {
			p.tensors = append(p.tensors, x)
		}
	}
	for name, values := range w.values {
		p.add(name+".weight", safetensors.F32, []int{w.shapes[name][0], w.shapes[name][1]}, f32Bytes(values))
	}
	return p.dir(t)
}

// draw gives n normal numbers of a size, each a bfloat16.
func (w *written) draw(n int, size float64) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = bf16(float32(w.r.NormFloat64() * size))
	}
	return out
}

func bf16(v float32) float32 {
	b := math.Float32bits(v)
	return math.Float32frombits((b + 0x7fff + b>>16&1) >> 16 << 16)
}

func f32Bytes(values []float32) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func bf16Bytes(values []float32) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(v)>>16))
	}
	return b
}

func f16Bytes(halves []uint16) (b []byte) {
	for _, v := range halves {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b
}

func wordBytes(words []uint32) (b []byte) {
	for _, v := range words {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func packBF16(w *written, name string, n, k int) []float32 {
	values := w.draw(n*k, 1/math.Sqrt(float64(k)))
	w.add(name+".weight", safetensors.BF16, []int{n, k}, bf16Bytes(values))
	return values
}

// float8 is an E4M3 number by the OCP specification's table.
func float8(code byte) float64 {
	e, m := int(code>>3&15), float64(code&7)/8
	v := math.Pow(2, float64(e-7)) * (1 + m)
	if e == 0 {
		v = math.Pow(2, -6) * m
	}
	if code&0x80 != 0 {
		v = -v
	}
	return v
}

// floatCodes draws E4M3 codes, all but the two that are no numbers.
func (w *written) floatCodes(n int) []byte {
	codes := make([]byte, n)
	for i := range codes {
		for codes[i] = byte(w.r.Uint32()); codes[i]&0x7f == 0x7f; {
			codes[i] = byte(w.r.Uint32())
		}
	}
	return codes
}

// packFP8 stores F8_E4M3 with scales for blocks of rows × cols; 0: all. flat drops the second dimension of the scales' shape.
func packFP8(rows, cols int, d safetensors.DType, suffix string, flat bool) pack {
	return func(w *written, name string, n, k int) []float32 {
		codes := w.floatCodes(n * k)
		br, bc := rows, cols
		if br == 0 {
			br = n
		}
		if bc == 0 {
			bc = k
		}
		gr, gc := (n+br-1)/br, (k+bc-1)/bc
		scales := w.draw(gr*gc, 0.4/100/math.Sqrt(float64(k)))
		values := make([]float32, n*k)
		for i := range n {
			for j := range k {
				values[i*k+j] = float32(float8(codes[i*k+j])) * scales[i/br*gc+j/bc]
			}
		}
		w.add(name+".weight", safetensors.F8_E4M3, []int{n, k}, codes)
		shape := []int{gr, gc}
		if flat {
			shape = shape[:1]
		}
		if d == safetensors.F32 {
			w.add(name+suffix, d, shape, f32Bytes(scales))
		} else {
			w.add(name+suffix, d, shape, bf16Bytes(scales))
		}
		return values
	}
}

// grouped are 4-bit codes [n][k] with scales and zeros [n][groups] and the group of every input.
type grouped struct {
	codes  [][]int
	scales [][]float32
	zeros  [][]int
	group  []int
}

// scatter names what modules share the groups of their inputs with, which are mixed then (act-order). nil: groups are runs.
type scatter func(name string) string

// drawGrouped draws codes; scales have 8 significant bits, so that BF16 and F16 both hold them.
func (w *written) drawGrouped(name string, n, k, size int, zeros bool, mix scatter) *grouped {
	if size == 0 {
		size = k
	}
	g := &grouped{group: make([]int, k)}
	for j := range k {
		g.group[j] = j / size
	}
	if mix != nil {
		shared := mix(name)
		if w.groups[shared] == nil {
			w.r.Shuffle(k, func(a, b int) { g.group[a], g.group[b] = g.group[b], g.group[a] })
			if w.uneven {
				at := slices.IndexFunc(g.group, func(v int) bool { return v != 0 })
				g.group[at] = 0
			}
			w.groups[shared] = g.group
		}
		g.group = w.groups[shared]
		w.group[name] = g.group
	}
	for range n {
		codes, scales, zs := make([]int, k), make([]float32, k/size), make([]int, k/size)
		for j := range codes {
			codes[j] = w.r.IntN(16)
		}
		for c := range scales {
			scales[c] = float32(128+w.r.IntN(128)) / 128 * 0x1p-6 // 2⁻⁶ to 2⁻⁵
			if zs[c] = 8; zeros {
				zs[c] = 1 + w.r.IntN(15)
			}
		}
		g.codes, g.scales, g.zeros = append(g.codes, codes), append(g.scales, scales), append(g.zeros, zs)
	}
	return g
}

func (g *grouped) values() (out []float32) {
	for n, codes := range g.codes {
		for k, c := range codes {
			out = append(out, float32(c-g.zeros[n][g.group[k]])*g.scales[n][g.group[k]])
		}
	}
	return out
}

// order is the tensor of the group of every input.
func (g *grouped) order() []byte {
	words := make([]uint32, len(g.group))
	for i, v := range g.group {
		words[i] = uint32(v)
	}
	return wordBytes(words)
}

// half is a float16 of a positive power of two times 1.xxxxxxx.
func half(v float32) uint16 {
	b := math.Float32bits(v)
	return uint16((b>>23-127+15)<<10 | b>>13&0x3ff)
}

// packPacked is pack-quantized of compressed-tensors.
func packPacked(size int, zeros bool, mix scatter) pack {
	return func(w *written, name string, n, k int) []float32 {
		g := w.drawGrouped(name, n, k, size, zeros, mix)
		groups := len(g.scales[0])
		words := make([]uint32, n*k/8)
		var scales []float32
		points := make([]uint32, (n+7)/8*groups)
		for i := range n {
			for j, c := range g.codes[i] {
				words[i*(k/8)+j/8] |= uint32(c) << (4 * (j % 8))
			}
			for c, z := range g.zeros[i] {
				points[i/8*groups+c] |= uint32(z) << (4 * (i % 8))
			}
			scales = append(scales, g.scales[i]...)
		}
		w.add(name+".weight_packed", safetensors.I32, []int{n, k / 8}, wordBytes(words))
		w.add(name+".weight_scale", safetensors.BF16, []int{n, groups}, bf16Bytes(scales))
		shape := binary.LittleEndian.AppendUint64(nil, uint64(n))
		w.add(name+".weight_shape", safetensors.I64, []int{2}, binary.LittleEndian.AppendUint64(shape, uint64(k)))
		if zeros {
			w.add(name+".weight_zero_point", safetensors.I32, []int{(n + 7) / 8, groups}, wordBytes(points))
		}
		if mix != nil {
			w.add(name+".weight_g_idx", safetensors.I32, []int{k}, g.order())
		}
		return g.values()
	}
}

// packGPTQ: stored is what a zero of z is stored as, less z.
func packGPTQ(size int, zeros bool, mix scatter, stored int) pack {
	return func(w *written, name string, n, k int) []float32 {
		g := w.drawGrouped(name, n, k, size, zeros, mix)
		groups := len(g.scales[0])
		words, points, scales := make([]uint32, k/8*n), make([]uint32, groups*(n/8)), make([]uint16, groups*n)
		for i := range n {
			for j, c := range g.codes[i] {
				words[j/8*n+i] |= uint32(c) << (4 * (j % 8))
			}
			for c := range groups {
				points[c*(n/8)+i/8] |= uint32(g.zeros[i][c]+stored) << (4 * (i % 8))
				scales[c*n+i] = half(g.scales[i][c])
			}
		}
		w.add(name+".qweight", safetensors.I32, []int{k / 8, n}, wordBytes(words))
		w.add(name+".qzeros", safetensors.I32, []int{groups, n / 8}, wordBytes(points))
		w.add(name+".scales", safetensors.F16, []int{groups, n}, f16Bytes(scales))
		w.add(name+".g_idx", safetensors.I32, []int{k}, g.order())
		return g.values()
	}
}

func packAWQ(size int) pack {
	return func(w *written, name string, n, k int) []float32 {
		g := w.drawGrouped(name, n, k, size, true, nil)
		groups := len(g.scales[0])
		words, points, scales := make([]uint32, k*n/8), make([]uint32, groups*n/8), make([]uint16, groups*n)
		for first := 0; first < n; first += 8 {
			for nibble, output := range []int{0, 2, 4, 6, 1, 3, 5, 7} {
				i := first + output
				for j, c := range g.codes[i] {
					words[j*n/8+first/8] |= uint32(c) << (4 * nibble)
				}
				for c := range groups {
					points[c*n/8+first/8] |= uint32(g.zeros[i][c]) << (4 * nibble)
					scales[c*n+i] = half(g.scales[i][c])
				}
			}
		}
		w.add(name+".qweight", safetensors.I32, []int{k, n / 8}, wordBytes(words))
		w.add(name+".qzeros", safetensors.I32, []int{groups, n / 8}, wordBytes(points))
		w.add(name+".scales", safetensors.F16, []int{groups, n}, f16Bytes(scales))
		return g.values()
	}
}

// nf4Table is the sixteen numbers of nf4, rounded.
var nf4Table = []float32{-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0,
	0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1}

// packBlocks is nf4 of bitsandbytes in blocks of 64; nested quantises the scales too.
func packBlocks(nested bool) pack {
	return func(w *written, name string, n, k int) []float32 {
		const block, outerBlock, offset = 64, 256, 0.0625
		codes := make([]byte, n*k)
		data := make([]byte, n*k/2)
		for i := range codes {
			codes[i] = byte(w.r.IntN(16))
			data[i/2] |= codes[i] << (4 * (1 - i%2))
		}
		scales := w.draw(n*k/block, 0.1)
		state := map[string]any{"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": []int{n, k}}
		name += ".weight"
		if nested {
			table := w.draw(256, 0.1)
			outer := w.draw((len(scales)+outerBlock-1)/outerBlock, 1)
			inner := make([]byte, len(scales))
			for i := range scales {
				inner[i] = byte(w.r.Uint32())
				scaled := table[inner[i]] * outer[i/outerBlock]
				scales[i] = scaled + offset
			}
			w.add(name+".absmax", safetensors.U8, []int{len(scales)}, inner)
			w.add(name+".nested_absmax", safetensors.F32, []int{len(outer)}, f32Bytes(outer))
			w.add(name+".nested_quant_map", safetensors.F32, []int{256}, f32Bytes(table))
			state["nested_blocksize"], state["nested_offset"], state["nested_dtype"] = outerBlock, offset, "float32"
		} else {
			w.add(name+".absmax", safetensors.F32, []int{len(scales)}, f32Bytes(scales))
		}
		text, _ := json.Marshal(state)
		w.add(name, safetensors.U8, []int{n * k / 2, 1}, data)
		w.add(name+".quant_map", safetensors.F32, []int{16}, f32Bytes(nf4Table))
		w.add(name+".quant_state.bitsandbytes__nf4", safetensors.U8, []int{len(text)}, text)
		values := make([]float32, n*k)
		for i, c := range codes {
			values[i] = nf4Table[c] * scales[i/block]
		}
		return values
	}
}
