package safetensors

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"time"
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

// Unpacked shows a folder in which packed files open under their own names, too. What is in one is kept: a program that opens a
// checkpoint often unpacks it once, and all who have it open share its bytes.
func Unpacked(fsys fs.FS) fs.FS { return &unpacked{FS: fsys, kept: map[string][]byte{}} }

type unpacked struct {
	fs.FS
	mu   sync.Mutex
	kept map[string][]byte // by name
}

// Open implements fs.FS.
func (u *unpacked) Open(name string) (fs.File, error) {
	file, err := u.FS.Open(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	data, known := u.kept[name]
	if !known {
		var packedErr error
		if data, packedErr = unpack(u.FS, name+packedSuffix); errors.Is(packedErr, fs.ErrNotExist) {
			return nil, err // of the file that was asked for
		} else if packedErr != nil {
			return nil, packedErr
		}
		u.kept[name] = data
	}
	return &inMemory{bytes.NewReader(data), path.Base(name), data}, nil
}

// inMemory is an open file, and what is known of it.
type inMemory struct {
	*bytes.Reader
	name string
	data []byte
}

func (m *inMemory) Stat() (fs.FileInfo, error) { return m, nil }
func (m *inMemory) Close() error               { return nil }
func (m *inMemory) Name() string               { return m.name }
func (m *inMemory) Mode() fs.FileMode          { return 0o444 }
func (m *inMemory) ModTime() time.Time         { return time.Time{} }
func (m *inMemory) IsDir() bool                { return false }
func (m *inMemory) Sys() any                   { return nil }
