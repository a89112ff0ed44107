//go:build !nodemo

package demo

import (
	"embed"
	"io/fs"
	"sync"

	"chulengo/safetensors"
)

//go:embed checkpoint
var files embed.FS

var folder = sync.OnceValue(func() fs.FS {
	dir, err := fs.Sub(files, "checkpoint")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return safetensors.Unpacked(dir)
})
