package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/serve"
	"chulengo/tokenizer"
)

// described is a checkpoint whose small files were read.
type described struct {
	*source
	config     *model.Config
	generation *model.Generation
	tokenizer  *tokenizer.Tokenizer // nil: the checkpoint has none
	bytes      int64                // of the weights as they lie in a GPU's memory; 0 until they are loaded
}

// loaded is a checkpoint that is ready to generate.
type loaded struct {
	*described
	engine *engine.Engine
	device kernels.Device
	took   time.Duration

	weights *safetensors.Checkpoint // nil: random ones (--load-format dummy)
}

// Close frees everything, in the order in which one needs the other.
func (l *loaded) Close() {
	if l.engine != nil {
		l.engine.Close()
	}
	if l.device != nil {
		l.device.Close()
	}
	if l.weights != nil {
		l.weights.Close()
	}
}

// describeModel reads what the checkpoint of --model says about itself.
func (a *app) describeModel() (*described, error) {
	src, err := a.resolve(a.opts.Model)
	if err != nil {
		return nil, err
	}
	d := &described{source: src}
	if d.config, err = model.LoadConfig(src.files); err != nil {
		return nil, bad(src, err)
	}
	if d.generation, err = model.LoadGeneration(src.files, d.config); err != nil {
		return nil, bad(src, err)
	}
	if d.tokenizer, err = tokenizer.Load(src.files); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, bad(src, err)
		}
		d.tokenizer = nil
	}
	return d, nil
}

// bad says which checkpoint an error is about.
func bad(src *source, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return unusable(err, "cannot use the checkpoint %s", "无法使用模型 %s", src.where())
}

// needTokenizer refuses a checkpoint without one.
func (d *described) needTokenizer() error {
	if d.tokenizer != nil {
		return nil
	}
	return unusable(nil, "the checkpoint %s has no tokenizer (tokenizer.json or tokenizer.model); without one only generate --prompt-ids works",
		"模型 %s 没有分词器（tokenizer.json 或 tokenizer.model）；没有分词器时只能用 generate --prompt-ids", d.where())
}

// load opens the checkpoint of --model, brings it to the device of --device and starts an engine. progress (nil: none)
// is told bytes, from several goroutines.
func (a *app) load(ctx context.Context, progress func(done, total int64)) (*loaded, error) {
	d, err := a.describeModel()
	if err != nil {
		return nil, err
	}
	return a.start(ctx, d, progress)
}

// start is the part of load that takes time.
func (a *app) start(ctx context.Context, d *described, progress func(done, total int64)) (*loaded, error) {
	begin := time.Now()
	if err := a.checkDevice(); err != nil {
		return nil, err
	}
	if a.opts.Context < 0 || a.opts.Context > d.config.Context {
		return nil, usage("--context: want 0 to the model's %d, got %d", "--context 的值 %[2]d 不合适：应在 0 与模型的 %[1]d 之间", d.config.Context, a.opts.Context)
	}
	if a.opts.KVMemory < 0 {
		return nil, usage("--kv-memory: want 0 or more, got %d", "--kv-memory 的值 %d 不合适：应不小于 0", a.opts.KVMemory)
	}
	l := &loaded{described: d}
	var err error
	if a.opts.LoadFormat != "dummy" {
		if l.weights, err = safetensors.Open(d.files); err != nil {
			return nil, bad(d.source, err)
		}
	}
	if err := a.checkActivations(l.weights, d.config, a.recipe()); err != nil {
		l.Close()
		return nil, err
	}
	weights := func(ranks int) (int64, error) {
		n, err := model.DeviceBytes(l.weights, d.config, a.recipe(), ranks)
		if err != nil {
			return 0, bad(d.source, err)
		}
		return n, nil
	}
	if d.bytes, err = weights(1); err != nil {
		l.Close()
		return nil, err
	}
	var o engine.Options
	if l.device, o, err = a.openDevice(ctx, d, weights); err != nil {
		l.Close()
		return nil, err
	}
	if a.observe != nil {
		o.MaxSequences, o.MaxQueue = a.opts.MaxBatch, a.opts.MaxQueue
		if o.MaxQueue == 0 {
			o.MaxQueue = -1 // none
		}
		o.Observe, o.ObserveToken, o.ObserveStep, o.ExpertStats = a.observe.Observe, a.observe.ObserveToken, a.observe.ObserveStep, true
	}
	_, gpu := l.device.(gpuDevice)
	if err := l.run(ctx, o, a.opts.Seed.value, a.kvFormat(gpu), model.LoadOptions{Progress: progress, Recipe: a.recipe(), Notes: a.noteLoad}); err != nil {
		l.Close()
		return nil, bad(d.source, err)
	}
	l.took = time.Since(begin)
	wanted := a.opts.Context
	if wanted == 0 {
		wanted = d.config.Context
	}
	if fits := l.engine.Context(); fits < wanted {
		a.note("context: %d of %d tokens fit into the memory for keys and values (--kv-memory)", "上下文：键值缓存的内存（--kv-memory）可容纳 %d 个 token，所需为 %d", fits, wanted)
	}
	return l, nil
}

