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
		return newSightOn(t, dev, engine.KeysAs(llamaOn(t, demo.FS(), dev), kernels.BF16))
	}
}
