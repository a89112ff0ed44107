//go:build cuda && linux && amd64

// Package emu_test tests the software CUDA device of the folder above: what kernels ask of a GPU against plain loops, and
// mistakes that it must find.
package emu_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// build compiles the test program once. It returns its path, and removes it with remove.
var build = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "emu")
	if err != nil {
		return "", err
	}
	program := filepath.Join(folder, "emutest")
	cmd := exec.Command("g++", "-std=c++20", "-O1", "-g", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", "-DCHULENGO_EMU", "-I../..", "-I..",
		"-Itestdata", "-x", "c++", "testdata/right.cu", "testdata/wrong.cu", "testdata/main.cpp",
		"../machine.cpp", "../warp.cpp", "../async.cpp", "../tensor.cpp", "../driver.cpp", "-o", program)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if program, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(code)
}

// run runs one kernel; seed 0 is the plain order.
func run(t *testing.T, name string, seed int, env ...string) (output string, ok bool) {
	t.Helper()
	if _, err := exec.LookPath("g++"); errors.Is(err, exec.ErrNotFound) {
		t.Skip("no g++")
	} else if err != nil {
		t.Fatal(err)
	}
	// Go's cache of test results knows the files that the test itself opens, not those that g++ reads.
	for _, pattern := range []string{"../*.h", "../*.cpp", "../../ptx.cuh", "../../kernel.cuh", "testdata/*"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if _, err := os.ReadFile(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, name)
	cmd.Env = append(os.Environ(), env...)
	if seed > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprint("CHULENGO_EMU_SEED=", seed))
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

// Results equal those of plain loops, in the plain order and in random ones.
func TestRight(t *testing.T) {
	names := []string{"mma", "mma_s8", "transpose", "lanes", "turns", "blocks", "streams", "pipeline", "copies", "transposed", "codes", "nearest"}
	for _, n := range []int{16, 32, 64, 96, 128, 192, 256} {
		names = append(names, fmt.Sprint("wgmma_", n))
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			for seed := range 8 {
				if out, ok := run(t, name, seed); !ok {
					t.Errorf("seed %d: %s", seed, out)
				}
			}
		})
	}
}

// Every mistake is reported, with its kernel and the driver's code, or shows as a number that is none.
func TestWrong(t *testing.T) {
	const failed, address = "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_ILLEGAL_ADDRESS"
	for _, x := range []struct{ kernel, code, text string }{
		{"deadlock", failed, "deadlock: warp 0: 32 wait at __syncthreads; warp 1: 32 wait at barrier 1;"},
		{"ended_before_barrier", failed, "warp 0: 32 wait at __syncthreads; warp 1: 32 have ended;"},
		{"lanes_apart", failed, "threads of warp 0 are at"},
		{"ended_lanes", failed, "have ended"},
		{"beyond_the_end", address, " of an allocation of 16"},
		{"misaligned", failed, "want addresses aligned to 16 bytes"},
		{"freed", address, "memory fault: address"},
		{"no_init", failed, "was not initialised"},
		{"no_init_fence", failed, "fence.mbarrier_init is missing"},
		{"no_arrival", failed, "wait at an mbarrier"},
		{"bytes_too_few", failed, "wait at an mbarrier"},
		{"no_dependency_wait", failed, "without griddepcontrol.wait"},
		{"no_wgmma_fence", failed, "wgmma.fence is missing"},
		{"operand_changed", failed, "changed registers of an operand before the wait"},
		{"no_proxy_fence", failed, "without fence.proxy.async"},
		{"copy_not_awaited", "", "nan"},
		{"shared_not_written", "", "nan"},
		{"product_not_awaited", "", "nan"},
	} {
		t.Run(x.kernel, func(t *testing.T) {
			for seed := range 4 {
				out, ok := run(t, x.kernel, seed)
				if ok != (x.code == "") || !strings.Contains(out, x.text) || !strings.Contains(out, x.code) {
					t.Errorf("seed %d: want %q and %q, got %q", seed, x.code, x.text, out)
				}
				if x.code != "" && !strings.Contains(out, x.kernel+", block 0 0: ") {
					t.Errorf("seed %d: want the place, got %q", seed, out)
				}
			}
		})
	}
}

// Mistakes of order do not show in the plain order; some of the random ones show them, and none blames what is right.
func TestRaces(t *testing.T) {
	for _, x := range []struct {
		kernel, right string
		found         bool
	}{{"race", "0", true}, {"lane_race", "0", true}, {"race_not", "0", false}, {"unordered", "1", true}} {
		t.Run(x.kernel, func(t *testing.T) {
			found := 0
			for seed := 1; seed <= 30; seed++ {
				if out, ok := run(t, x.kernel, seed); !ok || out != x.right {
					found++
				}
			}
			if (found > 0) != x.found {
				t.Errorf("%d of 30 orders show a race, want some: %v", found, x.found)
			}
			t.Logf("%d of 30 orders show it", found)
		})
	}
}

// What the environment asks to fail fails.
func TestInjected(t *testing.T) {
	for _, x := range []struct{ kernel, env, want string }{
		{"mma", "CHULENGO_EMU_FAIL_ALLOC=2", "CUDA_ERROR_OUT_OF_MEMORY"},
		{"mma", "CHULENGO_EMU_MEMORY=0", "CUDA_ERROR_OUT_OF_MEMORY"},
		{"streams", "CHULENGO_EMU_FAIL_LAUNCH=2", "CUDA_ERROR_LAUNCH_FAILED"},
		{"unknown", "", "CUDA_ERROR_NOT_FOUND"},
	} {
		if out, ok := run(t, x.kernel, 0, x.env); ok || !strings.Contains(out, x.want) {
			t.Errorf("%s with %s: want %s, got %q", x.kernel, x.env, x.want, out)
		}
	}
}
