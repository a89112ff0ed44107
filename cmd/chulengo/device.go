package main

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
)

// gpuDevice is a GPU that can be used, or several, before anything is loaded.
type gpuDevice interface {
	kernels.Device
	// Memory is the free and the whole memory, in bytes: where several share a model, of the one that has least free.
	Memory() (free, total int64, err error)
	// Ranks is how many GPUs share a model.
	Ranks() int
}

// checkDevice refuses what --device, --threads and what belongs to them must not be.
func (a *app) checkDevice() error {
	if a.opts.Threads < 0 {
		return usage("--threads: want 0 or more, got %d", "--threads 的值 %d 不合适：应不小于 0", a.opts.Threads)
	}
	switch a.opts.LoadFormat {
	case "auto", "dummy":
	default:
		return usage("--load-format: want auto or dummy, got %q", "--load-format 的值 %q 不合适：应为 auto 或 dummy", a.opts.LoadFormat)
	}
	if a.opts.Quant != "" && !slices.Contains(model.Recipes, a.recipe()) {
		return usage("--quant: want int4, int4-mixed or fp8, got %q", "--quant 的值 %q 不合适：应为 int4、int4-mixed 或 fp8", a.opts.Quant)
	}
	switch a.opts.KVDType {
	case "auto", "bf16", "fp8":
	default:
		return usage("--kv-dtype: want auto, bf16 or fp8, got %q", "--kv-dtype 的值 %q 不合适：应为 auto、bf16 或 fp8", a.opts.KVDType)
	}
	switch a.opts.Activations {
	case "auto", "fp8":
	default:
		return usage("--activations: want auto or fp8, got %q", "--activations 的值 %q 不合适：应为 auto 或 fp8", a.opts.Activations)
	}
	switch a.opts.Exchange {
	case "auto", "peers", "nccl", "host":
	default:
		return usage("--exchange: want auto, peers, nccl or host, got %q", "--exchange 的值 %q 不合适：应为 auto、peers、nccl 或 host", a.opts.Exchange)
	}
	if err := a.checkProcesses(); err != nil {
		return err
	}
	switch name := a.opts.Device; {
	case name == "auto" || name == "cpu":
		return nil
	default:
		list, ok := cudaOrdinals(name)
		if !ok {
			return usage("--device: want auto, cpu, cuda, cuda:N or several GPUs as cuda:0,cuda:1, got %q",
				"--device 的值 %q 不合适：应为 auto、cpu、cuda、cuda:N，或多个 GPU，如 cuda:0,cuda:1", name)
		}
		if !cudaBuilt {
			return usage("--device cuda: this build has no CUDA kernels (make gpu builds one that has); use --device cpu",
				"--device cuda：此版本不含 CUDA 内核（make gpu 可生成含内核的版本），请用 --device cpu")
		}
		return checkCUDA(list)
	}
}

// checkActivations refuses --activations fp8 for a model that has nothing to multiply with them.
func (a *app) checkActivations(weights *safetensors.Checkpoint, cfg *model.Config, recipe model.Recipe) error {
	if a.activations() != kernels.F8E4M3 {
		return nil
	}
	coded, err := model.LayersCoded(weights, cfg, recipe, kernels.F8E4M3)
	if err == nil && !coded {
		err = usage("--activations fp8: want a model with FP8 weights in its layers, or --quant fp8; others are multiplied with bf16",
			"--activations fp8 需要各层含 FP8 权重的模型，或 --quant fp8；其他权重与 bf16 相乘")
	}
	return err
}

// activations are those of --activations: F8E4M3, or BF16 for what the device has.
func (a *app) activations() kernels.Format {
	if a.opts.Activations == "fp8" {
		return kernels.F8E4M3
	}
	return kernels.BF16
}

// openCPU opens the CPU device.
func (a *app) openCPU() *cpu.Device {
	if a.activations() == kernels.F8E4M3 {
		a.note("--activations fp8: the CPU rounds as a GPU does, and is no faster for it", "--activations fp8：CPU 作与 GPU 相同的舍入，但不会更快")
	}
	return cpu.New(cpu.Options{Threads: a.opts.Threads, Activations: a.activations()})
}

// gpuOptions are how GPUs are opened.
type gpuOptions struct {
	exchange    string
	activations kernels.Format
	profile     bool
}

func (a *app) gpuOptions() gpuOptions {
	return gpuOptions{exchange: a.opts.Exchange, activations: a.activations()}
}

// recipe is that of --quant.
func (a *app) recipe() model.Recipe { return model.Recipe(a.opts.Quant) }

