//go:build cuda

package nccl_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"chulengo/kernels/cuda/nccl"
)

// What is missing is said: a process finds the library once, so each case has its own.
func TestMissing(t *testing.T) {
	if os.Getenv("CHULENGO_NCCL_ASKED") != "" {
		_, err := nccl.NewID()
		fmt.Println("error:", err)
		return
	}
	for name, c := range map[string]struct{ variable, want string }{
		"no file":    {"CHULENGO_NCCL=/nowhere/libnccl.so", "want NCCL 2.18 or later (libnccl.so.2, or the file that CHULENGO_NCCL names): /nowhere/libnccl.so: cannot open"},
		"no library": {"CHULENGO_NCCL=libm.so.6", "ncclGetVersion"},
		"too old":    {"CHULENGO_EMU_NCCL=21703", "want NCCL 2.18 or later, got 21703"}, // the software GPU says so
	} {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestMissing$", "-test.v")
		cmd.Env = append(os.Environ(), "CHULENGO_NCCL_ASKED=1", c.variable)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		if name == "too old" && !strings.Contains(string(out), "21703") {
			continue // there is none, or a real one
		}
		if !strings.Contains(string(out), c.want) {
			t.Errorf("%s: want %q, got %s", name, c.want, out)
		}
	}
}
