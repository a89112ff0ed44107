package tokenizer

import (
	"runtime"
	"testing"
)

// The 202,048 tokens take little memory, from either file. (BenchmarkLoad says how long loading takes.)
func TestLoadHeap(t *testing.T) {
	for name, fsys := range llama4Files(t) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		tok, err := Load(fsys)
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if heap := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; heap > 40 { // it was 24 MiB
			t.Errorf("%s: want a heap of at most 40 MiB, got %d", name, heap)
		}
		runtime.KeepAlive(tok)
	}
}
