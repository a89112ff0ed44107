package anthropic_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels/cpu"
	"chulengo/model"
	"chulengo/safetensors"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
	"chulengo/tokenizer"
)

// patience bounds the run of a client.
const patience = time.Minute

// demoSite is a server with the embedded checkpoint on the CPU.
func demoSite(t *testing.T) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	config, err := model.LoadConfig(demo.FS())
	must(err)
	generation, err := model.LoadGeneration(demo.FS(), config)
	must(err)
	tok, err := tokenizer.Load(demo.FS())
	must(err)
	weights, err := safetensors.Open(demo.FS())
	must(err)
	device := cpu.New(cpu.Options{})
	m, err := model.Load(context.Background(), weights, config, device, model.LoadOptions{})
	must(err)
	e, err := engine.New(engine.ForModel(m, generation), engine.ForTokenizer(tok), device, engine.Options{Context: 1024})
	must(err)
	server, err := serve.New(serve.Options{})
	must(err)
	info := serve.ModelInfo{Name: demo.Name, Context: e.Context(), Sampling: engine.Defaults(generation), StopIDs: generation.EOS}
	server.SetReady(serve.NewBackend(info, tok, tok.NativeTemplate(), e))
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.Close()
		server.Close()
		e.Close()
		device.Close()
		weights.Close()
	})
	return web.URL
}

// client runs a script with Anthropic's client for Node, where it is installed (npm install --no-package-lock in
// testdata/sdk).
func client(t *testing.T, arguments ...string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node")
	}
	if _, err := os.Stat("testdata/sdk/node_modules/@anthropic-ai/sdk"); err != nil {
		t.Skip("Anthropic's client for Node is not installed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	run := exec.CommandContext(ctx, node, arguments...)
	run.Dir = "testdata/sdk"
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNode: messages, streams, tools, counting and errors, with the demo checkpoint.
func TestNode(t *testing.T) { client(t, "anthropic.mjs", demoSite(t)) }

// TestNodeRetries: the client tries a busy server again, and hears why it gives up.
func TestNodeRetries(t *testing.T) {
	server, err := serve.New(serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &fake.Backend{Refuse: engine.ErrBusy}
	b.Model.Name, b.Model.Context, b.Model.StopIDs = "fake", 2000, []int32{fake.EOT}
	server.SetReady(b)
	var attempts atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/messages") {
			attempts.Add(1)
		}
		server.Handler().ServeHTTP(w, r)
	}))
	defer server.Close()
	defer web.Close()
	client(t, "retries.mjs", web.URL)
	if n := attempts.Load(); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
}
