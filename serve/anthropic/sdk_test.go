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

	"chulengo/cmd/demotest"
	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// patience bounds the run of a client.
const patience = time.Minute

// demoSite is a server with the demo checkpoint.
func demoSite(t *testing.T) string {
	t.Helper()
	d := demotest.Load(t)
	d.Start(t, engine.Options{Context: 1024})
	server, err := serve.New(serve.Options{})
	if err != nil {
		t.Fatal(err)
	}
	info := d.Info()
	info.Pictures = nil
	server.SetReady(d.Backend(info))
	web := httptest.NewServer(server.Handler())
	t.Cleanup(func() {
		web.Close()
		server.Close()
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
