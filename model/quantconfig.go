package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"chulengo/kernels"
)

// Quantization is the quantization_config of a config.json: what the makers say about how weights are stored. What a tensor
// is follows from the tensors that are there; this is what they are held against.
type Quantization struct {
	Method  string          // quant_method
	Schemes []QuantScheme   // what a module may be; none: whatever the method's tensors can be
	ignore  map[string]bool // modules that are not quantised, by their whole name
	stored1 bool            // GPTQ: zeros are stored less one, as its first format has them
	block   int             // inputs and outputs of a block of FP8
}

// QuantScheme is one way in which modules are quantised.
type QuantScheme struct {
	Format   kernels.Format
	Strategy string // tensor, channel, group or block; "": any
	Group    int    // inputs that share a scale, of the strategy group; 0: any
	Zeros    bool   // every scale has a zero of its own
}

func (s QuantScheme) String() string {
	text := s.Format.String()
	if s.Strategy != "" {
		text += ", a scale for every " + s.Strategy
	}
	if s.Group > 0 {
		text += fmt.Sprintf(" of %d", s.Group)
	}
	if s.Zeros {
		text += ", with zeros"
	}
	return text
}

// allows reports whether a matrix [n, k] quantised as c says is what the scheme means.
func (s QuantScheme) allows(c kernels.Coding, n, k, block int) bool {
	if s.Format != c.Format || s.Zeros != c.Zeros {
		return false
	}
	rows, cols := c.Grid(n, k)
	switch s.Strategy {
	case "tensor":
		return rows*cols == 1
	case "channel":
		return rows == n && cols == 1
	case "group":
		return rows == n && (s.Group == 0 || cols == (k+s.Group-1)/s.Group)
	case "block":
		return rows == (n+block-1)/block && cols == (k+block-1)/block
	}
	return true
}

// packings are the quant_methods and the packings that their tensors come in.
var packings = map[string][]packing{
	"compressed-tensors": {packFloat, packCompressed},
	"fp8":                {packFloat},
	"fbgemm_fp8":         {packFloat},
	"modelopt":           {packFloat},
	"gptq":               {packGPTQ},
	"awq":                {packAWQ},
	"bitsandbytes":       {packNF4},
}

// check holds a quantised module [n, k] against the configuration; nil is a configuration that says nothing.
func (q *Quantization) check(module string, p packing, c kernels.Coding, n, k int) error {
	if q == nil {
		return nil
	}
	fail := func(want string) error {
		return &TensorError{Tensor: module, Want: want + ", as quantization_config says", Got: fmt.Sprintf("%s (%v)", p, c)}
	}
	if q.ignore[module] {
		return fail("a module that is not quantised")
	}
	ok := false
	for _, allowed := range packings[q.Method] {
		ok = ok || allowed == p
	}
	if !ok {
		return fail("one of " + q.Method)
	}
	var wants []string
	for _, s := range q.Schemes {
		if s.allows(c, n, k, q.block) {
			return nil
		}
		wants = append(wants, s.String())
	}
	if len(wants) == 0 {
		return nil
	}
	return fail(strings.Join(wants, " or "))
}

