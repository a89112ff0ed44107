//go:build cuda

package cuda

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

//go:embed image/test/planted.fatbin
var planted []byte

// runPlanted runs a kernel of testdata/planted.cu. An error is one of the device.
func runPlanted(g *gpu, name string) (out []int32, err error) {
	const warps = 8
	defer g.enter()()
	m, err := g.Load(planted)
	if err != nil {
		return nil, err
	}
	f, err := m.Function(name, 32*warps, 0)
	if err != nil {
		return nil, err
	}
	out = make([]int32, 32*warps)
	p := struct {
		out ptr
		n   int32
		_   int32
	}{n: warps}
	if p.out, err = g.alloc(4 * len(out)); err != nil {
		return nil, err
	}
	defer g.free(p.out)
	g.keep(g.main.Launch(f, 1, 1, 0, unsafe.Pointer(&p), unsafe.Sizeof(p), false))
	g.copyOut(bytesOf(out), p.out)
	return out, g.sync()
}

// The tools that look for mistakes find those that are planted, and none where there is none. The software GPU is held against
// them here, in a process for each kernel, since a fault ends the use of a GPU; compute-sanitizer by testgpu.sh sanitize,
// which names one kernel in CHULENGO_PLANTED.
func TestPlanted(t *testing.T) {
	dev, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if name := os.Getenv("CHULENGO_PLANTED"); name != "" {
		out, err := runPlanted(dev.gpu, name)
		right := !slices.ContainsFunc(out, func(v int32) bool { return v != 31*32/2 })
		fmt.Printf("planted: right %v, error %v\n", right && err == nil, err) // a mistake is for the tool to tell
		return
	}
	if !strings.Contains(dev.Name(), "emulated") {
		t.Skip("needs the software GPU, or compute-sanitizer and CHULENGO_PLANTED")
	}
	for _, x := range []struct{ kernel, want string }{
		{"planted_nothing", "right true, error <nil>"},
		{"planted_write", "planted_write, block 0 0: memory fault"},
		{"planted_race", "right false"},
	} {
		found := 0
		const orders = 8
		for seed := 1; seed <= orders; seed++ {
			child := exec.Command(os.Args[0], "-test.run=^TestPlanted$")
			child.Env = append(os.Environ(), "CHULENGO_PLANTED="+x.kernel, fmt.Sprint("CHULENGO_EMU_SEED=", seed))
			text, err := child.CombinedOutput()
			if err != nil || !strings.Contains(string(text), "planted: ") {
				t.Fatalf("%s: %v\n%s", x.kernel, err, text)
			}
			if strings.Contains(string(text), x.want) {
				found++
			}
		}
		if found == 0 || x.kernel != "planted_race" && found < orders {
			t.Errorf("%s: want %q, which shows in %d of %d orders", x.kernel, x.want, found, orders)
		}
		t.Logf("%s: %q in %d of %d orders", x.kernel, x.want, found, orders)
	}
}
