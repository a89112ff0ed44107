package serve_test

import (
	"context"
	"testing"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/serve"
	"chulengo/tokenizer"
)

// demoSite serves the embedded checkpoint on the CPU, wired as the command does it.
func demoSite(t testing.TB, o serve.Options, eo engine.Options) (*site, *engine.Engine) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	config, err := model.LoadConfig(demo.FS())
	must(err)
	generation, err := model.LoadGeneration(demo.FS(), config)
	must(err)
	tok, err := tokenizer.Load(demo.FS())
	must(err)
	weights, err := safetensors.Open(demo.FS())
	must(err)
	device := cpu.New(cpu.Options{})
	m, err := model.Load(context.Background(), weights, config, device, model.LoadOptions{})
	must(err)
	var e *engine.Engine
	t.Cleanup(func() {
		if e != nil {
			e.Close()
		}
		device.Close()
		weights.Close()
	})
	s := launch(t, o) // ends before the engine does
	eo.Observe, eo.ObserveStep, eo.ObserveToken, eo.ExpertStats = s.server.Observe, s.server.ObserveStep, s.server.ObserveToken, true
	e, err = engine.New(engine.ForModel(m, generation), engine.ForTokenizer(tok), device, eo)
	must(err)
	pictures, err := model.LoadPictures(demo.FS(), config, tok.Special)
	must(err)
	info := serve.ModelInfo{Pictures: engine.NewPictureReader(pictures), Name: demo.Name, Display: demo.Name, Demo: true, Context: e.Context(), Sampling: engine.Defaults(generation), StopIDs: generation.EOS}
	s.server.SetReady(serve.NewBackend(info, tok, tok.NativeTemplate(), e))
	return s, e
}

// pagesUsed are those that requests hold.
func pagesUsed(e *engine.Engine) (n int) {
	for _, group := range e.Stats().Pages {
		n += group.Used
	}
	return n
}
