//go:build cuda

package cuda_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chulengo/kernels/cuda"
	"chulengo/model"
	"chulengo/safetensors"
)

// sparse writes a checkpoint of zeros, which takes no room on the disk, except that the last number of every tensor is 1.
func sparse(t *testing.T, dir string, config map[string]any) (bytes int64) {
	t.Helper()
	of := func(key string) int { return config[key].(int) }
	d, f, e := of("hidden_size"), of("intermediate_size"), of("num_local_experts")
	q, kv := of("num_attention_heads")*of("head_dim"), of("num_key_value_heads")*of("head_dim")
	header := map[string]any{}
	var ends []int64
	add := func(name string, shape ...int) {
		from := bytes
		n := int64(2)
		for _, x := range shape {
			n *= int64(x)
		}
		bytes += n
		ends = append(ends, bytes)
		header[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int64{from, bytes}}
	}
	add("model.embed_tokens.weight", of("vocab_size"), d)
	add("lm_head.weight", of("vocab_size"), d)
	add("model.norm.weight", d)
	for l := range of("num_hidden_layers") {
		p := fmt.Sprintf("model.layers.%d.", l)
		add(p+"input_layernorm.weight", d)
		add(p+"post_attention_layernorm.weight", d)
		add(p+"self_attn.q_proj.weight", q, d)
		add(p+"self_attn.k_proj.weight", kv, d)
		add(p+"self_attn.v_proj.weight", kv, d)
		add(p+"self_attn.o_proj.weight", d, q)
		add(p+"feed_forward.router.weight", e, d)
		add(p+"feed_forward.shared_expert.gate_proj.weight", f, d)
		add(p+"feed_forward.shared_expert.up_proj.weight", f, d)
		add(p+"feed_forward.shared_expert.down_proj.weight", d, f)
		add(p+"feed_forward.experts.gate_up_proj", e, d, 2*f)
		add(p+"feed_forward.experts.down_proj", e, f, d)
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, strings.Repeat(" ", -len(text)&7)...)
	file, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	start := int64(8 + len(text))
	write := func(b []byte, at int64) {
		if _, err := file.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), 0)
	for _, end := range ends {
		write([]byte{0x80, 0x3f}, start+end-2)
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// anonymous is the memory of this process that no file stands behind, in bytes: pages of mapped files go when others need the room. Where the
// system does not say so, it is not there; a word that cannot be read fails the test.
func anonymous(t *testing.T) (n int64, there bool) {
	text, err := os.ReadFile("/proc/self/status")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false
	}
	_, rest, there := strings.Cut(string(text), "RssAnon:")
	if err == nil && there {
		_, err = fmt.Sscan(rest, &n)
	}
	if err != nil {
		t.Errorf("/proc/self/status: %v", err)
	}
	return n << 10, there
}

// What the host holds while a checkpoint is loaded is the staging buffers and little else, however large the checkpoint: another
// process loads one that is larger than the limit and watches its own memory. CHULENGO_LOAD_LAYERS=4 takes so many of Scout's and its
// vocabulary (22 GB) and the limit of 2 GiB, on a GPU that holds them.
func TestLoadMemory(t *testing.T) {
	if _, there := anonymous(t); !there {
		t.Skip("needs RssAnon in /proc/self/status")
	}
	if dir := os.Getenv("CHULENGO_LOAD"); dir != "" {
		watchLoad(t, dir)
		return
	}
	config, limit := fastConfig(), int64(64<<20)
	config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"] = 1024, 1024, 2
	config["interleave_moe_layer_step"], config["no_rope_layers"] = 1, []int{1, 0}
	if text := os.Getenv("CHULENGO_LOAD_LAYERS"); text != "" {
		layers, err := strconv.Atoi(text)
		if err != nil || layers < 1 {
			t.Fatalf("CHULENGO_LOAD_LAYERS is %q, want a number of layers", text)
		}
		config, limit = scoutConfig(), 2<<30
		config["num_hidden_layers"], config["vocab_size"] = layers, 202048
	}
	dir := t.TempDir()
	bytes := sparse(t, dir, config)
	limit += cuda.Staging
	if bytes < limit {
		t.Fatalf("a checkpoint of %d bytes, want more than the limit of %d", bytes, limit)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestLoadMemory$")
	child.Env = append(os.Environ(), "CHULENGO_LOAD="+dir)
	out, err := child.CombinedOutput()
	text := string(out)
	_, rest, _ := strings.Cut(text, "held ")
	var before, held, goes int64
	if _, e := fmt.Sscan(rest, &before, &held, &goes); err != nil || e != nil {
		t.Fatalf("%v, %v: %s", err, e, text)
	}
	t.Logf("%d bytes loaded with %d of the host's (%d before), %d of them Go's", bytes, held, before, goes)
	if held > limit || goes > limit-cuda.Staging {
		t.Errorf("%d bytes loaded with %d of the host's, want at most %d; with %d of Go's, want at most %d", bytes, held, limit, goes, limit-cuda.Staging)
	}
}

// watchLoad loads a checkpoint and prints the memory of this process before, the most of it, looked at every millisecond, and what
// Go's runtime ever had from the system. The software GPU's memory is shared, and so is not among it.
func watchLoad(t *testing.T, dir string) {
	dev := openGPU(t, cuda.Options{})
	cfg, err := model.LoadConfig(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	ckpt, err := safetensors.Open(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer ckpt.Close()
	before, _ := anonymous(t)
	most := before
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			now, _ := anonymous(t)
			most = max(most, now)
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	m, err := model.Load(context.Background(), ckpt, cfg, dev, model.LoadOptions{})
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	last := m.Layers[cfg.Layers-1].MoE.Down
	for _, e := range []int{0, cfg.Experts - 1} {
		w, err := last.Get(0, e)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(w.Data); (w.Data[n-2] == 0x80 && w.Data[n-1] == 0x3f) != (e == cfg.Experts-1) {
			t.Errorf("expert %d of the last tensor ends with %x, want 803f in the last expert alone", e, w.Data[n-2:])
		}
	}
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	fmt.Println("held", before, most, s.Sys)
}
