package safetensors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// WriteSharded writes tensors as the files model-00001-of-0000N.safetensors in dir, an existing folder, and the index.
// Tensors keep their order: a shard ends where the next tensor would bring its data above maxBytes; a larger tensor has
// a shard of its own, and maxBytes 0 means one shard. The metadata goes into every shard, the sum of the data's bytes as
// total_size into the index. The index is written last.
func WriteSharded(dir string, tensors []Tensor, maxBytes int64, metadata map[string]string) error {
	for i := range tensors {
		if err := tensors[i].check(); err != nil {
			return err
		}
	}
	w, err := CreateSharded(dir, tensors, maxBytes, metadata)
	if err != nil {
		return err
	}
	for _, t := range tensors {
		if err := w.Put(t.Name, t.Data); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Close()
}

// ShardedWriter writes a checkpoint whose tensors are not all in memory at once, as Writer does one file.
type ShardedWriter struct {
	dir    string
	shards []*Writer
	of     map[string]*Writer
	index  []byte
}

// CreateSharded begins the files that WriteSharded would write, for tensors whose Data it ignores. Every ShardedWriter must
// be ended by Close or Abort.
func CreateSharded(dir string, tensors []Tensor, maxBytes int64, metadata map[string]string) (*ShardedWriter, error) {
	var shards [][]Tensor
	var shard, total int64
	for i := range tensors {
		size, _ := byteSize(tensors[i].DType, tensors[i].Shape) // Create refuses what overflows
		n := int64(size)
		if i == 0 || maxBytes > 0 && shard > 0 && n > 0 && shard+n > maxBytes {
			shards, shard = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], tensors[i])
		shard += n
		total += n
	}
	shardOf := make(map[string]string, len(tensors))
	name := func(i int) string { return fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards)) }
	for i, ts := range shards { // before anything is written: one name in two shards is not seen by Create
		for _, t := range ts {
			if other, ok := shardOf[t.Name]; ok {
				return nil, &Error{Fault: DuplicateTensor, File: name(i), Tensor: t.Name, Want: "one tensor of that name", Got: "another in " + other}
			}
			shardOf[t.Name] = name(i)
		}
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(map[string]any{"metadata": map[string]int64{"total_size": total}, "weight_map": shardOf}); err != nil {
		panic(err) // strings and integers always encode
	}
	w := &ShardedWriter{dir: dir, of: make(map[string]*Writer, len(tensors)), index: text.Bytes()}
	for i, ts := range shards {
		one, err := Create(filepath.Join(dir, name(i)), ts, metadata)
		if err != nil {
			w.Abort()
			return nil, err
		}
		w.shards = append(w.shards, one)
		for _, t := range ts {
			w.of[t.Name] = one
		}
	}
	return w, nil
}

// Put writes the data of one tensor, as Writer.Put does, from any goroutine.
func (w *ShardedWriter) Put(name string, data []byte) error {
	one := w.of[name]
	if one == nil {
		return &Error{Fault: UnknownTensor, File: w.dir, Tensor: name, Want: "a tensor given to CreateSharded", Got: "another"}
	}
	return one.Put(name, data)
}

// Close completes the files and writes the index.
func (w *ShardedWriter) Close() error {
	for i, one := range w.shards {
		if err := one.Close(); err != nil {
			for _, rest := range w.shards[i+1:] {
				rest.Abort()
			}
			return err
		}
	}
	path := filepath.Join(w.dir, IndexName)
	temp, err := createTemp(path)
	if err != nil {
		return err
	}
	if _, err := temp.Write(w.index); err != nil {
		temp.Close()
		os.Remove(temp.Name())
		return fmt.Errorf("safetensors: %w", err)
	}
	return finish(temp, path)
}

// Abort gives the files up and removes what was written.
func (w *ShardedWriter) Abort() {
	for _, one := range w.shards {
		one.Abort()
	}
}