// parseQuantization reads quantization_config. Formats that no reader knows are refused here.
func parseQuantization(o object) *Quantization {
	q := &Quantization{Method: o.text("quant_method", ""), ignore: map[string]bool{}, block: 128}
	if *o.err != nil {
		return q
	}
	switch q.Method {
	case "compressed-tensors":
		parseCompressed(o, q)
	case "fp8", "fbgemm_fp8":
		q.Schemes = []QuantScheme{{Format: kernels.F8E4M3}}
		if sizes := o.integers("weight_block_size", 1, maxDim); len(sizes) > 0 {
			q.block = sizes[0]
			if len(sizes) != 2 || sizes[0] != sizes[1] {
				o.fail("weight_block_size", "two equal numbers", o.shown("weight_block_size"))
			}
			q.Schemes[0].Strategy = "block"
		}
	case "modelopt":
		o.oneOf("quant_algo", "FP8")
		q.Schemes = []QuantScheme{{Format: kernels.F8E4M3}}
	case "gptq":
		o.integer("bits", 4, 4)
		q.stored1 = o.oneOf("checkpoint_format", "gptq", "gptq_v2") == "gptq"
		q.Schemes = []QuantScheme{{Format: kernels.Int4, Strategy: "group", Group: groupSize(o, "group_size"), Zeros: !o.boolean("sym", true)}}
	case "awq":
		bits, group := "bits", "group_size"
		if !o.has(bits) {
			bits, group = "w_bit", "q_group_size"
		}
		o.integer(bits, 4, 4)
		if version := strings.ToLower(o.text("version", "gemm")); version != "gemm" {
			o.fail("version", "gemm", version)
		}
		q.Schemes = []QuantScheme{{Format: kernels.Int4, Strategy: "group", Group: groupSize(o, group), Zeros: true}}
	case "bitsandbytes":
		if !o.boolean("load_in_4bit", o.boolean("_load_in_4bit", false)) {
			o.fail("load_in_4bit", "true", o.shown("load_in_4bit"))
		}
		o.oneOf("bnb_4bit_quant_type", "nf4", "fp4")
		q.Schemes = []QuantScheme{{Format: kernels.Table4}}
	default:
		o.fail("quant_method", "compressed-tensors, fp8, fbgemm_fp8, modelopt, gptq, awq or bitsandbytes", o.shown("quant_method"))
	}
	for _, key := range []string{"ignore", "modules_to_not_convert", "llm_int8_skip_modules"} {
		for _, name := range o.strings(key) {
			q.ignore[name] = true
		}
	}
	return q
}

// groupSize reads the inputs of a group; -1, all of a row, gives 0.
func groupSize(o object, key string) int {
	return max(0, o.integer(key, -1, maxDim, 128))
}

// parseCompressed reads the config_groups of compressed-tensors.
func parseCompressed(o object, q *Quantization) {
	const formats = "float-quantized, pack-quantized, mixed-precision or naive-quantized"
	known := func(name string) bool {
		switch name {
		case "float-quantized", "pack-quantized", "mixed-precision", "naive-quantized":
			return true
		}
		return false
	}
	if f := o.text("format", "mixed-precision"); !known(f) {
		o.fail("format", formats, f)
	}
	groups := o.child("config_groups")
	if *o.err == nil && len(groups.values) == 0 {
		o.fail("config_groups", "at least one", o.shown("config_groups"))
	}
	for _, name := range slices.Sorted(maps.Keys(groups.values)) {
		g := groups.child(name)
		if f := g.text("format", "mixed-precision"); !known(f) {
			g.fail("format", formats, f)
		}
		w := g.child("weights")
		s := QuantScheme{Format: kernels.F8E4M3}
		bits := w.integer("num_bits", 4, 8, 8)
		s.Strategy = w.oneOf("strategy", "tensor", "channel", "group", "block")
		switch kind := w.oneOf("type", "int", "float"); {
		case kind == "int" && bits == 4:
			s.Format, s.Zeros = kernels.Int4, !w.boolean("symmetric", true)
			s.Group = max(0, w.integer("group_size", -1, maxDim, 0))
		case kind == "int" || bits != 8:
			w.fail("num_bits", "4 of type int, or 8 of type float", fmt.Sprintf("%d of type %s", bits, kind))
		}
		if sizes := w.integers("block_structure", 1, maxDim); s.Strategy == "block" && len(sizes) > 0 {
			q.block = sizes[0]
			if len(sizes) != 2 || sizes[0] != sizes[1] {
				w.fail("block_structure", "two equal numbers", w.shown("block_structure"))
			}
		}
		q.Schemes = append(q.Schemes, s)
	}
}
