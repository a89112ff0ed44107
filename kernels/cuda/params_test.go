//go:build cuda

package cuda

import (
	"debug/dwarf"
	"debug/elf"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"chulengo/kernels/cuda/driver"
)

// Two blocks of the decode engine, and of decode attention, share a multiprocessor: a few bytes more of shared memory, and there would be one,
// with which a step of INT4 at batch 32 took a quarter longer. (The sums of 64 tokens of codes take the registers of both.)
func TestTwoBlocksFit(t *testing.T) {
	const all, reserved = 228 << 10, 1 << 10 // of a multiprocessor of 9.0; of every block
	seen := 0
	for name, k := range table {
		stream := strings.HasPrefix(name, "stream_") && !(k.family == "stream_codes" && strings.HasSuffix(name, "_64"))
		if !stream && k.family != "attend_decode90" {
			continue
		}
		if seen++; 2*(k.shared+reserved) > all {
			t.Errorf("%s: want at most %d bytes of shared memory, got %d", name, all/2-reserved, k.shared)
		}
	}
	if seen != 8+24+2 {
		t.Errorf("want 34 kernels, got %d", seen)
	}
}

// The Go twins of the kernels' parameters have the compiler's own layout: offsets, sizes and names are read from the debug
// information of the software GPU, which is compiled from the same .cu files.
func TestParameterLayout(t *testing.T) {
	twins := map[string]reflect.Type{}
	for _, v := range []any{slots{}, streamParams{}, gemmParams{}, headsParams{}, patchParams{}, layerNormParams{}, tileAttentionParams{}, headAttentionParams{}, towerParams{}, embedParams{}, normParams{}, normPartsParams{}, sumParams{}, addParams{}, routeParams{}, sortParams{},
		gatherParams{}, digitRowsParams{}, ropeTableParams{}, temperParams{}, ropeParams{}, pagesParams{}, decodeParams{}, fusedDecodeParams{}, queryTile{}, prefillParams{}, wantRow{}, adjustRow{}, topRow{},
		answerRow{}, sampleParams{}, packParams{}, fillParams{}, fillValues{}, coding{}, codedStreamParams{}, codedGemmParams{}, e4m3GemmParams{}, codedRowsParams{}, codesParams{}, fillCodesParams{}, embedCodedParams{}, checkParams{}, tapParams{}, sliceRow{}, uploadPiece{}, uploadParams{}, peers{}, shareParams{}, collectParams{}} {
		twins[plain(reflect.TypeOf(v).Name())] = reflect.TypeOf(v)
	}
	seen := map[string]bool{}
	for _, data := range debugInformation(t) {
		for r := data.Reader(); ; {
			e, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if e == nil {
				break
			}
			if e.Tag != dwarf.TagStructType {
				continue
			}
			typ, err := data.Type(e.Offset)
			if err != nil {
				t.Fatal(err)
			}
			s, ok := typ.(*dwarf.StructType)
			if !ok || s.Incomplete {
				continue
			}
			if twin, ok := twins[plain(s.StructName)]; ok && !seen[s.StructName] {
				seen[s.StructName] = true
				compareLayout(t, s, twin)
			} else if !ok && strings.HasSuffix(s.StructName, "Params") {
				t.Errorf("%s has no twin in Go", s.StructName)
			}
		}
	}
	if len(seen) != len(twins) {
		t.Errorf("of %d structs only %d were found in the debug information: %v", len(twins), len(seen), seen)
	}
}

// plain is a name without what the languages spell differently.
func plain(name string) string {
	switch name { // short in the kernels' formulas
	case "R":
		name = "lines"
	case "out_R":
		name = "outLines"
	case "z_tiles":
		name = "tilesAlong"
	case "Pages":
		name = "pagesParams"
	case "Fill":
		name = "fillValues"
	}
	return strings.ToLower(strings.ReplaceAll(name, "_", ""))
}

func compareLayout(t *testing.T, want *dwarf.StructType, got reflect.Type) {
	t.Helper()
	fields := map[int64]reflect.StructField{}
	for i := range got.NumField() {
		if f := got.Field(i); f.Name != "_" {
			fields[int64(f.Offset)] = f
		}
	}
	if int64(got.Size()) != want.ByteSize {
		t.Errorf("%s: want %d bytes, Go's has %d", want.StructName, want.ByteSize, got.Size())
	}
	for _, w := range want.Field {
		if w.Name == "pad" {
			continue
		}
		f, ok := fields[w.ByteOffset]
		if !ok || int64(f.Type.Size()) != w.Type.Size() {
			t.Errorf("%s.%s: want %d bytes at %d, Go's is %s %v of %d", want.StructName, w.Name, w.Type.Size(), w.ByteOffset, f.Name, f.Type, f.Offset)
		} else if plain(f.Name) != plain(w.Name) {
			t.Errorf("%s at %d: want %s, Go's is %s", want.StructName, w.ByteOffset, w.Name, f.Name)
		}
	}
}

// debugInformation reads the software GPU's library, if this test runs on it.
func debugInformation(t *testing.T) []*dwarf.Data {
	for _, dir := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		f, err := elf.Open(filepath.Join(dir, "libcuda.so.1"))
		if err != nil {
			continue
		}
		defer f.Close()
		data, err := f.DWARF()
		if err != nil {
			continue
		}
		return []*dwarf.Data{data}
	}
	if gpus, err := driver.Devices(); err == nil && len(gpus) > 0 && strings.Contains(gpus[0].Name, "emulated") {
		t.Fatalf("the software GPU: want its debug information in a folder of LD_LIBRARY_PATH, found none in %q", os.Getenv("LD_LIBRARY_PATH"))
	}
	t.Skip("needs the software GPU (kernels/cuda/emu) in LD_LIBRARY_PATH")
	return nil
}
