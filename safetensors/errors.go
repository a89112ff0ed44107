package safetensors

import (
	"fmt"
	"strings"
)

// Fault says what is wrong with a file or a checkpoint. Every fault is an error value of its own, so
//
//	errors.Is(err, safetensors.Overlap)
//
// asks for one of them, and errors.As with an *Error gives file, tensor, wanted and got.
type Fault uint8

// The faults of one file. "Begin" and "end" are the two data_offsets, counted from the first byte after the header.
const (
	_               Fault = iota
	ShortFile             // fewer than the 8 bytes that hold the header's length
	HeaderTooLong         // header length above MaxHeader
	HeaderTruncated       // header length reaches beyond the end of the file
	HeaderStart           // header does not begin with '{'
	HeaderTrailer         // something other than spaces follows the header's closing brace
	NotUTF8               // header is not UTF-8
	Syntax                // not JSON
	WrongType             // valid JSON of another type: a string where a list belongs, …
	DuplicateTensor       // two tensors of one name in one file
	DuplicateKey          // one key twice in a tensor's entry, in the metadata or in the index
	UnknownKey            // a key that is none of dtype, shape, data_offsets
	MissingKey            // one of dtype, shape, data_offsets is absent
	UnknownDType          // a dtype that this package does not know
	NotInteger            // a number with a fraction or an exponent
	Negative              // a negative number
	Overflow              // a number, or a product of dimensions, above the largest int
	OffsetCount           // data_offsets does not hold two numbers
	ReversedOffsets       // begin > end
	SizeMismatch          // end - begin differs from shape × dtype
	Overlap               // two tensors share bytes
	Hole                  // bytes between two tensors that belong to none
	Truncated             // a tensor ends beyond the end of the file
	TrailingData          // the file goes on after the last tensor
)

// The faults of a sharded checkpoint, of a lookup and of a tensor given to a writer.
const (
	NoCheckpoint   Fault = iota + 64 // neither model.safetensors.index.json nor model.safetensors
	MissingShard                     // the index names a file that is not there
	ShardName                        // the index names a file by something else than a plain file name
	AbsentTensor                     // the index puts a tensor into a shard that does not hold it
	UnlistedTensor                   // a shard holds a tensor that the index does not name
	RepeatedTensor                   // two shards hold a tensor of one name
	UnknownTensor                    // lookup of a name that no file holds
	BadTensor                        // a tensor that cannot be written or converted: name, dtype, shape or data
	BadMetadata                      // metadata that cannot be written
)

var faultText = map[Fault]string{
	ShortFile:       "file too short",
	HeaderTooLong:   "header too long",
	HeaderTruncated: "header truncated",
	HeaderStart:     "header does not begin with an object",
	HeaderTrailer:   "bytes after the header's closing brace",
	NotUTF8:         "header is not UTF-8",
	Syntax:          "not valid JSON",
	WrongType:       "wrong JSON type",
	DuplicateTensor: "duplicate tensor",
	DuplicateKey:    "duplicate key",
	UnknownKey:      "unknown key",
	MissingKey:      "missing key",
	UnknownDType:    "unknown dtype",
	NotInteger:      "not an integer",
	Negative:        "negative number",
	Overflow:        "integer overflow",
	OffsetCount:     "data_offsets is not a pair",
	ReversedOffsets: "data_offsets reversed",
	SizeMismatch:    "byte range does not fit shape and dtype",
	Overlap:         "tensors overlap",
	Hole:            "hole before tensor",
	Truncated:       "file truncated",
	TrailingData:    "data after the last tensor",
	NoCheckpoint:    "no safetensors checkpoint",
	MissingShard:    "shard is missing",
	ShardName:       "shard name is not a plain file name",
	AbsentTensor:    "tensor is absent from its shard",
	UnlistedTensor:  "tensor is not in the index",
	RepeatedTensor:  "tensor is in two shards",
	UnknownTensor:   "no such tensor",
	BadTensor:       "bad tensor",
	BadMetadata:     "bad metadata",
}

// Error makes a Fault an error value for errors.Is.
func (f Fault) Error() string {
	if s, ok := faultText[f]; ok {
		return s
	}
	return fmt.Sprintf("fault %d", uint8(f))
}

// Error is the error of every malformed file, index or tensor. Want and Got are phrases for people.
type Error struct {
	Fault  Fault
	File   string // name given to Parse, or the path or shard name that was opened
	Tensor string // "" where the fault concerns no single tensor
	Want   string
	Got    string
	Err    error // the error of the file system, where there was one
}

// Error reads like `safetensors: model.safetensors: tensor "w": tensors overlap: want begin ≥ 8, the end of "v", got 4`.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("safetensors: ")
	if e.File != "" {
		b.WriteString(e.File + ": ")
	}
	if e.Tensor != "" {
		b.WriteString("tensor " + quote(e.Tensor) + ": ")
	}
	b.WriteString(e.Fault.Error())
	if e.Want != "" {
		b.WriteString(": want " + e.Want)
		if e.Got != "" {
			b.WriteString(", got " + e.Got)
		}
	} else if e.Got != "" {
		b.WriteString(": " + e.Got)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap gives the Fault and, where there was one, the file system's error (fs.ErrNotExist for a missing shard).
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Fault}
	}
	return []error{e.Fault, e.Err}
}

// quote is %q with a bound: a hostile header may hold a name of a hundred megabytes.
func quote(s string) string {
	const most = 200
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
}
