//go:build cuda

package driver

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"gorgonia.org/cu"
)

// device opens the first GPU, real or emulated.
func device(t *testing.T) *Device {
	d, err := Open(0)
	if no := (*UnavailableError)(nil); errors.As(err, &no) && (no.Problem == NoDriver || no.Problem == NoDevice) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Enter())
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Without a driver the program starts and says so. The test runs itself with a library that is none in place of the driver.
func TestNoDriver(t *testing.T) {
	const mark = "CHULENGO_TEST_NO_DRIVER"
	if os.Getenv(mark) != "" {
		_, err := Devices()
		no := (*UnavailableError)(nil)
		if !errors.As(err, &no) || no.Problem != NoDriver || !strings.Contains(err.Error(), "libcuda.so.1") {
			t.Fatalf("want no driver, with the name of the library, got %v", err)
		}
		if _, err := Open(0); !errors.As(err, &no) {
			t.Fatalf("Open: want an UnavailableError, got %v", err)
		}
		return
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/libcuda.so.1", []byte("no library"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := exec.Command(os.Args[0], "-test.run=^TestNoDriver$")
	run.Env = append(os.Environ(), mark+"=1", "LD_LIBRARY_PATH="+dir)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&UnavailableError{Problem: NoDevice}, "cuda: no NVIDIA GPU"},
		{&UnavailableError{OldDriver, "x"}, "cuda: the NVIDIA driver is too old: x"},
		{&MemoryError{Want: 3<<20 + 1, Free: 2 << 20, Total: 5 << 20}, "cuda: out of memory: want 4 MiB, free are 2 of 5 MiB"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("want %q, got %q", c.want, got)
		}
	}
	if result(0) != nil || !errors.Is(result(2), OutOfMemory) {
		t.Error("result: want nil for 0, OutOfMemory for 2")
	}
}

func TestDevices(t *testing.T) {
	d := device(t)
	if d.Name == "" || d.Capability < 80 || d.SMs < 1 || d.Memory < 1<<20 || d.Driver < minVersion || !strings.HasPrefix(d.UUID, "GPU-") || len(d.UUID) != 40 {
		t.Errorf("implausible: %+v", d.Info)
	}
	no := (*UnavailableError)(nil)
	if _, err := Open(1 << 20); !errors.As(err, &no) || no.Problem != NoOrdinal {
		t.Errorf("want no such GPU, got %v", err)
	}
	if _, err := Open(-1); !errors.As(err, &no) || no.Problem != NoOrdinal {
		t.Errorf("want no such GPU, got %v", err)
	}
}

func TestMemory(t *testing.T) {
	d := device(t)
	free, total, err := d.Free()
	check(t, err)
	if free <= 0 || free > total {
		t.Fatalf("%d of %d bytes are free", free, total)
	}
	short := (*MemoryError)(nil)
	if _, err := d.Alloc(int(total) * 2); !errors.As(err, &short) || short.Want != 2*total || short.Total != total {
		t.Errorf("want a MemoryError with the numbers, got %v", err)
	}
	const n = 1 << 12
	a, b := must(d.Alloc(n))(t), must(d.Alloc(n))(t)
	in, out := must(d.Pin(n))(t), must(d.Pin(n))(t)
	s := must(d.NewStream())(t)
	for i := range in {
		in[i] = byte(i * 7)
	}
	begin, end := must(d.NewEvent())(t), must(d.NewEvent())(t)
	check(t, s.Record(begin), s.CopyIn(a, in), s.Fill(b, 9, n), s.Copy(b, a, n/2), s.Zero(b+n/2, 16), s.CopyOut(out, b), s.Record(end), s.Wait())
	want := bytes.Repeat([]byte{9}, n)
	copy(want, in[:n/2])
	clear(want[n/2 : n/2+16])
	if !bytes.Equal(out, want) {
		t.Error("the bytes that came back are others")
	}
	if ms := must(end.Since(begin))(t); ms < 0 {
		t.Errorf("%g ms went by", ms)
	}
	check(t, s.Close(), d.Release(a), d.Release(b), d.Unpin(in), d.Unpin(out))
}

// A captured run copies what lies in memory when it is replayed, not when it was recorded.
func TestGraph(t *testing.T) {
	d := device(t)
	a, b := must(d.Alloc(64))(t), must(d.Alloc(64))(t)
	out := must(d.Pin(64))(t)
	s := must(d.NewStream())(t)
	check(t, s.Zero(b, 64), s.Fill(a, 1, 64), s.Wait(), s.Capture())
	if err := s.Copy(b, a, 64); err == cu.StreamCaptureUnsupported && strings.Contains(d.Name, "emulated") {
		t.Skip("the software GPU captures only kernels; the tests of package cuda replay those")
	} else if err != nil {
		t.Fatal(err)
	}
	g := must(s.Captured())(t)
	for v := byte(2); v < 5; v++ {
		check(t, s.Fill(a, v, 64), s.Replay(g), s.CopyOut(out, b), s.Wait())
		if !bytes.Equal(out, bytes.Repeat([]byte{v}, 64)) {
			t.Errorf("replay: want %d, got %d", v, out[0])
		}
	}
	check(t, g.Close(), s.Close(), d.Release(a), d.Release(b), d.Unpin(out))
}

func TestNoKernel(t *testing.T) {
	d := device(t)
	m, err := d.Load([]byte("this is no image of kernels, but long enough to be looked at"))
	if err == nil { // the software GPU, whose kernels are in the library
		_, err = m.Function("no_such_kernel", 32, 0)
		if err != nil && !strings.Contains(err.Error(), "no_such_kernel") {
			t.Errorf("want the kernel's name in %q", err)
		}
	}
	if err == nil {
		t.Error("a kernel that nobody wrote was found")
	}
}

// A launch allocates nothing, also when the driver refuses it.
func TestLaunchAllocations(t *testing.T) {
	d := device(t)
	s := must(d.NewStream())(t)
	var params [16]byte
	if n := testing.AllocsPerRun(100, func() {
		if s.Launch(&refused, 0, 0, 0, unsafe.Pointer(&params), unsafe.Sizeof(params), false) == nil {
			t.Fatal("a launch of no kernel on no blocks succeeded")
		}
	}); n > 1 { // the error in its interface
		t.Errorf("a launch allocates %g times", n)
	}
	check(t, s.Close())
}

var refused Function
