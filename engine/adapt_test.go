package engine

import (
	"testing"

	"chulengo/model"
)

// ownDecoder is a tokenizer as package tokenizer has it: its decoders are of its own type.
type ownDecoder struct{}

func (ownDecoder) NewDecoder() *bytesDecoder { return &bytesDecoder{names: []string{"a", "b"}} }

func TestForTokenizer(t *testing.T) {
	d := ForTokenizer(ownDecoder{}).NewDecoder()
	if got := d.Next(1) + d.Next(0) + d.Flush(); got != "ba" {
		t.Errorf("got %q, want ba", got)
	}
}

func TestDefaults(t *testing.T) {
	for _, c := range []struct {
		g    *model.Generation
		want Sampling
	}{
		{nil, Sampling{}},
		{&model.Generation{Temperature: 0.6, TopP: 0.9}, Sampling{}}, // do_sample false
		{&model.Generation{Sample: true, Temperature: 0.6, TopP: 0.9, TopK: 5}, Sampling{Temperature: 0.6, TopP: 0.9, TopK: 5}},
	} {
		got := Defaults(c.g)
		if got.Temperature != c.want.Temperature || got.TopP != c.want.TopP || got.TopK != c.want.TopK {
			t.Errorf("%+v: got %+v, want %+v", c.g, got, c.want)
		}
	}
}
