package safetensors

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// MaxHeader is the greatest header length in bytes that Parse accepts and Write produces, as in the reference
// implementation.
const MaxHeader = 100_000_000

// lengthBytes is the size of the header's length, a little-endian uint64 at the start of the file.
const lengthBytes = 8

// metadataKey is the one key of a header that is not a tensor's name.
const metadataKey = "__metadata__"

// entry is a tensor's description as the header has it; begin and end count from the end of the header.
type entry struct {
	name       string
	dtype      DType
	shape      []int
	begin, end int
}

// splitHeader cuts a file into header text and data.
func splitHeader(file string, data []byte) (header, body []byte, err error) {
	if len(data) < lengthBytes {
		return nil, nil, &Error{Fault: ShortFile, File: file,
			Want: fmt.Sprintf("at least %d bytes, the header's length", lengthBytes), Got: fmt.Sprintf("%d bytes", len(data))}
	}
	n := binary.LittleEndian.Uint64(data)
	if n > MaxHeader {
		return nil, nil, &Error{Fault: HeaderTooLong, File: file,
			Want: fmt.Sprintf("at most %d bytes", MaxHeader), Got: fmt.Sprintf("a length of %d", n)}
	}
	if have := uint64(len(data) - lengthBytes); n > have {
		return nil, nil, &Error{Fault: HeaderTruncated, File: file,
			Want: fmt.Sprintf("%d bytes of header", n), Got: fmt.Sprintf("%d bytes to the end of the file", have)}
	}
	return data[lengthBytes : lengthBytes+n], data[lengthBytes+n:], nil
}

