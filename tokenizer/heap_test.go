package tokenizer

import (
	"runtime"
	"testing"
	"time"
)

// The 202,048 tokens load in under a second, from either file.
func TestLoadTime(t *testing.T) {
	for name, fsys := range llama4Files(t) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		begin := time.Now()
		tok, err := Load(fsys)
		took := time.Since(begin)
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		t.Logf("%s: %v, heap %.1f MiB", name, took, float64(after.HeapAlloc-before.HeapAlloc)/(1<<20))
		if took > 4*time.Second { // a busy machine with the race detector is slower; it was 0.3 s alone
			t.Errorf("%s: loading took %v", name, took)
		}
		runtime.KeepAlive(tok)
	}
}
