package bench

import (
	"context"
	"maps"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cpu"
	"chulengo/model"
)

// counter is a device that counts the calls of stages, by layer.
type counter struct {
	kernels.Device
	calls map[string]int
}

func (c counter) AttnIn(l *kernels.Attn, x kernels.Act) kernels.Act {
	c.calls["attn_in"]++
	return c.Device.AttnIn(l, x)
}
func (c counter) Attend(l *kernels.Attn, q kernels.Act) kernels.Act {
	c.calls["attend"]++
	return c.Device.Attend(l, q)
}
func (c counter) AttnOut(l *kernels.Attn, x, z kernels.Act) {
	c.calls["attn_out"]++
	c.Device.AttnOut(l, x, z)
}
func (c counter) Route(l *kernels.MoE, x kernels.Act) (h, r kernels.Act) {
	c.calls["route"]++
	return c.Device.Route(l, x)
}
func (c counter) Experts(l *kernels.MoE, x, h, r kernels.Act) {
	c.calls["experts"]++
	c.Device.Experts(l, x, h, r)
}
func (c counter) FFN(l *kernels.Dense, x kernels.Act) {
	c.calls["ffn"]++
	c.Device.FFN(l, x)
}
func (c counter) Logits(l *kernels.Head, x kernels.Act) {
	c.calls["logits"]++
	c.Device.Logits(l, x)
}

// What is left out is one stage of all layers but the first that has it; the step asks for nothing.
func TestForwardWithout(t *testing.T) {
	m, dev := tiny(t)
	device := counter{dev, map[string]int{}}
	s, err := newSteps(&StepOptions{Model: m, Device: device, KV: kernels.F32, PageTokens: 16}, 1, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer s.kv.Close()
	for _, c := range stageCosts { // tiny has 4 layers, two of them with experts
		for _, stages := range [][]string{c.with, c.without} {
			want := map[string]int{"attn_in": 4, "attend": 4, "attn_out": 4, "route": 2, "experts": 2, "ffn": 2}
			for _, stage := range stages {
				want[stage] = 1
			}
			s.restart()
			clear(device.calls)
			s.forward = s.forwardWithout(stages)
			b := &kernels.Batch{}
			s.add(b, &sequence{}, s.ids(20))
			if outs, err := s.run(b); err != nil || len(outs) != 0 {
				t.Fatalf("without %v: got %d answers, %v", stages, len(outs), err)
			}
			if !maps.Equal(device.calls, want) {
				t.Errorf("without %v: want %v, got %v", stages, want, device.calls)
			}
		}
	}
}

// Stages share the bytes of all layers but the first; a report has them beside the step that they are of.
func TestStageResults(t *testing.T) {
	m, dev := tiny(t)
	r, err := RunSteps(context.Background(), StepOptions{Model: m, Device: dev, Name: "tiny", DeviceName: "NVIDIA H200 (not really)",
		Batches: []int{1, 3}, Depths: []int{100}, Prompts: []int{90}, Steps: 4, Repeat: 2, PageTokens: 16, Stages: true})
	if err != nil {
		t.Fatal(err)
	}
	least := DecodeBytes(m.Config, []int{100 + 3*5 + 1}, 2, Widths{})
	found := 0
	for _, x := range r.Results {
		step, stage, ok := strings.Cut(x.Name, "/stage=")
		if !ok {
			continue
		}
		found++
		if x.Median <= 0 || x.Percent <= 0 || step != "decode/batch=1/context=100" {
			t.Errorf("got %+v", x)
		}
		if stage == "experts" && float64(x.Bytes) != least["experts"]/2 {
			t.Errorf("experts of one of two layers: want %.0f bytes, got %d", least["experts"]/2, x.Bytes)
		}
	}
	if found == 0 {
		t.Error("want costs of stages, got none")
	}
}

// tiny is a small model on the CPU.
func tiny(t *testing.T) (*model.Model, kernels.Device) {
	t.Helper()
	cfg, err := model.ParseConfig([]byte(`{"model_type": "llama4_text", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
		"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32, "intermediate_size_mlp": 64, "num_local_experts": 4, "num_experts_per_tok": 1,
		"interleave_moe_layer_step": 2, "vocab_size": 500, "attention_chunk_size": 64, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
		"use_qk_norm": true, "attn_temperature_tuning": true, "floor_scale": 64, "attn_scale": 0.1, "rope_theta": 500000, "hidden_act": "silu"}`))
	if err != nil {
		t.Fatal(err)
	}
	dev := cpu.New(cpu.Options{Threads: 2})
	t.Cleanup(func() { dev.Close() })
	m, err := model.LoadDummy(context.Background(), cfg, dev, 1, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m, dev
}
