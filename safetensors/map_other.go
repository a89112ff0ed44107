//go:build !windows && (!unix || aix || solaris)

package safetensors

import (
	"errors"
	"os"
)

// canMap false makes open read files whole.
const canMap = false

func mapFile(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmapFile([]byte) error { return errors.ErrUnsupported }

func adviseNeed([]byte) {}
