package serve_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/engine"
	"chulengo/serve"
)

// chat asks the demo checkpoint for a short story as programs do, and gives its text, its tokens and the time to the first.
func (c *client) chat(seed, tokens int) (text string, n int, first time.Duration) {
	c.t.Helper()
	began := time.Now()
	st := c.open("POST", "/v1/chat/completions", object{"stream": true, "seed": seed, "max_tokens": tokens, "ignore_eos": true,
		"messages": []object{{"role": "user", "content": "Tell me a story about a llama."}}})
	defer st.close()
	for st.lines.Scan() {
		line := st.lines.Text()
		if strings.HasPrefix(line, `data: {"id"`) && strings.Contains(line, `"content":`) {
			if n++; n == 1 {
				first = time.Since(began)
			}
			text += line[strings.Index(line, `"content":`):strings.Index(line, `"finish_reason"`)]
		}
	}
	if n == 0 {
		c.t.Errorf("seed %d: no answer", seed)
	}
	return text, n, first
}

// TestManyChats: 64 chats at a time get the answers that each gets alone, and nobody waits much longer than the others for
// the first word.
func TestManyChats(t *testing.T) {
	const chats, tokens = 64, 24
	s, e := demoSite(t, serve.Options{}, engine.Options{Context: 1024, NoPrefixCache: true})
	c := s.program()
	alone := make([]string, chats)
	for i := range alone {
		alone[i], _, _ = c.chat(i, tokens)
	}
	if slices.Equal(alone[:1], alone[1:2]) {
		t.Error("different seeds tell the same")
	}
	waits := make([]time.Duration, chats)
	var all sync.WaitGroup
	for i := range alone {
		all.Go(func() {
			text := ""
			text, _, waits[i] = s.program().chat(i, tokens)
			if text != alone[i] {
				t.Errorf("chat %d beside others: %s\nalone: %s", i, text, alone[i])
			}
		})
	}
	all.Wait()
	slices.Sort(waits)
	median, longest := waits[chats/2], waits[chats-1]
	t.Logf("to the first token: median %v, longest %v", median, longest)
	if longest >= 5*median {
		t.Errorf("the longest time to the first token is %v, the median %v", longest, median)
	}
	if stats := e.Stats(); stats.Refused > 0 {
		t.Errorf("%d were refused", stats.Refused)
	}
}

// BenchmarkChats is what so many chats at a time get together, through HTTP.
func BenchmarkChats(b *testing.B) {
	for _, chats := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(chats), func(b *testing.B) {
			s, _ := demoSite(b, serve.Options{}, engine.Options{Context: 1024})
			total := 0
			for b.Loop() {
				var all sync.WaitGroup
				var mu sync.Mutex
				for i := range chats {
					all.Go(func() {
						_, n, _ := s.program().chat(i, 128)
						mu.Lock()
						defer mu.Unlock()
						total += n
					})
				}
				all.Wait()
			}
			b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
