package safetensors

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
)

// packedSuffix ends the name of a file that is kept packed: NAME.gz serves where there is no NAME. bfloat16 weights are a fifth smaller
// that way, but they are read into memory, where others are mapped.
const packedSuffix = ".gz"

// mostPacked bounds how many times larger than itself a packed file may say that it is: weights are not even twice as large, and a file
// from outside must not take all memory.
const mostPacked = 16

// unpack reads the packed file of that name; without one, the error is fs.ErrNotExist.
func unpack(fsys fs.FS, name string) ([]byte, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("safetensors: %s: %w", name, err)
	}
	text, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %s: want a file packed by gzip: %w", name, err)
	}
	most := mostPacked * info.Size()
	var data bytes.Buffer
	data.Grow(int(min(2*info.Size(), 1<<30)))
	switch n, err := data.ReadFrom(io.LimitReader(text, most+1)); {
	case err != nil:
		return nil, fmt.Errorf("safetensors: %s: unpacking, after %d bytes: %w", name, n, err)
	case n > most:
		return nil, fmt.Errorf("safetensors: %s: want at most %d bytes in it, %d times its own, got more", name, most, mostPacked)
	}
	return data.Bytes(), nil
}
