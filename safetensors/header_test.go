package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fileOf builds a file from a header's text and size bytes of data.
func fileOf(header string, size int) []byte {
	return withLength(uint64(len(header)), header, size)
}

func withLength(length uint64, header string, size int) []byte {
	data := binary.LittleEndian.AppendUint64(nil, length)
	data = append(data, header...)
	return append(data, make([]byte, size)...)
}

// malformed lists damaged files: each has one fault, and where it concerns a tensor, that tensor is "w".
var malformed = []struct {
	what   string
	data   []byte
	fault  Fault
	tensor string
	says   string // a part of the text: the wanted or the actual thing
}{
	{"empty file", nil, ShortFile, "", "got 0 bytes"},
	{"seven bytes", make([]byte, 7), ShortFile, "", "got 7 bytes"},
	{"length one above the bound", withLength(MaxHeader+1, "{}", 0), HeaderTooLong, "", "100000001"},
	{"length of all ones", withLength(math.MaxUint64, "{}", 0), HeaderTooLong, "", "18446744073709551615"},
	{"length with the sign bit", withLength(1<<63, "{}", 0), HeaderTooLong, "", "9223372036854775808"},
	{"length of text", []byte("{\"w\":{\"dtype\""), HeaderTooLong, "", "at most 100000000"},
	{"length beyond the file", withLength(3, "{}", 0), HeaderTruncated, "", "want 3 bytes of header, got 2"},
	{"length at the bound beyond the file", withLength(MaxHeader, "{}", 0), HeaderTruncated, "", "got 2 bytes"},
	{"only a length", withLength(100, "", 0), HeaderTruncated, "", "got 0 bytes"},
	{"header of no bytes", withLength(0, "", 0), HeaderStart, "", "end of the text"},
	{"header of no bytes before data", withLength(0, "", 16), HeaderStart, "", "end of the text"},
	{"space before the brace", fileOf(" {}", 0), HeaderStart, "", "' ' at byte 0"},
	{"byte order mark", fileOf("\ufeff{}", 0), HeaderStart, "", `'\ufeff' at byte 0`},
	{"list", fileOf("[]", 0), HeaderStart, "", "'['"},
	{"null", fileOf("null", 0), HeaderStart, "", "'n'"},
	{"spaces only", fileOf("    ", 0), HeaderStart, "", "' '"},
	{"newline after the brace", fileOf("{}\n", 0), HeaderTrailer, "", `'\n' at byte 2`},
	{"second object", fileOf("{}{}", 0), HeaderTrailer, "", "'{' at byte 2"},
	{"NUL padding", fileOf("{}\x00\x00", 0), HeaderTrailer, "", `'\x00'`},
	{"brace too many", fileOf("{} }", 0), HeaderTrailer, "", "'}' at byte 3"},
	{"bad UTF-8 in a name", fileOf("{\"\xff\":1}", 0), NotUTF8, "", "UTF-8"},
	{"UTF-8 surrogate", fileOf("{\"\xed\xa0\x80\":1}", 0), NotUTF8, "", "UTF-8"},
	{"length cuts a character", withLength(3, "{\"é", 0), NotUTF8, "", "UTF-8"},
	{"open object", fileOf("{", 0), Syntax, "", "end of the text at byte 1"},
	{"open name", fileOf(`{"w`, 0), Syntax, "", "end of the text"},
	{"open escape", fileOf(`{"w\`, 0), Syntax, "", "end of"},
	{"open unicode escape", fileOf(`{"w\u12`, 0), Syntax, "", `\u and four`},
	{"unknown escape", fileOf(`{"w\x":1}`, 0), Syntax, "", "'x' at byte 4"},
	{"lone high surrogate", fileOf(`{"\ud83d":1}`, 0), Syntax, "", "surrogates in pairs"},
	{"lone low surrogate", fileOf(`{"\ude00\ud83d":1}`, 0), Syntax, "", "surrogates in pairs"},
	{"two high surrogates", fileOf(`{"\ud83d\ud83d":1}`, 0), Syntax, "", "surrogates in pairs"},
	{"surrogate at the end", fileOf(`{"\ud83d`, 0), Syntax, "", "surrogates in pairs"},
	{"control character in a name", fileOf("{\"a\tb\":1}", 0), Syntax, "", "control character"},
	{"control character after an escape", fileOf("{\"\\n\n\":1}", 0), Syntax, "", "control character"},
	{"name without quotes", fileOf(`{w:1}`, 0), Syntax, "", "a key in quotes"},
	{"name in single quotes", fileOf(`{'w':1}`, 0), Syntax, "", "a key in quotes"},
	{"number as a name", fileOf(`{1:1}`, 0), Syntax, "", "a key in quotes"},
	{"no colon", fileOf(`{"w" {}}`, 0), Syntax, "", "':' after the key \"w\""},
	{"no value", fileOf(`{"w":}`, 0), Syntax, "w", "'}' at byte 5"},
	{"comment", fileOf(`{/**/}`, 0), Syntax, "", "'/'"},
	{"comma first", fileOf(`{,}`, 0), Syntax, "", "','"},
	{"comma last", fileOf(`{"w":`+f32+`,}`, 4), Syntax, "", "'}'"},
	{"no comma", fileOf(`{"v":`+f32+` "w":`+f32+`}`, 4), Syntax, "", "',' or '}'"},
	{"comma last in an entry", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4],`, 4), Syntax, "w", "'}'"},
	{"comma last in a shape", entryFile(`"dtype":"F32","shape":[1,],"data_offsets":[0,4]`, 4), Syntax, "w", "']'"},
	{"open shape", fileOf(`{"w":{"shape":[1`, 4), Syntax, "w", "',' or ']'"},
	{"leading zero", entryFile(`"dtype":"F32","shape":[01],"data_offsets":[0,4]`, 4), Syntax, "w", "'1'"},
	{"plus sign", entryFile(`"dtype":"F32","shape":[+1],"data_offsets":[0,4]`, 4), Syntax, "w", "'+'"},
	{"lone minus", entryFile(`"dtype":"F32","shape":[-],"data_offsets":[0,4]`, 4), Syntax, "w", "a digit"},
	{"point without digits", entryFile(`"dtype":"F32","shape":[1.],"data_offsets":[0,4]`, 4), Syntax, "w", "after the point"},
	{"exponent without digits", entryFile(`"dtype":"F32","shape":[1e],"data_offsets":[0,4]`, 4), Syntax, "w", "exponent"},
	{"hexadecimal", entryFile(`"dtype":"F32","shape":[0x1],"data_offsets":[0,4]`, 4), Syntax, "w", "'x'"},
	{"NaN", entryFile(`"dtype":"F32","shape":[NaN],"data_offsets":[0,4]`, 4), Syntax, "w", "'N'"},
	{"number as an entry", fileOf(`{"w":1}`, 0), WrongType, "w", "a number at byte 5"},
	{"null as an entry", fileOf(`{"w":null}`, 0), WrongType, "w", "null"},
	{"list as an entry", fileOf(`{"w":["F32",[1],[0,4]]}`, 4), WrongType, "w", "a list"},
	{"number as a dtype", entryFile(`"dtype":32,"shape":[1],"data_offsets":[0,4]`, 4), WrongType, "w", "want dtype (a string)"},
	{"null as a dtype", entryFile(`"dtype":null,"shape":[1],"data_offsets":[0,4]`, 4), WrongType, "w", "null"},
	{"number as a shape", entryFile(`"dtype":"F32","shape":1,"data_offsets":[0,4]`, 4), WrongType, "w", "want shape (a list)"},
	{"null as a shape", entryFile(`"dtype":"F32","shape":null,"data_offsets":[0,4]`, 4), WrongType, "w", "null"},
	{"string as a dimension", entryFile(`"dtype":"F32","shape":["1"],"data_offsets":[0,4]`, 4), WrongType, "w", "a string"},
	{"boolean as a dimension", entryFile(`"dtype":"F32","shape":[true],"data_offsets":[0,4]`, 4), WrongType, "w", "a boolean"},
	{"list as a dimension", entryFile(`"dtype":"F32","shape":[[1]],"data_offsets":[0,4]`, 4), WrongType, "w", "a list"},
	{"object as offsets", entryFile(`"dtype":"F32","shape":[1],"data_offsets":{"begin":0,"end":4}`, 4), WrongType, "w", "want data_offsets (a list)"},
	{"string as an offset", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,"4"]`, 4), WrongType, "w", "an offset"},
	{"list as metadata", fileOf(`{"__metadata__":[]}`, 0), WrongType, "", "__metadata__ (an object)"},
	{"null as metadata", fileOf(`{"__metadata__":null}`, 0), WrongType, "", "__metadata__"},
	{"number in the metadata", fileOf(`{"__metadata__":{"step":1}}`, 0), WrongType, "", `"step"`},
	{"object in the metadata", fileOf(`{"__metadata__":{"a":{}}}`, 0), WrongType, "", `"a"`},
	{"two tensors of a name", fileOf(`{"w":`+f32+`,"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), DuplicateTensor, "w", "one entry"},
	{"two names equal once unescaped", fileOf(`{"w":`+f32+`,"\u0077":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), DuplicateTensor, "w", "one entry"},
	{"two dtypes", entryFile(`"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]`, 4), DuplicateKey, "w", "one dtype"},
	{"two shapes", entryFile(`"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]`, 4), DuplicateKey, "w", "one shape"},
	{"two data_offsets", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]`, 4), DuplicateKey, "w", "one data_offsets"},
	{"two metadata", fileOf(`{"__metadata__":{},"__metadata__":{}}`, 0), DuplicateKey, "", "one __metadata__"},
	{"two keys in the metadata", fileOf(`{"__metadata__":{"a":"1","a":"1"}}`, 0), DuplicateKey, "", `one "a"`},
	{"unknown key", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]`, 4), UnknownKey, "w", `"strides"`},
	{"key in capitals", entryFile(`"DType":"F32","shape":[1],"data_offsets":[0,4]`, 4), UnknownKey, "w", `"DType"`},
	{"no dtype", entryFile(`"shape":[1],"data_offsets":[0,4]`, 4), MissingKey, "w", "want dtype"},
	{"no shape", entryFile(`"dtype":"F32","data_offsets":[0,4]`, 4), MissingKey, "w", "want shape"},
	{"no data_offsets", entryFile(`"dtype":"F32","shape":[1]`, 4), MissingKey, "w", "want data_offsets"},
	{"empty entry", entryFile(``, 0), MissingKey, "w", "want dtype"},
	{"unknown dtype", entryFile(`"dtype":"F128","shape":[1],"data_offsets":[0,16]`, 16), UnknownDType, "w", `got "F128"`},
	{"dtype in small letters", entryFile(`"dtype":"f32","shape":[1],"data_offsets":[0,4]`, 4), UnknownDType, "w", `got "f32"`},
	{"empty dtype", entryFile(`"dtype":"","shape":[1],"data_offsets":[0,4]`, 4), UnknownDType, "w", `got ""`},
	{"dtype of a later version", entryFile(`"dtype":"F4","shape":[2],"data_offsets":[0,1]`, 1), UnknownDType, "w", `got "F4"`},
	{"fraction as a dimension", entryFile(`"dtype":"F32","shape":[1.0],"data_offsets":[0,4]`, 4), NotInteger, "w", "1.0"},
	{"exponent in a dimension", entryFile(`"dtype":"F32","shape":[1e0],"data_offsets":[0,4]`, 4), NotInteger, "w", "1e0"},
	{"fraction as an offset", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4.5]`, 4), NotInteger, "w", "4.5"},
	{"negative dimension", entryFile(`"dtype":"F32","shape":[-1],"data_offsets":[0,4]`, 4), Negative, "w", "-1"},
	{"two negative dimensions", entryFile(`"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]`, 4), Negative, "w", "-1"},
	{"negative zero", entryFile(`"dtype":"F32","shape":[-0],"data_offsets":[0,0]`, 0), Negative, "w", "-0"},
	{"negative begin", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[-4,0]`, 0), Negative, "w", "-4"},
	{"dimension of 2^63", entryFile(`"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,0]`, 0), Overflow, "w", "9223372036854775808"},
	{"dimension of 2^64", entryFile(`"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]`, 0), Overflow, "w", "18446744073709551616"},
	{"dimension of many digits", entryFile(`"dtype":"U8","shape":[1`+strings.Repeat("0", 99)+`],"data_offsets":[0,0]`, 0), Overflow, "w", "000…"},
	{"end of 2^64", entryFile(`"dtype":"U8","shape":[0],"data_offsets":[0,18446744073709551616]`, 0), Overflow, "w", "an offset"},
	{"product of 2^64", entryFile(`"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]`, 0), Overflow, "w", "[4294967296 4294967296]"},
	{"product of 2^63", entryFile(`"dtype":"U8","shape":[4294967296,2147483648],"data_offsets":[0,0]`, 0), Overflow, "w", "U8"},
	{"bytes of 2^64", entryFile(`"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]`, 0), Overflow, "w", "F64"},
	{"overflow before a zero", entryFile(`"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]`, 0), Overflow, "w", "U8"},
	{"no offsets", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[]`, 4), OffsetCount, "w", "got 0"},
	{"one offset", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[4]`, 4), OffsetCount, "w", "got 1"},
	{"three offsets", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4,8]`, 4), OffsetCount, "w", "got 3"},
	{"end before begin", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[4,0]`, 4), ReversedOffsets, "w", "[4, 0]"},
	{"range too short", entryFile(`"dtype":"F32","shape":[2],"data_offsets":[0,4]`, 4), SizeMismatch, "w", "want 8 bytes for F32 [2], got 4"},
	{"range too long", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,8]`, 8), SizeMismatch, "w", "want 4 bytes"},
	{"scalar without bytes", entryFile(`"dtype":"F32","shape":[],"data_offsets":[0,0]`, 0), SizeMismatch, "w", "want 4 bytes for F32 []"},
	{"empty tensor with bytes", entryFile(`"dtype":"F32","shape":[0,3],"data_offsets":[0,12]`, 12), SizeMismatch, "w", "want 0 bytes"},
	{"elements for bytes", entryFile(`"dtype":"BF16","shape":[4],"data_offsets":[0,4]`, 4), SizeMismatch, "w", "want 8 bytes for BF16 [4]"},
	{"two tensors at one place", fileOf(`{"v":`+f32+`,"w":`+f32+`}`, 4), Overlap, "w", `begin = 4, the end of "v"`},
	{"overlap by a byte", fileOf(`{"v":`+f32+`,"w":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}`, 7), Overlap, "w", "[3, 7]"},
	{"tensor inside another", fileOf(`{"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"v":`+f32+`}`, 4), Overlap, "w", "[1, 2]"},
	{"empty tensor inside another", fileOf(`{"w":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},"v":`+f32+`}`, 4), Overlap, "w", "[1, 1]"},
	{"hole at the start", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[4,8]`, 8), Hole, "w", "begin = 0, the start of the data"},
	{"hole between", fileOf(`{"v":`+f32+`,"w":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}`, 6), Hole, "w", "begin = 4"},
	{"hole before an empty tensor", entryFile(`"dtype":"F32","shape":[0],"data_offsets":[4,4]`, 4), Hole, "w", "[4, 4]"},
	{"one byte short", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4]`, 3), Truncated, "w", "want 4 bytes of data, got 3"},
	{"no data", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4]`, 0), Truncated, "w", "got 0"},
	{"end near 2^63", entryFile(`"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]`, 8), Truncated, "w", "got 8"},
	{"one byte too many", entryFile(`"dtype":"F32","shape":[1],"data_offsets":[0,4]`, 5), TrailingData, "", `want 4 bytes of data, the end of "w", got 5`},
	{"data without tensors", fileOf("{}", 1), TrailingData, "", "the start of the data"},
	{"data after an empty tensor", entryFile(`"dtype":"F32","shape":[0],"data_offsets":[0,0]`, 1), TrailingData, "", "got 1"},
}

// f32 is an entry of four bytes at the start of the data.
const f32 = `{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`

func entryFile(entry string, size int) []byte { return fileOf(`{"w":{`+entry+`}}`, size) }

func TestMalformed(t *testing.T) {
	seen := make(map[Fault]bool)
	for _, c := range malformed {
		t.Run(c.what, func(t *testing.T) {
			if math.MaxInt < math.MaxInt64 && strings.Contains(c.what, "2^63") {
				t.Skip("a 32-bit machine overflows earlier")
			}
			if math.MaxInt < math.MaxInt64 && c.fault == Overflow {
				c.says = "" // a 32-bit machine overflows earlier, with another text
			}
			_, err := Parse("shard.safetensors", c.data)
			checkFault(t, err, c.fault, "shard.safetensors", c.tensor, c.says)
			// The same fault through a mapping of a real file.
			path := filepath.Join(t.TempDir(), "mapped.safetensors")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = OpenFile(path)
			checkFault(t, err, c.fault, path, c.tensor, c.says)
		})
		seen[c.fault] = true
	}
	for f := ShortFile; f <= TrailingData; f++ {
		if !seen[f] {
			t.Errorf("no case for the fault %q", f.Error())
		}
	}
}

// checkFault demands an *Error of the fault, and of no other, that names file and tensor and says says.
func checkFault(t *testing.T, err error, fault Fault, file, tensor, says string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error with the fault %q", err, fault.Error())
	}
	if !errors.Is(err, fault) || e.Fault != fault {
		t.Errorf("got the fault %q, want %q: %v", e.Fault.Error(), fault.Error(), err)
	}
	if e.File != file || e.Tensor != tensor {
		t.Errorf("got file %q and tensor %q, want %q and %q: %v", e.File, e.Tensor, file, tensor, err)
	}
	text := err.Error()
	for _, part := range []string{"safetensors: ", file, fault.Error(), says} {
		if !strings.Contains(text, part) {
			t.Errorf("%q lacks %q", text, part)
		}
	}
	if tensor != "" && !strings.Contains(text, "tensor "+fmt.Sprintf("%q", tensor)) {
		t.Errorf("%q does not name the tensor %q", text, tensor)
	}
}

