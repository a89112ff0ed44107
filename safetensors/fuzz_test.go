package safetensors

import (
	"bytes"
	"maps"
	"testing"
)

// FuzzHeader: Parse never panics, and what it accepts, WriteTo reproduces.
func FuzzHeader(f *testing.F) {
	for _, c := range malformed {
		f.Add(c.data)
	}
	var sample bytes.Buffer
	if _, err := WriteTo(&sample, samples(), map[string]string{"format": "pt"}); err != nil {
		f.Fatal(err)
	}
	f.Add(sample.Bytes())
	f.Add(fileOf(`{"w":`+f32+`}`, 4))
	f.Add(fileOf(`{"__metadata__":{"a":"\ud83d\ude00"},"":{"shape":[2,0],"dtype":"BF16","data_offsets":[0,0]}}  `, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data)
		if err != nil {
			if _, ok := err.(*Error); !ok {
				t.Fatalf("%T is not *Error: %v", err, err)
			}
			return
		}
		var tensors []Tensor
		for _, name := range file.Names() {
			x, err := file.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := x.Float32s(); err != nil {
				t.Fatal(err)
			}
			tensors = append(tensors, *x)
		}
		var out bytes.Buffer
		if _, err := WriteTo(&out, tensors, file.Metadata()); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again", out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		checkEqual(t, again, tensors)
		if !maps.Equal(file.Metadata(), again.Metadata()) {
			t.Errorf("metadata %q, want %q", again.Metadata(), file.Metadata())
		}
	})
}

// FuzzIndex: parseIndex never panics, and lets no path through.
func FuzzIndex(f *testing.F) {
	for _, text := range []string{`{"metadata":{"total_size":10,"x":"y"},` + goodMap + `}`, `{"weight_map":{"a":"../b"}}`, `{"x":[[{"y":-1.5e3}]],"z":null}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		shardOf, _, err := parseIndex(text)
		if err != nil {
			if _, ok := err.(*Error); !ok {
				t.Fatalf("%T is not *Error: %v", err, err)
			}
			return
		}
		for name, shard := range shardOf {
			if shard == "" || shard == "." || shard == ".." || bytes.ContainsAny([]byte(shard), "/\\:\x00") {
				t.Errorf("tensor %q in shard %q", name, shard)
			}
		}
	})
}
