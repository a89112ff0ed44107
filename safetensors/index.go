package safetensors

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// The names under which Open looks for a checkpoint.
const (
	IndexName  = "model.safetensors.index.json"
	SingleName = "model.safetensors"
)

// Checkpoint is an open checkpoint: one file, or the shards of an index. Its methods may be called from several
// goroutines; Close only once they are done.
type Checkpoint struct {
	files    []*File // in the order of their names
	tensors  map[string]*Tensor
	names    []string // sorted
	metadata map[string]string
}

// Open opens the checkpoint in fsys: the index model.safetensors.index.json with all of its shards, or else the single
// file model.safetensors. Files that are *os.File, as those of os.DirFS, are mapped; others, and those that lie packed (NAME.gz), are
// read into memory.
// The errors are *Error; they know file names within fsys only, so a caller that knows the folder adds it.
func Open(fsys fs.FS) (*Checkpoint, error) {
	text, err := readIndex(fsys)
	if err == nil {
		return openSharded(fsys, text)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	file, err := openFS(fsys, SingleName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Fault: NoCheckpoint, Want: IndexName + " or " + SingleName, Got: "neither", Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	return &Checkpoint{files: []*File{file}, tensors: file.tensors, names: file.names, metadata: file.metadata}, nil
}

// readIndex returns the text of the index; like a header it is bounded by MaxHeader.
func readIndex(fsys fs.FS) ([]byte, error) {
	file, err := fsys.Open(IndexName)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, MaxHeader+1))
	if err == nil && len(text) > MaxHeader {
		err = &Error{Fault: HeaderTooLong, File: IndexName, Want: fmt.Sprintf("at most %d bytes", MaxHeader), Got: "more"}
	}
	return text, err
}

// openFS opens one file of fsys, or what is packed beside its place.
func openFS(fsys fs.FS, name string) (*File, error) {
	file, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err := unpack(fsys, name+packedSuffix); err == nil {
			return Parse(name, data)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	defer file.Close()
	return open(name, file)
}

// openSharded opens the shards of an index and checks that they agree with it.
func openSharded(fsys fs.FS, text []byte) (_ *Checkpoint, err error) {
	shardOf, metadata, err := parseIndex(text)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{tensors: make(map[string]*Tensor, len(shardOf)), metadata: make(map[string]string)}
	defer func() {
		if err != nil {
			c.Close() // the fault matters more than an error of unmapping
		}
	}()
	for _, shard := range slices.Compact(slices.Sorted(maps.Values(shardOf))) {
		file, err := openFS(fsys, shard)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &Error{Fault: MissingShard, File: shard, Tensor: firstOf(shardOf, shard), Want: "the file that " + IndexName + " names for it", Got: "none", Err: fs.ErrNotExist}
		}
		if err != nil {
			return nil, err
		}
		c.files = append(c.files, file)
		for key, value := range file.metadata {
			if _, ok := c.metadata[key]; !ok {
				c.metadata[key] = value
			}
		}
		for _, name := range file.names {
			if other, ok := c.tensors[name]; ok {
				return nil, &Error{Fault: RepeatedTensor, File: shard, Tensor: name, Want: "it in one shard", Got: "it in " + other.File + " too"}
			}
			if _, ok := shardOf[name]; !ok {
				return nil, &Error{Fault: UnlistedTensor, File: shard, Tensor: name, Want: "its name in the weight_map of " + IndexName, Got: "none"}
			}
			c.tensors[name] = file.tensors[name]
		}
	}
	maps.Copy(c.metadata, metadata)
	c.names = slices.Sorted(maps.Keys(shardOf))
	for _, name := range c.names {
		t, ok := c.tensors[name]
		if !ok {
			return nil, &Error{Fault: AbsentTensor, File: shardOf[name], Tensor: name, Want: "it where " + IndexName + " puts it", Got: "no such tensor"}
		}
		if t.File != shardOf[name] {
			return nil, &Error{Fault: AbsentTensor, File: shardOf[name], Tensor: name, Want: "it where " + IndexName + " puts it", Got: "it in " + t.File}
		}
	}
	return c, nil
}

