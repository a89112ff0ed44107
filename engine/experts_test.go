package engine_test

import (
	"context"
	"os"
	"testing"
	"time"

	"chulengo/engine"
	"chulengo/kernels"
)

// counting is a device that counts experts by itself: layer l's expert e has 100·l + e rows. It wants no taps.
type counting struct {
	kernels.Device
	t      *testing.T
	layers int
}

func (c *counting) Step(b *kernels.Batch, forward func()) <-chan kernels.Result {
	if len(b.Taps) > 0 {
		c.t.Error("a step has taps where the device counts")
	}
	return c.Device.Step(b, forward)
}

func (c *counting) ExpertRows() ([][]uint64, error) {
	rows := make([][]uint64, c.layers)
	for l := range rows {
		rows[l] = []uint64{uint64(100 * l), uint64(100*l + 1)}
	}
	return rows, nil
}

// Counts of a device that counts by itself are there once the engine has nothing to do.
func TestExpertCounter(t *testing.T) {
	m, dev := llama(t, os.DirFS("../model/testdata/micro-scout"))
	layers := m.Spec().KV.Layers[0] + m.Spec().KV.Layers[1]
	e, err := engine.New(m, nil, &counting{dev, t, layers}, engine.Options{ExpertStats: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Generate(context.Background(), engine.Request{Prompt: []int32{1, 2, 3}, MaxTokens: 3}, nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		seen := 0
		for l, n := range e.Stats().ExpertTokens {
			if n != nil && n[0] == uint64(100*l) && n[1] == uint64(100*l+1) {
				seen++
			}
		}
		if seen > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the device's counts do not come: %v", e.Stats().ExpertTokens)
		}
	}
}
