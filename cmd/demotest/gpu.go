//go:build cuda

package demotest

import (
	"fmt"
	"strconv"
	"strings"

	"chulengo/kernels"
	"chulengo/kernels/cuda"
)

func init() {
	onGPU = func(names string) (kernels.Device, error) {
		var ordinals []int
		for name := range strings.SplitSeq(names, ",") {
			rest, ok := strings.CutPrefix(name, "cuda")
			n, err := 0, error(nil)
			if number, named := strings.CutPrefix(rest, ":"); named {
				n, err = strconv.Atoi(number)
			} else if rest != "" {
				ok = false
			}
			if !ok || err != nil {
				return nil, fmt.Errorf("CHULENGO_TEST_DEVICE: want cuda, or cuda:N[,cuda:M], got %q", names)
			}
			ordinals = append(ordinals, n)
		}
		if len(ordinals) > 1 {
			return cuda.NewGroup(cuda.Options{}, ordinals)
		}
		return cuda.New(cuda.Options{Ordinal: ordinals[0]})
	}
}
