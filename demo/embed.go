//go:build !nodemo

package demo

import (
	"embed"
	"io/fs"
)

//go:embed checkpoint
var files embed.FS

// FS is the checkpoint's directory.
func FS() fs.FS {
	dir, err := fs.Sub(files, "checkpoint")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return dir
}
