package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const (
	metaDir    = ".chulengo"
	lockName   = metaDir + "/lock"
	hashesName = metaDir + "/hashes.json"
	partsName  = metaDir + "/parts"
)

// folder is the destination of a pull, locked. All names are slash-separated and relative; root keeps even those that
// lead through symbolic links inside it.
type folder struct {
	dir  string
	root *os.Root
	lock *os.File

	mu     sync.Mutex
	hashes map[string]hashEntry // by path
}

// hashEntry says that the file of this size and time was found to have this digest.
type hashEntry struct {
	Size   int64  `json:"size"`
	Time   int64  `json:"mtime_ns"`
	Digest string `json:"digest"` // digest.String; "" for a file without one
}

// openFolder makes dir if need be and locks it for this process.
func openFolder(dir string) (*folder, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fail(ErrDisk, err, "cannot make the folder %[1]s: %[2]v", "无法创建目录 %[1]s：%[2]v", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, diskError(err, dir, ".")
	}
	f := &folder{dir: dir, root: root, hashes: make(map[string]hashEntry)}
	if err := f.acquire(); err != nil {
		root.Close()
		return nil, err
	}
	if data, err := root.ReadFile(hashesName); err == nil {
		if json.Unmarshal(data, &f.hashes) != nil || f.hashes == nil {
			f.hashes = make(map[string]hashEntry) // damaged: everything is verified again
		}
	}
	return f, nil
}

func (f *folder) acquire() error {
	if err := f.root.MkdirAll(partsName, 0o777); err != nil {
		return diskError(err, f.dir, partsName)
	}
	file, err := f.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return diskError(err, f.dir, lockName)
	}
	held, err := lockFile(file)
	if held {
		owner, _ := io.ReadAll(io.LimitReader(file, 32)) // only for the message
		file.Close()
		return fail(ErrBusy, nil, "%[1]s: another chulengo (process %[2]s) is downloading into this folder; wait for it, or stop it",
			"%[1]s：另一个 chulengo（进程 %[2]s）正在向该目录下载；请等待其完成或将其停止", f.dir, strings.TrimSpace(string(owner)))
	}
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		file.Close()
		return diskError(err, f.dir, lockName)
	}
	f.lock = file
	return nil
}

// Close releases the lock and removes the folder of unfinished files if none is left.
func (f *folder) Close() {
	f.removeEmpty(partsName)
	f.lock.Close()
	f.root.Close()
}

// removeEmpty removes the empty folders at and below name.
func (f *folder) removeEmpty(name string) {
	entries, err := fs.ReadDir(f.root.FS(), name)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			f.removeEmpty(path.Join(name, e.Name()))
		}
	}
	f.root.Remove(name) // fails, rightly, if it is not empty
}

// known reports whether the file at rel has the size and digest of want: from hashes.json, else by reading it. rehash
// reads in any case.
func (f *folder) known(ctx context.Context, want remoteFile, rehash bool, progress func(int64)) (bool, error) {
	name := filepath.Join(f.dir, filepath.FromSlash(want.path)) // reading may follow a user's links to other disks
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != want.size {
		return false, nil
	}
	now := hashEntry{info.Size(), info.ModTime().UnixNano(), want.digest.String()}
	f.mu.Lock()
	same := f.hashes[want.path] == now
	f.mu.Unlock()
	if same && !rehash || want.digest.hex == "" {
		return true, nil
	}
	got, err := hashFile(ctx, name, want.digest.algo, progress)
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return false, diskError(err, f.dir, want.path)
	}
	if got != want.digest {
		return false, nil
	}
	return true, f.remember(want)
}

// remember records that the file at want.path is what the listing says.
func (f *folder) remember(want remoteFile) error {
	info, err := os.Stat(filepath.Join(f.dir, filepath.FromSlash(want.path)))
	if err != nil {
		return diskError(err, f.dir, want.path)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hashes[want.path] = hashEntry{info.Size(), info.ModTime().UnixNano(), want.digest.String()}
	return f.writeJSON(hashesName, f.hashes)
}

// writeJSON replaces the file at name atomically.
func (f *folder) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return fmt.Errorf("hub: %s: %w", name, err)
	}
	tmp := name + ".tmp"
	if err := f.root.WriteFile(tmp, data, 0o666); err != nil {
		return diskError(err, f.dir, name)
	}
	if err := f.root.Rename(tmp, name); err != nil {
		return diskError(err, f.dir, name)
	}
	return nil
}

// partName is where the bytes of an unfinished file are; its state is beside it, with .json appended.
func partName(rel string) string { return partsName + "/" + rel + ".part" }

// makeParents makes the folders above the file at rel, and above its part.
func (f *folder) makeParents(rel string) error {
	for _, name := range []string{rel, partName(rel)} {
		if err := f.root.MkdirAll(path.Dir(name), 0o777); err != nil {
			return diskError(err, f.dir, path.Dir(name))
		}
	}
	return nil
}

// install moves the finished part of want to its place.
func (f *folder) install(want remoteFile) error {
	if err := f.root.Rename(partName(want.path), want.path); err != nil {
		return diskError(err, f.dir, want.path)
	}
	if err := f.root.Remove(partName(want.path) + ".json"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError(err, f.dir, want.path)
	}
	return f.remember(want)
}

// hashFile computes the digest of the file at name. progress hears the bytes read so far.
func hashFile(ctx context.Context, name, algo string, progress func(done int64)) (digest, error) {
	file, err := os.Open(name)
	if err != nil {
		return digest{}, err
	}
	defer file.Close()
	var h hash.Hash
	switch algo {
	case "sha256":
		h = sha256.New()
	case "git":
		info, err := file.Stat()
		if err != nil {
			return digest{}, err
		}
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", info.Size())
	default:
		panic("hub: unknown digest algorithm " + algo)
	}
	buf := make([]byte, 1<<20)
	for done := int64(0); ; {
		if ctx.Err() != nil {
			return digest{}, ctx.Err()
		}
		n, err := file.Read(buf)
		h.Write(buf[:n])
		done += int64(n)
		progress(done)
		if err == io.EOF {
			return digest{algo, hex.EncodeToString(h.Sum(nil))}, nil
		}
		if err != nil {
			return digest{}, err
		}
	}
}
