//go:build cuda && unix

package main

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// Two processes answer together, on GPUs or where the library of a software GPU is found (kernels/cuda/emu).
func TestWorker(t *testing.T) {
	lead := start(t, "chat", "--greedy", "--device", "cuda", "--processes", "2", "--rendezvous", "127.0.0.1:0", "What is the capital of France?")
	address := lead.until(t, `^waiting at (127\.0\.0\.1:\d+) for 1 more`)
	work := start(t, "worker", "--device", secondGPU(), "--processes", "2", "--process", "1", "--rendezvous", address)
	if code := lead.end(t); code != 0 || strings.TrimSpace(lead.out.String()) != "The capital of France is Paris." {
		t.Errorf("code %d, %q, %q", code, lead.out.String(), lead.errout.String())
	}
	if code := work.end(t); code != 0 || work.out.Len() > 0 {
		t.Errorf("the worker: code %d, %q, %q", code, work.out.String(), work.errout.String())
	}
}

// secondGPU is another one where there are several.
func secondGPU() string {
	if countCUDA() > 1 {
		return "cuda:1"
	}
	return "cuda:0"
}

// A worker that was given another model is refused, and one that is interrupted ends; so does a process 0 without workers.
func TestWorkerRefused(t *testing.T) {
	lead := start(t, "generate", "--greedy", "--device", "cuda", "--processes", "2", "--rendezvous", "127.0.0.1:0", "Hello")
	address := lead.until(t, `^waiting at (127\.0\.0\.1:\d+) for 1 more`)
	work := start(t, "worker", "--device", secondGPU(), "--quant", "fp8", "--processes", "2", "--process", "1", "--rendezvous", address)
	for who, p := range map[string]*process{"process 0": lead, "the worker": work} {
		if code := p.end(t); code != exitFailed || !strings.Contains(p.errout.String(), "want the leader's model and options") {
			t.Errorf("%s: code %d, %q", who, code, p.errout.String())
		}
	}
	work = start(t, "worker", "--device", "cuda", "--processes", "2", "--process", "1", "--rendezvous", "127.0.0.1:1")
	work.until(t, "looking for process 0")
	lead = start(t, "serve", "--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--device", "cuda", "--processes", "2", "--rendezvous", "127.0.0.1:0")
	lead.until(t, "waiting at")
	time.Sleep(100 * time.Millisecond)
	for who, p := range map[string]*process{"process 0": lead, "the worker": work} {
		p.Process.Signal(syscall.SIGTERM)
		if code := p.end(t); who == "the worker" && code != exitTerminated || who == "process 0" && code != 0 || strings.Contains(p.errout.String(), "error") {
			t.Errorf("%s, interrupted: code %d, %q", who, code, p.errout.String())
		}
	}
	for _, args := range [][]string{{"worker"}, {"generate", "--processes", "2", "--device", "cuda", "x"}, {"generate", "--processes", "2", "--rendezvous", "a:1", "--device", "cpu", "x"},
		{"generate", "--process", "1", "x"}, {"generate", "--exchange", "post", "x"}, {"generate", "--processes", "2", "--process", "1", "--rendezvous", "a:1", "--device", "cuda", "x"}} {
		if p := start(t, args...); p.end(t) != exitUsage {
			t.Errorf("%v: want code %d, got %q", args, exitUsage, p.errout.String())
		}
	}
}
