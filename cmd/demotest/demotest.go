// Package demotest serves the demo checkpoint in tests of other packages, wired as the command beside it does it: on the CPU, or on the GPUs that
// CHULENGO_TEST_DEVICE names (cuda, or cuda:0,cuda:1) where the tests are built with the tag cuda.
package demotest

import (
	"context"
	"os"
	"testing"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/serve"
	"chulengo/tokenizer"
)

// Demo is the checkpoint on a device, with an engine once Start has run.
type Demo struct {
	Tokenizer *tokenizer.Tokenizer
	Engine    *engine.Engine

	device     kernels.Device
	model      *model.Model
	generation *model.Generation
	pictures   *model.Pictures
}

// onGPU opens the GPUs that a value of CHULENGO_TEST_DEVICE names. nil: built without the tag cuda.
var onGPU func(names string) (kernels.Device, error)

// Rounding bounds what kernels of different classes make of a log-probability, relative to 1 + |it|. GPUs round activations to bfloat16
// (2⁻⁹) some ten times in each layer of the demo.
func Rounding() float64 {
	if os.Getenv("CHULENGO_TEST_DEVICE") != "" {
		return 0x1p-9 * 16
	}
	return 1e-3
}

// Load loads the checkpoint. When the test ends, engine and device are closed after everything that the test opens from now on.
func Load(t testing.TB) *Demo {
	t.Helper()
	d := &Demo{device: cpu.New(cpu.Options{})}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if names := os.Getenv("CHULENGO_TEST_DEVICE"); names != "" {
		if onGPU == nil {
			t.Fatalf("CHULENGO_TEST_DEVICE=%s: want a test that is built with the tag cuda", names)
		}
		var err error
		d.device, err = onGPU(names)
		must(err)
	}
	weights, err := safetensors.Open(demo.FS())
	must(err)
	t.Cleanup(func() {
		if d.Engine != nil {
			d.Engine.Close()
		}
		d.device.Close()
		weights.Close()
	})
	config, err := model.LoadConfig(demo.FS())
	must(err)
	d.generation, err = model.LoadGeneration(demo.FS(), config)
	must(err)
	d.Tokenizer, err = tokenizer.Load(demo.FS())
	must(err)
	d.pictures, err = model.LoadPictures(demo.FS(), config, d.Tokenizer.Special)
	must(err)
	d.model, err = model.Load(context.Background(), weights, config, d.device, model.LoadOptions{})
	must(err)
	return d
}

// Start begins the engine.
func (d *Demo) Start(t testing.TB, o engine.Options) {
	t.Helper()
	m := engine.ForModel(d.model, d.generation)
	if os.Getenv("CHULENGO_TEST_DEVICE") != "" {
		m = engine.KeysAs(m, kernels.BF16)
	}
	var err error
	if d.Engine, err = engine.New(m, engine.ForTokenizer(d.Tokenizer), d.device, o); err != nil {
		t.Fatal(err)
	}
}

// Info is what the server says of it.
func (d *Demo) Info() serve.ModelInfo {
	return serve.ModelInfo{Pictures: engine.NewPictureReader(d.pictures), Name: demo.Name, Display: demo.Name, Demo: true, Context: d.Engine.Context(),
		Sampling: engine.Defaults(d.generation), StopIDs: d.generation.EOS}
}

// Backend answers with it.
func (d *Demo) Backend(info serve.ModelInfo) serve.Backend {
	return serve.NewBackend(info, d.Tokenizer, d.Tokenizer.NativeTemplate(), d.Engine)
}
