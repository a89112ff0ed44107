package openai_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"chulengo/serve"
)

// TestManyStreams: 200 active streams cost little memory, client and server together, and give it back.
func TestManyStreams(t *testing.T) {
	const streams, each = 200, 64 << 10
	b := says("a", "b", "c", "d")
	b.Hold = make(chan struct{})
	b.Model.Name, b.Model.Context = "fake", 100
	s := launch(t, serve.Options{KeepAlive: 200 * time.Millisecond}) // a comment shows that a stream has begun
	s.server.SetReady(b)
	transport := &http.Transport{MaxIdleConnsPerHost: -1}
	client := &http.Client{Transport: transport}
	inUse := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wait, begun sync.WaitGroup
	begun.Add(streams)
	for range streams {
		wait.Go(func() {
			r, err := http.NewRequestWithContext(ctx, "POST", s.url+"/v1/chat/completions", &once{`{"stream":true,"messages":[{"role":"user","content":"Hi"}]}`})
			if err != nil {
				panic(err)
			}
			r.Header.Set("Content-Type", "application/json")
			response, err := client.Do(r)
			if err != nil {
				t.Error(err)
				begun.Done()
				return
			}
			defer response.Body.Close()
			if _, err := io.ReadFull(response.Body, make([]byte, 8)); err != nil {
				t.Error(err)
			}
			begun.Done()
			<-ctx.Done()
		})
	}
	begun.Wait()
	during := inUse()
	if running, _, _ := b.Counts(); running != streams {
		t.Fatalf("%d run", running)
	}
	t.Logf("%d KiB for each stream", (during-before)/streams>>10)
	if during-before > streams*each {
		t.Errorf("%d bytes for each of %d streams, want at most %d", (during-before)/streams, streams, each)
	}
	cancel()
	wait.Wait()
	eventually(t, "the streams end", func() bool { running, _, _ := b.Counts(); return running == 0 })
	transport.CloseIdleConnections()
	eventually(t, "the memory is given back", func() bool { return inUse() < before+(during-before)/5 })
}

// once is a body without a length, as streaming clients send it.
type once struct{ text string }

func (o *once) Read(p []byte) (int, error) {
	if o.text == "" {
		return 0, io.EOF
	}
	n := copy(p, o.text)
	o.text = o.text[n:]
	return n, nil
}

// BenchmarkStream is the cost of a streamed token, from the model's callback to the client that reads it.
func BenchmarkStream(b *testing.B) {
	const tokens = 1000
	pieces := make([]string, tokens)
	for i := range pieces {
		pieces[i] = " word"
	}
	s := with(b, says(pieces...))
	for b.Loop() {
		response, err := s.send(b.Context(), "POST", "/v1/chat/completions", chat("Hi", object{"stream": true}))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			b.Fatal(err)
		}
		response.Body.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*tokens), "µs/token")
}