// parseHeader reads a header's text. It checks everything about the entries one by one; layout checks them together.
func parseHeader(file string, text []byte) (entries []entry, metadata map[string]string, err error) {
	s := &scanner{file: file, text: text}
	if !utf8.Valid(text) {
		return nil, nil, s.fail(NotUTF8, "a UTF-8 text", "other bytes")
	}
	if len(text) == 0 || text[0] != '{' {
		return nil, nil, s.fail(HeaderStart, "'{'", s.found())
	}
	seen := make(map[string]struct{})
	err = s.object("the header", func(name string) error {
		if name == metadataKey {
			if metadata != nil {
				return s.fail(DuplicateKey, "one "+metadataKey, "two")
			}
			metadata = make(map[string]string)
			return s.metadata(metadata)
		}
		s.tensor = name
		if _, ok := seen[name]; ok {
			return s.fail(DuplicateTensor, "one entry of that name", "two")
		}
		seen[name] = struct{}{}
		e, err := s.entry(name)
		entries = append(entries, e)
		s.tensor = ""
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for ; s.pos < len(text); s.pos++ {
		if text[s.pos] != ' ' {
			return nil, nil, s.fail(HeaderTrailer, "spaces only", s.found())
		}
	}
	return entries, metadata, nil
}

// metadata reads the object of strings under metadataKey.
func (s *scanner) metadata(into map[string]string) error {
	return s.object(metadataKey, func(key string) error {
		value, err := s.string("the value of " + quote(key) + " in " + metadataKey)
		if err != nil {
			return err
		}
		if _, ok := into[key]; ok {
			return s.fail(DuplicateKey, "one "+quote(key)+" in "+metadataKey, "two")
		}
		into[key] = value
		return nil
	})
}

// entry reads {"dtype": …, "shape": […], "data_offsets": [begin, end]}, the keys in any order.
func (s *scanner) entry(name string) (entry, error) {
	e := entry{name: name}
	var hasDType, hasShape, hasOffsets bool
	once := func(key string, has *bool) error {
		if *has {
			return s.fail(DuplicateKey, "one "+key, "two")
		}
		*has = true
		return nil
	}
	err := s.object("a tensor's entry", func(key string) error {
		switch key {
		case "dtype":
			if err := once(key, &hasDType); err != nil {
				return err
			}
			word, err := s.string(key)
			if err != nil {
				return err
			}
			var ok bool
			if e.dtype, ok = ParseDType(word); !ok {
				return s.fail(UnknownDType, fmt.Sprintf("one of %v", DTypes()), quote(word))
			}
			return nil
		case "shape":
			if err := once(key, &hasShape); err != nil {
				return err
			}
			e.shape = []int{}
			return s.list(key, func() error {
				n, err := s.int("a dimension")
				e.shape = append(e.shape, n)
				return err
			})
		case "data_offsets":
			if err := once(key, &hasOffsets); err != nil {
				return err
			}
			return s.offsets(&e)
		}
		return s.fail(UnknownKey, "dtype, shape and data_offsets", quote(key))
	})
	if err != nil {
		return e, err
	}
	for _, k := range []struct {
		name string
		has  bool
	}{{"dtype", hasDType}, {"shape", hasShape}, {"data_offsets", hasOffsets}} {
		if !k.has {
			return e, s.fail(MissingKey, k.name, "none")
		}
	}
	size, ok := byteSize(e.dtype, e.shape)
	if !ok {
		return e, s.fail(Overflow, fmt.Sprintf("at most %d bytes", math.MaxInt), describe(e.dtype, e.shape))
	}
	if e.begin > e.end {
		return e, s.fail(ReversedOffsets, "begin ≤ end", fmt.Sprintf("[%d, %d]", e.begin, e.end))
	}
	if e.end-e.begin != size {
		return e, s.fail(SizeMismatch, fmt.Sprintf("%d bytes for %s", size, describe(e.dtype, e.shape)),
			fmt.Sprintf("%d, data_offsets [%d, %d]", e.end-e.begin, e.begin, e.end))
	}
	return e, nil
}

// offsets reads [begin, end].
func (s *scanner) offsets(e *entry) error {
	var count int
	err := s.list("data_offsets", func() error {
		n, err := s.int("an offset")
		switch count++; count {
		case 1:
			e.begin = n
		case 2:
			e.end = n
		}
		return err
	})
	if err == nil && count != 2 {
		err = s.fail(OffsetCount, "[begin, end]", fmt.Sprintf("%d numbers", count))
	}
	return err
}

// layout checks that the entries cover the size bytes of data without overlap, hole or rest.
// It sorts them by place.
func layout(file string, entries []entry, size int) error {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.name, b.name))
	})
	end, last := 0, "the start of the data"
	for _, e := range entries {
		fault := Overlap
		if e.begin > end {
			fault = Hole
		}
		if e.begin != end {
			return &Error{Fault: fault, File: file, Tensor: e.name,
				Want: fmt.Sprintf("begin = %d, %s", end, last), Got: fmt.Sprintf("data_offsets [%d, %d]", e.begin, e.end)}
		}
		if e.end > size {
			return &Error{Fault: Truncated, File: file, Tensor: e.name,
				Want: fmt.Sprintf("%d bytes of data", e.end), Got: fmt.Sprintf("%d", size)}
		}
		end, last = e.end, "the end of "+quote(e.name)
	}
	if end != size {
		return &Error{Fault: TrailingData, File: file,
			Want: fmt.Sprintf("%d bytes of data, %s", end, last), Got: fmt.Sprintf("%d", size)}
	}
	return nil
}

// byteSize returns the bytes of a tensor, false where a dimension is negative or a product leaves int. Like the
// reference it multiplies from the left, so [0, 2^62, 4] is empty and [2^62, 4, 0] an overflow.
func byteSize(d DType, shape []int) (int, bool) {
	n := 1
	for _, dim := range append(slices.Clip(shape), d.Size()) {
		hi, lo := bits.Mul64(uint64(n), uint64(dim))
		if dim < 0 || hi != 0 || lo > math.MaxInt {
			return 0, false
		}
		n = int(lo)
	}
	return n, true
}

// describe is "F32 [2 3]", bounded like quote.
func describe(d DType, shape []int) string {
	if len(shape) > 16 {
		return fmt.Sprintf("%v %v… (%d dimensions)", d, shape[:16], len(shape))
	}
	return fmt.Sprintf("%v %v", d, shape)
}
