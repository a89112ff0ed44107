// Package safetensors reads and writes the safetensors format: named tensors in one file, or in several files under an
// index (a sharded checkpoint).
//
// # The format
//
// A file is the header's length as a little-endian uint64, the header, and the data. The header is a JSON object that
// gives each tensor's dtype, its shape, outermost dimension first, and its data_offsets: begin and end of its bytes,
// counted from the end of the header. The key __metadata__, if present, holds an object of strings. Elements are
// little-endian and in row-major order. A scalar has the shape []; a tensor with a dimension 0 is legal and has no bytes.
//
// A sharded checkpoint is a folder with model.safetensors.index.json, whose weight_map gives the file, or shard, of
// each tensor. A checkpoint of one file is a folder with model.safetensors.
//
// # What is checked
//
// Before a reader returns a tensor, the whole header has been checked: its length (at most MaxHeader), its JSON, to the
// letter of RFC 8259 and without keys that the format does not have, every name once, dtypes, shapes, and that the
// tensors cover the data from the first byte to the last, without overlap, hole or rest. Each fault is a Fault, and comes
// as an *Error that names the file and the tensor and says what was wanted and what was there. Values are not looked at.
//
// For a sharded checkpoint, index and shards must agree exactly: each listed tensor is in its shard, each tensor of a
// shard is listed, and shards are plain file names beside the index.
//
// # Memory
//
// OpenFile, and Open for folders, map files into memory: Tensor.Data is a view of the file, nothing is copied, and
// pages come from the disk when they are first read. A view is valid until Close. Reading a view after the file was
// truncated by somebody else kills the process with SIGBUS: sizes are checked when a file is opened, and nobody may
// shorten it afterwards. Replace files by renaming, as Write does: an open mapping keeps the old file. On platforms
// without mappings, and for files that are not *os.File, the contents are read into memory, and none of this applies.
//
// Views need not be aligned: files by this package begin their data at a multiple of 8, other writers may not.
//
// Everything here treats bytes as little-endian whatever the machine; only code that reinterprets Tensor.Data in place
// has to care.
package safetensors
