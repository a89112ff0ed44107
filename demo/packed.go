package demo

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// packed is a folder in which large files may lie packed, NAME.gz for NAME: whoever opens NAME, or lists the folder, sees what is in
// it. The weights are a fifth smaller that way, in the repository and in the program.
type packed struct{ fs.FS }

const suffix = ".gz"

// Open implements fs.FS.
func (p packed) Open(name string) (fs.File, error) {
	file, err := p.FS.Open(name)
	if list, ok := file.(fs.ReadDirFile); ok && err == nil {
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return folder{list, p, name}, nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	inside, missing := p.FS.Open(name + suffix)
	if missing != nil {
		return nil, err // of the file that was asked for
	}
	text, err := gzip.NewReader(inside)
	if err != nil {
		inside.Close()
		return nil, &fs.PathError{Op: "open", Path: name + suffix, Err: err}
	}
	return &unpacked{inside, text, p, name}, nil
}

// folder lists packed files under their own names.
type folder struct {
	fs.ReadDirFile
	dir  packed
	name string
}

func (f folder) ReadDir(n int) ([]fs.DirEntry, error) {
	list, err := f.ReadDirFile.ReadDir(n)
	for i, e := range list {
		if short, ok := strings.CutSuffix(e.Name(), suffix); ok {
			list[i] = entry{e, f.dir, short, path.Join(f.name, short)}
		}
	}
	return list, err
}

// entry is a packed file in a listing, under its own name.
type entry struct {
	fs.DirEntry
	dir      packed
	name, at string
}

func (e entry) Name() string { return e.name }

func (e entry) String() string { return fs.FormatDirEntry(e) }

func (e entry) Info() (fs.FileInfo, error) { return fs.Stat(e.dir, e.at) }

// unpacked is what an open file has in it.
type unpacked struct {
	fs.File
	text *gzip.Reader
	dir  packed
	name string
}

func (u *unpacked) Read(to []byte) (int, error) { return u.text.Read(to) }

// Stat reads the size from the last four bytes of the packed file.
func (u *unpacked) Stat() (fs.FileInfo, error) {
	info, err := u.File.Stat()
	if err != nil {
		return nil, err
	}
	file, err := u.dir.FS.Open(u.name + suffix)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var last [4]byte
	at, ok := file.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("demo: %s: want a file that can be read anywhere, got %T", u.name+suffix, file)
	}
	if _, err := at.ReadAt(last[:], info.Size()-4); err != nil {
		return nil, fmt.Errorf("demo: %s: %w", u.name+suffix, err)
	}
	return about{info, strings.TrimSuffix(info.Name(), suffix), int64(binary.LittleEndian.Uint32(last[:]))}, nil
}

// about is what is known of a packed file, with the name and the size of what is in it.
type about struct {
	fs.FileInfo
	name string
	size int64
}

func (a about) Name() string { return a.name }
func (a about) Size() int64  { return a.size }