// run brings the weights to the device and starts the engine, which keeps keys and values as `keys`.
func (l *loaded) run(ctx context.Context, o engine.Options, seed uint64, keys kernels.Format, load model.LoadOptions) error {
	m, err := l.bring(ctx, seed, load)
	if err != nil {
		return err
	}
	var decoders engine.Tokenizer
	if l.tokenizer != nil {
		decoders = engine.ForTokenizer(l.tokenizer)
	}
	l.engine, err = engine.New(engine.KeysAs(engine.ForModel(m, l.generation), keys), decoders, l.device, o)
	return err
}

// bring brings the weights to the device.
func (l *loaded) bring(ctx context.Context, seed uint64, load model.LoadOptions) (*model.Model, error) {
	if l.weights == nil {
		return model.LoadDummy(ctx, l.config, l.device, seed, load)
	}
	return readWeights(ctx, l, load)
}

// noteLoad says what of a checkpoint is not kept as it is stored.
func (a *app) noteLoad(n model.Note) {
	count, first := len(n.Modules), n.Modules[0]
	switch n.Reason {
	case model.ActivationOrder:
		a.note("%d modules become bfloat16: their groups are in the order of activations (act-order), in which their inputs cannot be, such as %s", "%d 个模块转为 bfloat16：其分组按激活排序（act-order），而其输入无法按此次序排列，如 %s", count, first)
	case model.MixedParts:
		a.note("%d modules become bfloat16: what they are stored with is quantised otherwise or not at all, such as %s", "%d 个模块转为 bfloat16：与之同组的矩阵量化方式不同或未量化，如 %s", count, first)
	case model.PlainRouter:
		a.note("%d routers become bfloat16, such as %s", "%d 个路由器转为 bfloat16，如 %s", count, first)
	case model.SkippedScales:
		a.note("%d scales of activations or of keys and values are not used, such as %s", "%d 个激活值或键值缓存的缩放系数未使用，如 %s", count, first)
	}
}

// readWeights loads the model while another goroutine reads ahead of it at the disk's speed.
func readWeights(ctx context.Context, l *loaded, load model.LoadOptions) (*model.Model, error) {
	ahead, stop := context.WithCancel(ctx)
	touched := make(chan struct{})
	go func() {
		defer close(touched)
		l.weights.Touch(ahead, nil) // only a help: what is wrong with a file, Load says
	}()
	m, err := model.Load(ctx, l.weights, l.config, l.device, load)
	stop()
	<-touched
	return m, err
}

// template is the chat format of --chat-template.
func (a *app) template(d *described) (tokenizer.ChatTemplate, error) {
	if err := d.needTokenizer(); err != nil {
		return nil, err
	}
	switch name := a.opts.Template; name {
	case "native":
		return d.tokenizer.NativeTemplate(), nil
	case "checkpoint":
		text, ok := d.tokenizer.CheckpointTemplate()
		if !ok {
			return nil, unusable(nil, "the checkpoint %s has no chat template; use --chat-template native", "模型 %s 没有对话模板，请用 --chat-template native", d.where())
		}
		t, err := d.tokenizer.JinjaTemplate(text)
		if err != nil {
			return nil, unusable(err, "cannot use the chat template of %s", "无法使用 %s 的对话模板", d.where())
		}
		return t, nil
	default:
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, usage("--chat-template: want native, checkpoint or a file, and %q cannot be read", "--chat-template 应为 native、checkpoint 或文件，而 %q 无法读取", name)
		}
		t, err := d.tokenizer.JinjaTemplate(string(text))
		if err != nil {
			return nil, failed(err, "cannot use the chat template %s", "无法使用对话模板 %s", name)
		}
		return t, nil
	}
}

// info is what the server tells about a checkpoint.
func (a *app) info(d *described) serve.ModelInfo {
	info := serve.ModelInfo{Name: d.name, Display: d.name, Llama: d.isLlama(d.config), Scout: d.isScout(d.config), Demo: d.demo,
		Context: d.config.Context, TrainContext: d.config.Context, Dim: d.config.Dim, Sampling: engine.Defaults(d.generation),
		Root: d.where(), StopIDs: d.config.EOS, Params: model.Parameters(d.config), Bytes: cmp.Or(d.bytes, 2*model.Parameters(d.config)), Sequences: a.opts.MaxBatch}
	if d.generation != nil {
		info.StopIDs = d.generation.EOS
	}
	if d.tokenizer != nil {
		info.ChatTemplate, _ = d.tokenizer.CheckpointTemplate()
	}
	return info
}
