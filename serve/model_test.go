package serve_test

import (
	"testing"

	"chulengo/cmd/demotest"
	"chulengo/engine"
	"chulengo/serve"
)

// demoSite serves the demo checkpoint.
func demoSite(t testing.TB, o serve.Options, eo engine.Options) (*site, *engine.Engine) {
	t.Helper()
	d := demotest.Load(t)
	s := launch(t, o) // ends before the engine does
	eo.Observe, eo.ObserveStep, eo.ObserveToken, eo.ExpertStats = s.server.Observe, s.server.ObserveStep, s.server.ObserveToken, true
	d.Start(t, eo)
	s.server.SetReady(d.Backend(d.Info()))
	return s, d.Engine
}

// pagesUsed are those that requests hold.
func pagesUsed(e *engine.Engine) (n int) {
	for _, group := range e.Stats().Pages {
		n += group.Used
	}
	return n
}
