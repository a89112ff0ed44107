//go:build cuda

package engine_test

import (
	"os"
	"testing"

	"chulengo/demo"
	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

// inBF16 keeps keys and values as a GPU does.
type inBF16 struct{ engine.Model }

func (m inBF16) Spec() engine.Spec {
	s := m.Model.Spec()
	s.KV.Format = kernels.BF16
	return s
}

func init() {
	demoSight = func(t *testing.T) *sight {
		var dev kernels.Viewer
		var err error
		if os.Getenv("CHULENGO_RANKS") == "2" {
			dev, err = cuda.NewGroup(cuda.Options{}, []int{0, 1})
		} else {
			dev, err = cuda.New(cuda.Options{})
		}
		if err != nil {
			t.Fatal(err)
		}
		return newSightOn(t, dev, inBF16{llamaOn(t, demo.FS(), dev)})
	}
}
