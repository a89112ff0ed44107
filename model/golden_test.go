package model_test

import (
	"fmt"
	"strings"
	"testing"

	"chulengo/kernels"
	"chulengo/model"
)

// tolerance on ‖out-ref‖/‖ref‖ of float32 results against the float32 reference: both round, and the reference's own
// order of summation differs by about this much between machines.
const tolerance = 3e-6

func TestReferenceOutputs(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			m, want := load(t, g.dir, 0), reference(t, g.dir)
			prompt := ids(want("text.input_ids"))
			hooks := model.Hooks(m.Config)
			var taps []kernels.Tap
			for _, h := range hooks {
				if h.At.Hook != kernels.HookLogits {
					taps = append(taps, capture(h, len(prompt)))
				}
			}
			logits := newStepper(t, m).step([]piece{{&sequence{}, prompt}}, taps...)
			check := func(what, ref string, got []float32) {
				t.Helper()
				if e := relativeError(got, want(ref)); !(e <= tolerance) {
					t.Errorf("%s: relative error %.2e, want at most %.0e", what, e, tolerance)
				} else {
					t.Logf("%s: %.2e", what, e)
				}
			}
			check("logits", "text.logits", logits)
			moe, choices := 0, 0
			for _, tap := range taps {
				l := tap.At.Layer
				switch tap.At.Hook {
				case kernels.HookEmbed:
					if strings.HasPrefix(g.name, "micro-") {
						continue // make.py leaves them out: rows of the table, which hidden 0 contains
					}
					check("embedding", "text.embed", tap.Buf)
				case kernels.HookResidPost:
					check(fmt.Sprintf("hidden %d", l), fmt.Sprintf("text.hidden.%d", l), tap.Buf)
				case kernels.HookAttnOut:
					if g.name == "micro-maverick" {
						continue // make.py leaves them out
					}
					check(fmt.Sprintf("attention %d", l), fmt.Sprintf("text.attn_out.%d", l), tap.Buf)
				case kernels.HookRouterLogits:
					ref := fmt.Sprintf("text.router_logits.%d", moe)
					moe++
					check(fmt.Sprintf("router %d", l), ref, tap.Buf)
					for row, best := range argmaxRows(want(ref), m.Config.Experts) {
						choices++
						if got := argmaxRows(tap.Buf, m.Config.Experts)[row]; got != best {
							t.Errorf("layer %d token %d: expert %d, want %d", l, row, got, best)
						}
					}
				}
			}
			// The indices that the experts stage used are those of the router's logits.
			for i, tap := range taps {
				if tap.At.Hook == kernels.HookExpertIndex {
					for row, best := range argmaxRows(taps[i-1].Buf, m.Config.Experts) {
						if int(tap.Buf[row]) != best {
							t.Errorf("layer %d token %d: expert %v used, %d routed", tap.At.Layer, row, tap.Buf[row], best)
						}
					}
				}
			}
			t.Logf("%d expert choices", choices)
		})
	}
}

func argmaxRows(x []float32, width int) []int {
	out := make([]int, len(x)/width)
	for row := range out {
		values := x[row*width : (row+1)*width]
		for i, v := range values {
			if v > values[out[row]] {
				out[row] = i
			}
		}
	}
	return out
}

// Greedy continuation, teacher-forced on the recorded ids: the best token is the recorded one wherever the gap to the
// runner-up exceeds 1e-3.
func TestGreedyContinuation(t *testing.T) {
	const clear = 1e-3
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			m, want := load(t, g.dir, 0), reference(t, g.dir)
			tokens, gaps := ids(want("generate.tokens")), want("generate.margin")
			n := int(want("generate.prompt_len")[0])
			s, q := newStepper(t, m), &sequence{}
			logits := s.step([]piece{{q, tokens[:n]}})
			for i, gap := range gaps {
				rows := argmaxRows(logits, m.Config.Vocab)
				if got := rows[len(rows)-1]; got != int(tokens[n+i]) && gap > clear {
					t.Errorf("token %d: got %d, want %d (gap %v)", i, got, tokens[n+i], gap)
				}
				logits = s.step([]piece{{q, tokens[n+i : n+i+1]}})
			}
		})
	}
}

// One prompt gives the same bits whole, in pieces of any size, beside other sequences, with taps, on one thread or many,
// and restarted at a chunk's start with the global pages alone.
func TestSameBits(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			m, want := load(t, g.dir, 0), reference(t, g.dir)
			prompt := ids(want("text.input_ids"))
			n, v := len(prompt), m.Config.Vocab
			first := &sequence{}
			whole := newStepper(t, m)
			ref := whole.step([]piece{{first, prompt}})
			same := func(what string, got, want []float32) {
				t.Helper()
				if i := firstDifference(got, want); i >= 0 {
					t.Errorf("%s: row %d column %d differs", what, i/v, i%v)
				}
			}

			var taps []kernels.Tap
			for _, h := range model.Hooks(m.Config) {
				taps = append(taps, capture(h, n))
			}
			same("with every tap set", newStepper(t, m).step([]piece{{&sequence{}, prompt}}, taps...), ref)

			for _, size := range []int{1, 2, 7, 19, 31, 33, 50} {
				s, q := newStepper(t, m), &sequence{}
				var got []float32
				for at := 0; at < n; at += size {
					got = append(got, s.step([]piece{{q, prompt[at:min(n, at+size)]}})...)
				}
				same(fmt.Sprintf("pieces of %d", size), got, ref)
			}

			s, a, b, c := newStepper(t, m), &sequence{}, &sequence{}, &sequence{}
			s.step([]piece{{a, prompt[:40]}})
			s.step([]piece{{a, prompt[40:41]}, {b, prompt[:70]}})
			got := s.step([]piece{{a, prompt[41:42]}, {c, prompt[:1]}, {b, prompt[70:]}})
			same("decoding in a batch", got[:v], ref[41*v:42*v])
			same("starting in a batch", got[v:2*v], ref[:v])
			same("prefill in a batch", got[2*v:], ref[70*v:])

			border := (n - 1) / m.Config.AttnChunk * m.Config.AttnChunk
			resumed := &sequence{pos: border, global: first.global}
			same("restart at a chunk's start", whole.step([]piece{{resumed, prompt[border:]}}), ref[border*v:])

			for _, threads := range []int{1, 3} {
				same(fmt.Sprintf("%d threads", threads), newStepper(t, load(t, g.dir, threads)).step([]piece{{&sequence{}, prompt}}), ref)
			}
		})
	}
}
