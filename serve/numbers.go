package serve

import (
	"time"

	"chulengo/engine"
)

// Numbers are what an answer took.
type Numbers struct {
	Prompt  int     `json:"prompt_tokens"`
	Cached  int     `json:"cached_tokens"` // of the prompt's, those that were not computed anew
	Tokens  int     `json:"tokens"`        // generated
	Queue   float64 `json:"queue_ms"`      // before the first step
	TTFT    float64 `json:"ttft_ms"`       // from the question to the first token
	Total   float64 `json:"total_ms"`      // from the question to the last token
	Rate    float64 `json:"tokens_per_second"`
	Used    int     `json:"context_used"` // tokens of prompt and answer
	Context int     `json:"context"`      // tokens that there is room for; 0: not known
}

// progress says how far an answer is before its first token.
type progress struct {
	Queue  int `json:"queue"`  // requests ahead
	Prompt int `json:"prompt"` // tokens
	Cached int `json:"cached"`
	Read   int `json:"read"`
}

// meter measures an answer while it is generated, on the model's goroutine.
type meter struct {
	asked, first, last time.Time
	numbers            Numbers
}

func newMeter(asked time.Time, prompt, context int) meter {
	return meter{asked: asked, numbers: Numbers{Prompt: prompt, Used: prompt, Context: context}}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// token counts one.
func (m *meter) token(now time.Time) Numbers {
	n := &m.numbers
	n.Tokens++
	n.Used = n.Prompt + n.Tokens
	if m.last = now; n.Tokens == 1 {
		m.first = now
		n.TTFT = milliseconds(now.Sub(m.asked))
	}
	n.Total = milliseconds(now.Sub(m.asked))
	if d := now.Sub(m.first).Seconds(); d > 0 {
		n.Rate = float64(n.Tokens-1) / d
	}
	return *n
}

// end takes what the engine alone knows.
func (m *meter) end(r *engine.Result) Numbers {
	m.numbers.Queue, m.numbers.Cached = milliseconds(r.Timings.Queue), r.Cached
	return m.numbers
}