// firstOf returns the first name, in order, that shardOf puts into shard.
func firstOf(shardOf map[string]string, shard string) string {
	for _, name := range slices.Sorted(maps.Keys(shardOf)) {
		if shardOf[name] == shard {
			return name
		}
	}
	return ""
}

// parseIndex reads {"metadata": {…}, "weight_map": {tensor: shard, …}}. Metadata may hold values of any type: a string
// is taken as it is, others as their JSON text. Other keys are ignored.
func parseIndex(text []byte) (shardOf, metadata map[string]string, err error) {
	s := &scanner{file: IndexName, text: text}
	if !utf8.Valid(text) {
		return nil, nil, s.fail(NotUTF8, "a UTF-8 text", "other bytes")
	}
	metadata = make(map[string]string)
	seen := make(map[string]bool)
	err = s.object("the index", func(key string) error {
		if seen[key] {
			return s.fail(DuplicateKey, "one "+quote(key), "two")
		}
		seen[key] = true
		switch key {
		case "metadata":
			return s.indexMetadata(metadata)
		case "weight_map":
			shardOf = make(map[string]string)
			return s.weightMap(shardOf)
		}
		_, err := s.skip(0)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if s.peek(); s.pos < len(text) {
		return nil, nil, s.fail(HeaderTrailer, "white space only", s.found())
	}
	if shardOf == nil {
		return nil, nil, s.fail(MissingKey, "weight_map", "none")
	}
	return shardOf, metadata, nil
}

func (s *scanner) indexMetadata(into map[string]string) error {
	return s.object("metadata", func(key string) error {
		if _, ok := into[key]; ok {
			return s.fail(DuplicateKey, "one "+quote(key)+" in metadata", "two")
		}
		if s.peek() == '"' {
			value, err := s.string("a value")
			into[key] = value
			return err
		}
		value, err := s.skip(0)
		into[key] = string(value)
		return err
	})
}

func (s *scanner) weightMap(into map[string]string) error {
	return s.object("weight_map", func(name string) error {
		s.tensor = name
		if _, ok := into[name]; ok {
			return s.fail(DuplicateTensor, "one entry of that name in weight_map", "two")
		}
		shard, err := s.string("the name of a shard")
		if err != nil {
			return err
		}
		// A shard lies beside its index. Anything else, "../x" above all, could make a downloaded index read any file.
		// Colons and backslashes are separators on some machine.
		if shard == "" || shard == "." || shard == ".." || strings.ContainsAny(shard, "/\\:\x00") {
			return s.fail(ShardName, "the name of a file beside the index", quote(shard))
		}
		into[name] = shard
		s.tensor = ""
		return nil
	})
}

// Names returns the names of all tensors, sorted.
func (c *Checkpoint) Names() []string { return slices.Clone(c.names) }

// Tensor returns the tensor of that name; the error for a name that the checkpoint does not hold is UnknownTensor.
// The result is shared: its fields and bytes must not be changed.
func (c *Checkpoint) Tensor(name string) (*Tensor, error) {
	if t, ok := c.tensors[name]; ok {
		return t, nil
	}
	return nil, &Error{Fault: UnknownTensor, File: strings.Join(c.Files(), ", "), Tensor: name,
		Want: "one of the checkpoint's names", Got: fmt.Sprintf("none among %d", len(c.names))}
}

// Metadata returns the metadata of all files: that of the shards, the first in the order of Files where two differ, and
// over it that of the index. The map is shared: it must not be changed.
func (c *Checkpoint) Metadata() map[string]string { return c.metadata }

// Files returns the names of the checkpoint's safetensors files, sorted.
func (c *Checkpoint) Files() []string {
	names := make([]string, len(c.files))
	for i, f := range c.files {
		names[i] = f.name
	}
	return names
}

// Bytes returns the size of all files together, headers included.
func (c *Checkpoint) Bytes() int64 {
	var n int64
	for _, f := range c.files {
		n += int64(len(f.data))
	}
	return n
}

// Close releases all mappings; all views become invalid. A second Close does nothing.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	c.files, c.tensors, c.names = nil, nil, nil
	return errors.Join(errs...)
}
