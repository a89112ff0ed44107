package serve_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/serve"
	"chulengo/tokenizer"
)

// idle is a device, and a model, whose steps take no time and draw the same token for everybody.
type idle struct {
	kernels.Device
	outs []kernels.Out
}

func (d *idle) Step(b *kernels.Batch, _ func()) <-chan kernels.Result {
	done := make(chan kernels.Result, 1)
	d.outs = d.outs[:0]
	for range b.Want {
		d.outs = append(d.outs, kernels.Out{Token: 300})
	}
	done <- kernels.Result{Outs: d.outs}
	return done
}

func (d *idle) Name() string                               { return "idle" }
func (d *idle) NewKV(kernels.KVSpec) (kernels.KV, error)   { return d, nil }
func (d *idle) Copy(int, kernels.Page, kernels.Page) error { return nil }
func (d *idle) Save(int, kernels.Page, []byte) error       { return nil }
func (d *idle) Load(int, kernels.Page, []byte) error       { return nil }
func (d *idle) Close() error                               { return nil }
func (d *idle) Forward(kernels.Device)                     {}
func (d *idle) Spec() engine.Spec {
	return engine.Spec{Vocab: 6144, Context: 1 << 20, Chunk: 8192,
		KV: kernels.KVSpec{Format: kernels.F32, KVHeads: 1, HeadDim: 1, Layers: [kernels.Groups]int{1, 1}}}
}

// BenchmarkOverhead is what a step of 64 streamed answers costs where the device costs nothing: scheduling, text, JSON, HTTP
// and metrics, and the reading of 64 clients besides. One op is one step.
func BenchmarkOverhead(b *testing.B) {
	const streams = 64
	tok, err := tokenizer.Load(demo.FS())
	if err != nil {
		b.Fatal(err)
	}
	s := launch(b, serve.Options{})
	d := &idle{}
	e, err := engine.New(d, engine.ForTokenizer(tok), d, engine.Options{KVBytes: 1 << 40,
		Observe: s.server.Observe, ObserveStep: s.server.ObserveStep, ObserveToken: s.server.ObserveToken})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	s.server.SetReady(serve.NewBackend(serve.ModelInfo{Name: "idle", Context: e.Context()}, tok, tok.NativeTemplate(), e))
	var clients sync.WaitGroup
	before := e.Stats()
	for b.Loop() {
		clients = sync.WaitGroup{}
		for range streams {
			clients.Go(func() {
				conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
				if err != nil {
					b.Error(err)
					return
				}
				defer conn.Close()
				const body = `{"stream":true,"messages":[{"role":"user","content":"Hi"}],"max_tokens":500,"ignore_eos":true}`
				fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				if n, err := io.Copy(io.Discard, conn); err != nil || n < 500*100 {
					b.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		clients.Wait()
	}
	tokens := e.Stats().GeneratedTokens - before.GeneratedTokens
	b.ReportMetric(b.Elapsed().Seconds()*1e3*streams/float64(tokens), "ms/64-token-step")
}