func TestLegal(t *testing.T) {
	for _, c := range []struct {
		what, header string
		size         int
		names        string // joined by |
	}{
		{"no tensors", `{}`, 0, ""},
		{"padding", `{}      `, 0, ""},
		{"empty metadata", `{"__metadata__":{}}`, 0, ""},
		{"white space", "{ \"w\"\t:\r\n{ \"shape\" : [ 1 ] , \"data_offsets\":[ 0 , 4 ],\"dtype\" : \"F32\" } } ", 4, "w"},
		{"scalar", `{"w":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4, "w"},
		{"empty tensor", `{"w":{"dtype":"F32","shape":[7,0],"data_offsets":[0,0]}}`, 0, "w"},
		{"zero before a large dimension", `{"w":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}`, 0, "w"},
		{"empty tensors at every border", `{"a":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},"b":` + f32 +
			`,"c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"d":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}`, 4, "a|b|c|d"},
		{"data in another order than names", `{"b":` + f32 + `,"a":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}`, 6, "a|b"},
		{"name that is empty", `{"":` + f32 + `}`, 4, ""},
		{"names with escapes", `{"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00":` + f32 + `}`, 4, "a\"\\/\b\f\n\r\té😀"},
		{"replacement character", `{"\ufffd":` + f32 + `}`, 4, "\ufffd"},
		{"many dimensions", `{"w":{"dtype":"F32","shape":[` + strings.Repeat("1,", 99) + `1],"data_offsets":[0,4]}}`, 4, "w"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if math.MaxInt < math.MaxInt64 && strings.Contains(c.what, "large") {
				t.Skip("the dimension needs 64 bits")
			}
			f, err := Parse("f", fileOf(c.header, c.size))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(f.Names(), "|"); got != c.names {
				t.Errorf("names %q, want %q", got, c.names)
			}
			for _, name := range f.Names() {
				x, err := f.Tensor(name)
				if err != nil {
					t.Fatal(err)
				}
				if x.Name != name || x.File != "f" || len(x.Data) != x.Len()*x.DType.Size() || cap(x.Data) != len(x.Data) {
					t.Errorf("tensor %+v does not agree with itself", x)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestErrorIsBounded: a name of a megabyte does not make an error of a megabyte.
func TestErrorIsBounded(t *testing.T) {
	name := strings.Repeat("x", 1<<20)
	for _, header := range []string{
		`{"` + name + `":1}`,
		`{"w":{"dtype":"` + name + `","shape":[1],"data_offsets":[0,4]}}`,
		`{"w":{"` + name + `":1}}`,
		`{"` + name + `" 1}`,
		`{"w":{"dtype":"U8","shape":[` + strings.Repeat("4294967296,", 1<<16) + `1],"data_offsets":[0,4]}}`,
		`{"w":{"dtype":"U8","shape":[` + strings.Repeat("9", 1<<20) + `],"data_offsets":[0,4]}}`,
	} {
		_, err := Parse("f", fileOf(header, 4))
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("%.40s…: want an error of at most 1000 bytes, got %d", header, len(fmt.Sprint(err)))
		}
	}
}

func TestUnknownTensor(t *testing.T) {
	f, err := Parse("f.safetensors", fileOf(`{"w":`+f32+`}`, 4))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Tensor("v")
	checkFault(t, err, UnknownTensor, "f.safetensors", "v", "none among 1")
}

func TestOpenFileErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenFile(filepath.Join(dir, "none.safetensors")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "none.safetensors") {
		t.Errorf("missing file: got %v, want ErrNotExist with its name", err)
	}
	if _, err := OpenFile(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("folder: got %v, want an error that asks for a regular file", err)
	}
}
