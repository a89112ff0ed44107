//go:build !amd64

package simd

func sets() []*set { return nil }

// bytesOf is only needed by routines in assembly.
func bytesOf([]float32) *byte { return nil }

// spread is only needed by routines in assembly.
func spread(*float32, int, *float32, int) {}
