//go:build cuda

package cuda_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
	"chulengo/kernels/hosts"
	"chulengo/model"
)

// Two processes on this machine share a model, each with a GPU. The test binary is the second process, too.

// hostsConfig has layers of both kinds, and sees.
func hostsConfig() map[string]any {
	config := towerConfig(2, 32, 4, 2, 4, 3)
	text := fastConfig()
	text["num_hidden_layers"], text["no_rope_layers"] = 2, []int{1, 0}
	config["text_config"] = text
	for _, name := range []string{"vision_output_dim", "projector_input_dim", "projector_output_dim"} {
		config["vision_config"].(map[string]any)[name] = text["hidden_size"]
	}
	return config
}

// TestHostsFollower is the second process; it does nothing in others.
func TestHostsFollower(t *testing.T) {
	address := os.Getenv("CHULENGO_TEST_LEADER")
	if address == "" {
		return
	}
	gpus, err := driver.Devices()
	if err != nil {
		t.Fatal(err)
	}
	own, err := cuda.OpenPart(cuda.Options{Patience: 5 * time.Second}, []int{1 % len(gpus)}, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	ctx := t.Context()
	f, err := hosts.Follow(ctx, address, hosts.Hello{Process: 1, Processes: 2, GPUs: 1, Model: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Join(ctx, own); err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(os.Getenv("CHULENGO_TEST_CONFIG")), &config); err != nil {
		t.Fatal(err)
	}
	m, err := model.LoadDummy(ctx, configOf(t, config), own, 1, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	see := func(p *kernels.Pixels) (kernels.Picture, error) { return m.See(own, p) }
	if err := f.Serve(ctx, own, func() { m.Forward(own) }, see); !errors.Is(err, hosts.ErrDone) {
		t.Fatal(err)
	}
}

// twoHosts opens a model in two processes. Unless it is to be lost, the second one must end well with the test.
func twoHosts(t testing.TB, config map[string]any, lost bool) (s *side, second *exec.Cmd) {
	t.Helper()
	gpus, err := driver.Devices()
	if err != nil {
		t.Fatal(err)
	}
	if len(gpus) < 2 && !strings.Contains(gpus[0].Name, "emulated") {
		t.Skip("NCCL wants two GPUs")
	}
	own, err := cuda.OpenPart(cuda.Options{Patience: 5 * time.Second}, []int{0}, 0, 2)
	if err != nil {
		t.Fatal(err)
	}
	leader, err := hosts.Lead(t.Context(), "127.0.0.1:0", hosts.Hello{Processes: 2, GPUs: 1, Model: "test"}, func(address string) {
		second = exec.Command(os.Args[0], "-test.run", "^TestHostsFollower$")
		text, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		second.Env = append(os.Environ(), "CHULENGO_TEST_LEADER="+address, "CHULENGO_TEST_CONFIG="+string(text))
		second.Stdout, second.Stderr = os.Stderr, os.Stderr
		if err := second.Start(); err != nil {
			t.Fatal(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := leader.Device(own)
	if err != nil {
		second.Process.Kill()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
		defer time.AfterFunc(20*time.Second, func() { second.Process.Kill() }).Stop()
		if err := second.Wait(); err != nil && !lost {
			t.Errorf("the second process: %v", err)
		}
	})
	return dummySide(t, configOf(t, config), dev), second
}

// dummySide is a model with random weights on a device alone.
func dummySide(t testing.TB, cfg *model.Config, dev kernels.Device) *side {
	t.Helper()
	m, err := model.LoadDummy(context.Background(), cfg, dev, 1, model.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{tokens: pageTokens}
	r := rand.New(rand.NewPCG(1, 2))
	for g := range p.order {
		p.order[g] = r.Perm(pages)
	}
	spec := cfg.KVSpec(kernels.BF16, pageTokens)
	spec.Pages = [kernels.Groups]int{pages, pages}
	kv, err := dev.NewKV(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kv.Close() })
	return &side{Model: m, dev: dev, kv: kv, p: p}
}

// Two processes have the same bits as two GPUs of one: prompts, decoding, taps, pictures, and pages on their way to the host.
func TestHosts(t *testing.T) {
	onRanks(t, 2)
	one := dummySide(t, configOf(t, hostsConfig()), openRanks(t, cuda.Options{Way: cuda.ByPeers}))
	two, _ := twoHosts(t, hostsConfig(), false)
	if free, total, err := two.dev.(*hosts.Device).Memory(); err != nil || free <= 0 || free > total || two.dev.(*hosts.Device).Ranks() != 2 {
		t.Errorf("memory: %d of %d free, %v", free, total, err)
	}
	sides := [2]*side{one, two}
	r := rand.New(rand.NewPCG(15, 16))
	var seqs [2]*sequence
	for i := range seqs {
		seqs[i] = &sequence{}
	}
	pixels := randomPixels(one.Config.Vision, kernels.F32, r, 2)
	for step, n := range []int{40, 9, 1, 1, 1, 20, 1, 1} { // without taps, decode is launched, captured, replayed
		tokens := randomTokens(r, n, 1000)
		var outs [2][]kernels.Out
		var bufs [2][]float32
		for i, s := range sides {
			b := s.batch([]piece{{seqs[i], tokens}})
			if step%2 == 1 {
				for _, at := range []struct {
					hook kernels.Hook
					cols [2]int32
					size int
				}{{kernels.HookZ, [2]int32{}, 1024}, {kernels.HookQ, [2]int32{100, 900}, 800}, {kernels.HookV, [2]int32{}, 256}, {kernels.HookFFNOut, [2]int32{}, 256}} {
					b.Taps = append(b.Taps, kernels.Tap{At: kernels.Point{Layer: 1, Hook: at.hook}, Rows: []int32{0}, Cols: at.cols, Buf: make([]float32, at.size)})
				}
			}
			var picture kernels.Picture
			if step == 5 {
				var err error
				if picture, err = s.See(s.dev.(kernels.Viewer), pixels); err != nil {
					t.Fatal(err)
				}
				b.Pictures = []kernels.PictureRows{{Row: 3, Rows: int32(picture.Rows()) - 1, From: 1, Picture: picture}}
			}
			result := <-s.dev.Step(b, func() { s.Forward(s.dev) })
			if result.Err != nil {
				t.Fatalf("step %d: %v", step, result.Err)
			}
			if picture != nil {
				picture.Release()
			}
			seqs[i].pos += n
			outs[i] = result.Outs
			for _, tap := range b.Taps {
				bufs[i] = append(bufs[i], tap.Buf...)
			}
		}
		if !slices.EqualFunc(outs[0], outs[1], sameOut) {
			t.Fatalf("step %d: in one process %+v, in two %+v", step, outs[0], outs[1])
		}
		if !slices.Equal(bufs[0], bufs[1]) {
			t.Errorf("step %d: the taps see different values", step)
		}
	}
	spec := one.Config.KVSpec(kernels.BF16, pageTokens)
	page, other := seqs[0].global[0], one.p.page(kernels.GroupGlobal)
	var kept [2][]byte
	for i, s := range sides {
		kept[i] = make([]byte, spec.PageBytes(kernels.GroupGlobal))
		for _, err := range []error{s.kv.Copy(kernels.GroupGlobal, other, page), s.kv.Save(kernels.GroupGlobal, other, kept[i]),
			s.kv.Load(kernels.GroupGlobal, page, make([]byte, len(kept[i]))), s.kv.Load(kernels.GroupGlobal, page, kept[i]), s.kv.Save(kernels.GroupGlobal, page, kept[i])} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(kept[0], kept[1]) || bytes.Count(kept[0], []byte{0}) > len(kept[0])/4 {
		t.Error("the pages differ, or are empty")
	}
	bad := two.batch([]piece{{seqs[1], []int32{1}}})
	bad.Want[0].Score = 5000 // what only the first process looks at does not bring the second one out of step
	if r := <-two.dev.Step(bad, func() { two.Forward(two.dev) }); r.Err == nil || !strings.Contains(r.Err.Error(), "want a scored id below 1000") {
		t.Errorf("a batch that is wrong: got %v", r.Err)
	}
	if got, want := two.run(t, []piece{{seqs[1], []int32{1}}}, true, nil), one.run(t, []piece{{seqs[0], []int32{1}}}, true, nil); !slices.EqualFunc(got, want, sameOut) {
		t.Errorf("after it: want %+v, got %+v", want, got)
	}
}

// A process that dies, or stops, ends in an error that names it, and so does everything from then on.
func TestHostsLost(t *testing.T) {
	for _, c := range []struct {
		signal syscall.Signal
		want   string
		within time.Duration
	}{{syscall.SIGKILL, "the connection is closed", 10 * time.Second}, {syscall.SIGSTOP, "", 20 * time.Second}} {
		t.Run(fmt.Sprint(c.signal), func(t *testing.T) {
			if testing.Short() && c.signal == syscall.SIGSTOP {
				t.Skip("takes long")
			}
			s, second := twoHosts(t, hostsConfig(), true)
			defer second.Process.Kill()
			q := &sequence{}
			s.run(t, []piece{{q, []int32{1, 2, 3}}}, true, nil)
			second.Process.Signal(c.signal)
			var err error
			begin := time.Now()
			for err == nil && time.Since(begin) < time.Minute {
				err = (<-s.dev.Step(s.batch([]piece{{q, []int32{4}}}), func() { s.Forward(s.dev) })).Err
			}
			if took := time.Since(begin); err == nil || !strings.Contains(err.Error(), "process 1 (127.0.0.1:") || !strings.Contains(err.Error(), c.want) || took > c.within {
				t.Errorf("after %v: want an error about process 1 and %q, got %v", took, c.want, err)
			}
			begin = time.Now()
			if r := <-s.dev.Step(s.batch([]piece{{q, []int32{4}}}), func() { s.Forward(s.dev) }); r.Err == nil || time.Since(begin) > 5*time.Second {
				t.Errorf("a step later: want an error at once, got %v after %v", r.Err, time.Since(begin))
			}
		})
	}
}
