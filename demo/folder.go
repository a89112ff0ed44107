//go:build nodemo

package demo

import (
	"io/fs"
	"os"
	"sync"

	"chulengo/safetensors"
)

var folder = sync.OnceValue(func() fs.FS {
	dir := "demo/checkpoint"
	if named := os.Getenv("CHULENGO_DEMO"); named != "" {
		dir = named
	}
	return safetensors.Unpacked(os.DirFS(dir))
})
