package model_test

import (
	"context"
	"math"
	"os"
	"sync"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
)

// Random weights are those of kernels.Fill at the checkpoint's indices, and keep the residual stream's size.
func TestLoadDummy(t *testing.T) {
	for _, name := range []string{"micro-scout", "micro-maverick"} {
		cfg, err := model.LoadConfig(os.DirFS("testdata/" + name))
		if err != nil {
			t.Fatal(err)
		}
		dev := cpu.New(cpu.Options{})
		t.Cleanup(func() { dev.Close() })
		var mu sync.Mutex
		var last, total int64
		m, err := model.LoadDummy(context.Background(), cfg, dev, 5, model.LoadOptions{Progress: func(d, n int64) {
			mu.Lock()
			defer mu.Unlock()
			last, total = max(last, d), n
		}})
		if err != nil {
			t.Fatal(err)
		}
		if last != total || total == 0 {
			t.Errorf("%s: progress ends at %d of %d", name, last, total)
		}
		var moe *kernels.MoE
		for i := range m.Layers {
			if m.Layers[i].MoE != nil {
				moe = m.Layers[i].MoE
				break
			}
		}
		// Expert 2, up, output 3, input 4: [E, D, 2F] at (2, 4, F+3).
		got, err := moe.GateUp.Get(1, 2)
		if err != nil {
			t.Fatal(err)
		}
		f, d := got.N, cfg.Dim
		prefix := map[string]string{"micro-scout": "0", "micro-maverick": "1"}[name]
		fill := kernels.Fill{Seed: kernels.FillSeed(5, "language_model.model.layers."+prefix+".feed_forward.experts.gate_up_proj"),
			Index: uint64(2*d*2*f + f), NStep: 1, KStep: uint64(2 * f), Std: float32(1 / math.Sqrt(float64(d)))}
		at := 4*got.RowStride() + 3
		bits := uint32(got.Data[2*at])<<16 | uint32(got.Data[2*at+1])<<24
		if v := math.Float32frombits(bits); !got.InOut || v != fill.Value(3, 4) {
			t.Errorf("%s: up of expert 2 at output 3, input 4: got %v, want %v", name, v, fill.Value(3, 4))
		}

		l := &loaded{m, dev}
		tokens := make([]int32, 64)
		for i := range tokens {
			tokens[i] = int32(i * 7 % cfg.Vocab)
		}
		hook := model.Hook{}
		for _, h := range model.Hooks(cfg) {
			if h.At.Hook == kernels.HookResidPost {
				hook = h // the last layer's
			}
		}
		tap := capture(hook, len(tokens))
		newStepper(t, l).step([]piece{{&sequence{}, tokens}}, tap)
		var squares float64
		for _, v := range tap.Buf {
			squares += float64(v) * float64(v)
		}
		if rms := math.Sqrt(squares / float64(len(tap.Buf))); rms < 0.8 || rms > 3 {
			t.Errorf("%s: residual after the last layer has rms %v, want about 1.4", name, rms)
		}
	}
}