// cudaOrdinals reads cuda (none: whatever suits), cuda:N, or a list of those.
func cudaOrdinals(name string) (list []int, ok bool) {
	if name == "cuda" {
		return nil, true
	}
	for _, one := range strings.Split(name, ",") {
		number, ok := strings.CutPrefix(one, "cuda:")
		if !ok {
			return nil, false
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 {
			return nil, false
		}
		list = append(list, n)
	}
	return list, len(list) <= 8
}

// deviceOptions are what the engine does differently on a GPU: long pieces of prompts, so that every expert has many rows,
// and pages that are read in long runs.
const (
	gpuStepTokens = 8192
	gpuPageTokens = 64

	gpuPictureBytes = 512 << 20 // of encoded pictures: ten of the largest of Scout's
)

// openDevice opens the device of --device for a model and says what the engine's memory is to be. Where no GPU is named, it
// takes as many as hold the model together; auto takes the CPU if none do. weights is what each of so many GPUs has of them, in bytes.
func (a *app) openDevice(ctx context.Context, d *described, weights func(ranks int) (int64, error)) (kernels.Device, engine.Options, error) {
	cfg := d.config
	o := engine.Options{Context: a.opts.Context, KVBytes: int64(a.opts.KVMemory) << 20}
	if a.opts.Processes > 1 {
		dev, err := a.lead(ctx, d, weights, &o)
		return dev, o, err
	}
	if a.opts.Device != "cpu" && cudaBuilt {
		g := o
		gpu, err := a.openFitting(cfg, weights, &g)
		if err == nil {
			return gpu, g, nil
		}
		if a.opts.Device != "auto" {
			return nil, o, err
		}
		a.note("using the CPU: %s", "使用 CPU：%s", a.describe(err))
	}
	return a.openCPU(), o, nil
}

// firstGPUs are the ordinals of so many, at most 8.
func firstGPUs(n int) []int { return []int{0, 1, 2, 3, 4, 5, 6, 7}[:n] }

// openFitting opens the GPUs that are named, or the first 1, 2, 4 or 8 that hold the model.
func (a *app) openFitting(cfg *model.Config, weights func(ranks int) (int64, error), o *engine.Options) (gpuDevice, error) {
	list, named := cudaOrdinals(a.opts.Device)
	tries := [][]int{list}
	if !named || len(list) == 0 {
		tries = [][]int{{0}}
		for ranks := 2; ranks <= 8 && ranks <= countCUDA() && cfg.Heads%ranks == 0 && cfg.KVHeads%ranks == 0; ranks *= 2 {
			tries = append(tries, firstGPUs(ranks))
		}
	}
	var short error
	for _, list := range tries {
		bytes, err := weights(max(len(list), 1))
		if err != nil {
			return nil, err
		}
		gpu, err := openCUDA(list, a.gpuOptions())
		if err != nil {
			return nil, cmp.Or(short, err)
		}
		g := *o
		if short = fit(cfg, gpu, bytes, a.kvFormat(true), a.activations(), &g); short == nil {
			*o = g
			return gpu, nil
		}
		gpu.Close()
	}
	return nil, short
}

// gpuReserve is memory that stays free for the driver and for what is allocated late.
const gpuReserve = 768 << 20

// fit shares out a GPU's free memory: the weights and the workspace must fit, keys and values get what is asked for, or
// what the whole context needs, or what is left.
func fit(cfg *model.Config, gpu gpuDevice, weights int64, keys, activations kernels.Format, o *engine.Options) error {
	free, total, err := gpu.Memory()
	if err != nil {
		return failed(err, "cannot ask the GPU for its memory", "无法查询 GPU 显存")
	}
	o.StepTokens = min(gpuStepTokens, max(cfg.Context, 512))
	o.PageTokens = gpuPageTokens
	o.LockThread = true
	work := workspace(cfg, o.StepTokens, activations) + gpuReserve
	if cfg.Vision != nil {
		o.PictureBytes = gpuPictureBytes
		work += visionWorkspace(cfg.Vision, cfg.Dim) + gpuPictureBytes
	}
	spec := cfg.KVSpec(keys, 1)
	tokenBytes := func() int64 { return int64(spec.PageBytes(kernels.GroupGlobal) + spec.PageBytes(kernels.GroupChunked)) }
	whole := tokenBytes()
	if ranks := gpu.Ranks(); ranks > 1 {
		heads, err := kernels.CutHeads(cfg.KVHeads, cfg.HeadDim, ranks, 0)
		if err != nil {
			return failed(err, "the GPUs cannot share the model", "这些 GPU 无法共同运行此模型")
		}
		spec.KVHeads = heads.Len() / cfg.HeadDim
		work += groupWorkspace(cfg, o.StepTokens, ranks)
	}
	perToken := tokenBytes() // of one GPU
	left := free - weights - work
	const least = 4096 // tokens below which it is no use
	needed := o.KVBytes / whole * perToken
	if needed == 0 {
		needed = perToken * int64(max(min(o.Context, cfg.Context), min(least, cfg.Context)))
	}
	if left < needed {
		fits := ""
		fitsZH := ""
		if left > perToken {
			fits = " What fits is --kv-memory " + strconv.FormatInt(left/perToken*whole>>20, 10) + "."
			fitsZH = " 可容纳 --kv-memory " + strconv.FormatInt(left/perToken*whole>>20, 10) + "。"
		}
		if gpu.Ranks() > 1 {
			return unusable(nil,
				"the %d GPUs have too little free memory: each needs %s for weights, %s for work and %s for keys and values, and one has %s of %s free.%s",
				"%d 个 GPU 的显存不足：每个的权重需 %s，计算需 %s，键值缓存需 %s；其中一个可用 %s（共 %s）。%s",
				gpu.Ranks(), gib(weights), gib(work), gib(needed), gib(free), gib(total), localText{fits, fitsZH})
		}
		return unusable(nil,
			"the GPU has too little free memory: %s for weights, %s for work and %s for keys and values are needed, and %s of %s are free.%s",
			"GPU 显存不足：权重需 %s，计算需 %s，键值缓存需 %s；可用 %s（共 %s）。%s",
			gib(weights), gib(work), gib(needed), gib(free), gib(total), localText{fits, fitsZH})
	}
	if o.KVBytes == 0 {
		o.KVBytes = left / perToken * whole
	}
	return nil
}

// localText is a piece of a message that differs between the languages by more than its frame.
type localText struct{ en, zh string }

func (t localText) String() string { return t.en }

func gib(n int64) string { return strconv.FormatFloat(float64(n)/(1<<30), 'f', 2, 64) + " GiB" }

// workspace bounds what the GPU's stages keep between them for steps of so many rows, buffer by buffer: float32 sums count
// 4 bytes a value, bfloat16 images 2.
func workspace(c *model.Config, rows int, activations kernels.Format) int64 {
	attn := (c.Heads + 2*c.KVHeads) * c.HeadDim
	ffn := 0
	for l := range c.Layers {
		ffn = max(ffn, c.FFNDim(l))
	}
	perRow := 4*c.Dim + 2*c.Dim + // x, h
		4*attn + 2*2*c.Heads*c.HeadDim + // projections, q and z
		2*2*c.Dim + 2*2*ffn + 2*4*c.Dim // gathered rows, two activations, two outputs
	if activations == kernels.F8E4M3 {
		const line = 128
		perRow += max(ffn, c.Heads*c.HeadDim, c.Dim) + line + 4 // codes of what a product reads, in whole lines, and scales
	}
	head := 64 * 4 * 4 * c.Vocab // logits, adjusted ones, two lists of ids
	decode := 64 * 8 * 4 * (3*c.Dim + attn)
	const staging = 6 * 16 << 20
	// Rows are rounded up to a power of two, and places of experts to 16.
	return int64(rows+rows/4+16*c.Experts)*int64(perRow) + int64(head) + int64(decode) + staging
}

// groupWorkspace is what each of several GPUs has besides: two turns of its parts of a step's sums, mailboxes, the logits of all, and
// what NCCL gathers.
func groupWorkspace(c *model.Config, rows, ranks int) int64 {
	d := int64(c.Dim+127) &^ 127
	logits := 64 * 4 * int64(c.Vocab+64*ranks)
	return 2*4*int64(2*rows)*d + 2*int64(ranks)*64*8*d + 2*logits + max(int64(ranks)*32<<20, logits)
}

// visionWorkspace is that of the vision tower, whose results have d values: five tiles go through it at a time (tilesAtOnce of
// kernels/cuda). Widths are rounded up to whole tiles of weights, rows to whole pieces of work.
func visionWorkspace(v *model.VisionConfig, d int) int64 {
	const tiles, padding, piece = 5, 64, 256
	perRow := (4+2)*v.Dim + 2*4*v.Dim + 2*v.FFNDim + 3*4*v.Dim + 2*v.PatchDim() + (4+2*6+3*4)*padding // x, h; q, k, v, z; activations; parts of their product; pixels
	perOut := 2*v.FFNDim + 2*2*v.AdapterDim + 4*d + (4*2+4)*padding
	rows := tiles*(v.Patches()+1) + piece
	return int64(rows)*int64(perRow) + int64(rows)*int64(perOut)/int64(v.Shuffle()*v.Shuffle()) + tiles*4*int64(v.Channels*v.TileSize*v.TileSize)
}

// kvFormat is that of --kv-dtype on a device.
func (a *app) kvFormat(gpu bool) kernels.Format {
	switch {
	case a.opts.KVDType == "fp8":
		return kernels.F8E4M3
	case gpu || a.opts.KVDType == "bf16":
		return kernels.BF16
	}
	return kernels.F32
}
