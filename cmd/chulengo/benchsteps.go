package main

import (
	"context"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"chulengo/bench"
	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/model"
	"chulengo/safetensors"
)

// benchSteps measures the steps of a model on the device of --device: decoding and prefill, and on a GPU each family of kernels. With
// --shape the model is one of the published ones, with random weights, as many layers of it as --layers says.
func (a *app) benchSteps(ctx context.Context) (*bench.Report, error) {
	o := bench.StepOptions{Progress: func(what string) { a.note("measuring %s", "正在测量 %s", what) }, Steps: a.opts.BenchSteps, KV: a.kvFormat(true)}
	for _, list := range []struct {
		option, text string
		to           *[]int
	}{{"--batch", a.opts.BenchBatch, &o.Batches}, {"--depth", a.opts.BenchDepth, &o.Depths}, {"--prompt-tokens", a.opts.BenchPrompt, &o.Prompts}} {
		values, err := numbers(list.text)
		if err != nil {
			return nil, usage("%s: want numbers above 0, such as 1,8,32, got %q", "%s 的值 %q 不合适：应为大于 0 的数，如 1,8,32", list.option, list.text)
		}
		*list.to = values
	}
	var files fs.FS
	var file []byte
	if a.opts.Shape == "" {
		src, err := a.resolve(a.opts.Model)
		if err != nil {
			return nil, err
		}
		files, o.Name = src.files, src.name
		if file, err = fs.ReadFile(files, "config.json"); err != nil {
			return nil, bad(src, err)
		}
	} else {
		o.Name = a.opts.Shape
	}
	if a.opts.Shape == "vision" { // a picture of one tile, of five, and the largest
		o.Tiles = []int{1, 5, 17}
	}
	dummy := a.opts.Shape != "" || a.opts.Layers > 0 || a.opts.LoadFormat == "dummy"
	var ckpt *safetensors.Checkpoint // nil: random weights
	if !dummy {
		var err error
		if ckpt, err = safetensors.Open(files); err != nil {
			return nil, err
		}
		defer ckpt.Close()
	}
	data := file // a checkpoint has all that its configuration says, pictures too
	if dummy {
		var err error
		if data, err = bench.ShapeConfig(a.opts.Shape, file, a.opts.Layers, 0); err != nil {
			return nil, unusable(err, "cannot use this shape", "无法使用此形状")
		}
	}
	cfg, err := model.ParseConfig(data)
	if err != nil {
		return nil, err
	}
	if dummy {
		layers := cfg.Layers
		if o.Tiles != nil {
			layers = cfg.Vision.Layers
		}
		o.Name += ", random weights, " + strconv.Itoa(layers) + " layers"
	}
	if a.opts.Quant != "" {
		o.Name += ", " + a.opts.Quant
	}
	if a.activations() == kernels.F8E4M3 {
		o.Name += ", fp8 activations"
	}
	list, gpu := cudaOrdinals(a.opts.Device)
	if a.opts.Device == "auto" && cudaBuilt {
		weights := func(ranks int) (int64, error) { return model.DeviceBytes(ckpt, cfg, a.recipe(), ranks) }
		if dev, err := a.openFitting(cfg, weights, &engine.Options{}); err != nil {
			a.note("using the CPU: %s", "使用 CPU：%s", a.describe(err))
		} else {
			list, gpu = firstGPUs(dev.Ranks()), true
			dev.Close()
		}
	}
	if gpu {
		o.Encodings, o.Ranks = 8, max(len(list), 1)
	}
	open := func(profile bool) (kernels.Device, func() []bench.KernelTime, error) {
		if !gpu {
			return a.openCPU(), nil, nil
		}
		how := a.gpuOptions()
		how.profile = profile
		return openProfiled(list, how)
	}
	if gpu {
		o.Progress("verify")
		if err := a.verifySteps(ctx, file, open); err != nil {
			return nil, err
		}
	}
	var report *bench.Report
	for _, profile := range []bool{true, false} {
		if profile && (!gpu || o.Tiles != nil || o.Ranks > 1) {
			continue
		}
		dev, times, err := open(profile)
		if err != nil {
			return nil, err
		}
		o.Device, o.DeviceName, o.KernelTimes, o.Stages = dev, dev.Name(), times, gpu
		if report, err = a.benchDevice(ctx, o, cfg, ckpt, report); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// benchDevice loads the model of a checkpoint (nil: random weights) and measures it; the results follow those of the report before (nil: none).
func (a *app) benchDevice(ctx context.Context, o bench.StepOptions, cfg *model.Config, ckpt *safetensors.Checkpoint, before *bench.Report) (*bench.Report, error) {
	defer o.Device.Close()
	o.Progress("load " + o.Name)
	loaded := func() {}
	if g, ok := o.Device.(gpuDevice); ok {
		need, err := model.DeviceBytes(ckpt, cfg, a.recipe(), g.Ranks())
		if err != nil {
			return nil, err
		}
		free, total, err := g.Memory()
		if err == nil && need+3<<30 > free {
			return nil, unusable(nil, "the GPU has too little free memory: %s are needed, and %s of %s are free; --layers takes fewer layers",
				"GPU 显存不足：需要 %s，可用 %s（共 %s）；可用 --layers 减少层数", gib(need+3<<30), gib(free), gib(total))
		}
		loaded = func() {
			if now, _, err := g.Memory(); err == nil {
				a.note("weights take %s of the GPU's memory, %s were computed", "权重占用显存 %s，计算值为 %s", gib(free-now), gib(need))
			}
		}
	}
	load := model.LoadOptions{Recipe: a.recipe(), Notes: a.noteLoad}
	o.Widths.KV = float64(o.KV.Size())
	err := a.checkActivations(ckpt, cfg, load.Recipe)
	if err != nil {
		return nil, err
	}
	if o.Widths.Weights, err = model.ValueBytes(ckpt, cfg, load.Recipe); err != nil {
		return nil, err
	}
	if ckpt == nil {
		o.Model, err = model.LoadDummy(ctx, cfg, o.Device, 1, load)
	} else {
		o.Model, err = model.Load(ctx, ckpt, cfg, o.Device, load)
	}
	if err != nil {
		return nil, err
	}
	loaded()
	report, err := bench.RunSteps(ctx, o)
	if err == nil && before != nil {
		report.Results = append(before.Results, report.Results...)
		report.Skipped = slices.Compact(slices.Sorted(slices.Values(slices.Concat(before.Skipped, report.Skipped))))
	}
	return report, err
}

// verifySteps holds the GPU against the CPU on two layers of the shape before anything is timed.
func (a *app) verifySteps(ctx context.Context, file []byte, open func(bool) (kernels.Device, func() []bench.KernelTime, error)) error {
	cfg, err := bench.VerifyConfig(a.opts.Shape, file)
	if err != nil {
		return err
	}
	dev, _, err := open(false)
	if err != nil {
		return err
	}
	defer dev.Close()
	oracle := a.openCPU()
	defer oracle.Close()
	var models [2]*model.Model
	for i, d := range []kernels.Device{dev, oracle} {
		if models[i], err = model.LoadDummy(ctx, cfg, d, 1, model.LoadOptions{Recipe: a.recipe()}); err != nil {
			return err
		}
	}
	if cfg.Vision != nil {
		worst, err := bench.VerifyVision(dev, oracle, models[0], models[1])
		if err == nil {
			a.note("the vision tower's rows after two layers agree with the CPU's: off by %.4f", "视觉塔两层之后的结果与 CPU 一致：相对误差 %.4f", worst)
		}
		return err
	}
	worst, err := bench.VerifySteps(dev, oracle, models[0], models[1], gpuPageTokens, a.activations())
	if err == nil {
		a.note("every value of two layers agrees with the CPU's: off by %.4f at most", "两层的每个中间值与 CPU 一致：相对误差至多 %.4f", worst)
	}
	return err
}

// numbers reads 1,8,32; "" is no list.
func numbers(text string) (list []int, err error) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 {
			return nil, strconv.ErrSyntax
		}
		list = append(list, n)
	}
	return list, nil
}
