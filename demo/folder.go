//go:build nodemo

package demo

import (
	"io/fs"
	"os"
)

// FS is the checkpoint's directory.
func FS() fs.FS {
	if dir := os.Getenv("CHULENGO_DEMO"); dir != "" {
		return os.DirFS(dir)
	}
	return os.DirFS("demo/checkpoint")
}
