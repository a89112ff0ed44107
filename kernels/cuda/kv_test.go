//go:build cuda

package cuda_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

// Keys and values in E4M3 against the CPU, which keeps the same codes: heads of 128, 64 and 32 in prefill, decode and mixed steps.
func TestKeyCodes(t *testing.T) {
	for _, headDim := range []int{128, 64, 32} {
		for _, portable := range []bool{false, true} {
			if headDim < 128 && portable {
				continue // the same kernels
			}
			t.Run(fmt.Sprintf("%d/portable=%v", headDim, portable), func(t *testing.T) {
				keepIn(t, kernels.F8E4M3)
				config := fastConfig()
				config["head_dim"], config["num_hidden_layers"], config["no_rope_layers"] = headDim, 2, []int{1, 0}
				p := dummyPair(t, config, cuda.Options{NoGraphs: true, Portable: portable})
				r := rand.New(rand.NewPCG(41, 42))
				a, b, c := &sequence{}, &sequence{}, &sequence{}
				parity(t, p, []piece{{a, randomTokens(r, 150, 1000)}, {b, randomTokens(r, 70, 1000)}})
				parity(t, p, []piece{{a, randomTokens(r, 1, 1000)}, {b, randomTokens(r, 1, 1000)}, {c, randomTokens(r, 9, 1000)}})
				parity(t, p, []piece{{a, randomTokens(r, 1, 1000)}, {b, randomTokens(r, 1, 1000)}, {c, randomTokens(r, 1, 1000)}})
				if dev, ok := p.gpu.dev.(*cuda.Device); ok {
					ran := dev.Ran()
					if ran["attend_decode_90_e4m3"]+ran[fmt.Sprintf("attend_decode_%d_e4m3", headDim)] == 0 || ran[fmt.Sprintf("attend_prefill_%d_e4m3", headDim)] == 0 {
						t.Errorf("want the kernels for codes, got %v", ran)
					}
				}
			})
		}
	}
}

// Graphs, single launches, taps, company and pieces change no bit with codes either.
func TestKeyCodesSameBits(t *testing.T) {
	for _, portable := range []bool{false, true} {
		if testing.Short() && portable {
			continue // takes long on a software GPU
		}
		t.Run(fmt.Sprint("portable=", portable), func(t *testing.T) {
			keepIn(t, kernels.F8E4M3)
			sameBits(t, portable)
		})
	}
}

func TestKeyErrors(t *testing.T) {
	dev := openGPU(t, cuda.Options{})
	for want, s := range map[string]kernels.KVSpec{
		"BF16 or F8_E4M3":  {Format: kernels.F32, PageTokens: 16, KVHeads: 1, HeadDim: 128},
		"a multiple of 16": {Format: kernels.F8E4M3, PageTokens: 16, KVHeads: 1, HeadDim: 24},
		"8 to 128":         {Format: kernels.BF16, PageTokens: 16, KVHeads: 1, HeadDim: 256},
	} {
		if _, err := dev.NewKV(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: want an error with %q, got %v", s, want, err)
		}
	}
}
