//go:build cuda

package cuda

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// images are the compiled kernels, one fatbin for each family: what build.sh makes of the .cu files beside this one.
//
//go:embed image/*.fatbin
var images embed.FS

// fatbin is the compiled code of a family. Those in the folder that CHULENGO_KERNELS names come first, so that variants of a kernel can take
// turns in one binary.
func fatbin(family string) ([]byte, error) {
	if dir := os.Getenv("CHULENGO_KERNELS"); dir != "" {
		if data, err := os.ReadFile(filepath.Join(dir, family+".fatbin")); !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return images.ReadFile("image/" + family + ".fatbin")
}

// kernel says in which family an entry point lies, its threads a block, and whether its dynamic shared memory exceeds what
// a block gets without asking.
type kernel struct {
	family  string
	threads int
	shared  int
}

// table lists the entry points. Opening a device holds it against what the driver loaded.
var table = map[string]kernel{
	"embed_rows":          {"norm", 256, 0},
	"norm_rows":           {"norm", 512, maxWidth * 4},
	"norm_parts":          {"norm", 512, maxWidth * 4},
	"rms_norm":            {"norm", 512, maxWidth * 4},
	"norm_slices":         {"norm", routeSlice / 4, 0},
	"norm_rows_ordered":   {"norm", 512, maxWidth * 4},
	"norm_parts_ordered":  {"norm", 512, maxWidth * 4},
	"rms_norm_ordered":    {"norm", 512, maxWidth * 4},
	"norm_slices_ordered": {"norm", routeSlice / 4, 0},
	"sum_slots":           {"norm", 256, 0},
	"add_rows":            {"norm", 256, 0},

	"route_rows":         {"route", 512, maxWidth * 6},
	"route_rows_ordered": {"route", 512, maxWidth * 6},
	"route_slices":       {"route", 512, maxParts * 4},
	"choose_rows":        {"route", 256, 0},
	"sort_rows":          {"route", 1024, 0},
	"gather_rows":        {"route", 128, 0},
	"digit_rows":         {"route", 256, 0},

	"rope_table":       {"rope", 128, 0},
	"rope_temper":      {"rope", 128, 0},
	"rope_append":      {"rope", 128, 0},
	"rope_append_rows": {"rope", 256, 0},

	"stream_partial_8":  {"stream", 288, streamShared(8)},
	"stream_partial_16": {"stream", 288, streamShared(16)},
	"stream_partial_32": {"stream", 288, streamShared(32)},
	"stream_partial_64": {"stream", 288, streamShared(64)},
	"stream_swiglu_8":   {"stream", 288, streamShared(8)},
	"stream_swiglu_16":  {"stream", 288, streamShared(16)},
	"stream_swiglu_32":  {"stream", 288, streamShared(32)},
	"stream_swiglu_64":  {"stream", 288, streamShared(64)},

	"gemm_coded_store_80":  {"gemm", 256, portableShared},
	"gemm_coded_add_80":    {"gemm", 256, portableShared},
	"gemm_coded_swiglu_80": {"gemm", 256, portableShared},
	"gemm_coded_routed_80": {"gemm", 256, portableShared},
	"gemm_coded_store_90":  {"gemm90", 384, fastShared},
	"gemm_coded_add_90":    {"gemm90", 384, fastShared},
	"gemm_coded_swiglu_90": {"gemm90", 384, fastShared},
	"gemm_coded_routed_90": {"gemm90", 384, fastShared},

	"gemm_e4m3_store_90":  {"gemm_e4m3_90", 384, fastShared},
	"gemm_e4m3_add_90":    {"gemm_e4m3_90", 384, fastShared},
	"gemm_e4m3_swiglu_90": {"gemm_e4m3_90", 384, fastShared},
	"gemm_e4m3_routed_90": {"gemm_e4m3_90", 384, fastShared},
	"quantise_rows":       {"gemm_e4m3_90", 128, 0},

	"gemm_store_80":  {"gemm", 256, portableShared},
	"gemm_add_80":    {"gemm", 256, portableShared},
	"gemm_swiglu_80": {"gemm", 256, portableShared},
	"gemm_routed_80": {"gemm", 256, portableShared},
	"gemm_store_90":  {"gemm90", 384, fastShared},
	"gemm_add_90":    {"gemm90", 384, fastShared},
	"gemm_swiglu_90": {"gemm90", 384, fastShared},
	"gemm_routed_90": {"gemm90", 384, fastShared},

	"attend_combine": {"attend_decode", 512, 0},
	"gemm_bias_80":   {"gemm", 256, portableShared},
	"gemm_gelu_80":   {"gemm", 256, portableShared},
	"gemm_heads_80":  {"gemm", 256, portableShared},

	"tower_store_90": {"gemm_tower90", 384, towerShared},
	"tower_bias_90":  {"gemm_tower90", 384, towerShared},
	"tower_gelu_90":  {"gemm_tower90", 384, towerShared},
	"tower_heads_90": {"gemm_tower90", 384, towerShared},
	"attend_tile_90": {"attend_tile90", 384, fastTileShared},

	"patch_rows":         {"vision", 128, 0},
	"layer_norm_embed":   {"vision", 128, 0},
	"layer_norm_rows":    {"vision", 128, 0},
	"layer_norm_shuffle": {"vision", 128, 0},

	"layer_norm_rows_parts":    {"vision", 128, 0},
	"layer_norm_shuffle_parts": {"vision", 128, 0},

	"attend_tile_32":  {"attend_tile", 128, prefillShared(32, 2)},
	"attend_tile_64":  {"attend_tile", 128, prefillShared(64, 2)},
	"attend_tile_96":  {"attend_tile", 128, prefillShared(96, 2)},
	"attend_tile_128": {"attend_tile", 128, prefillShared(128, 2)},

	"sample_slices": {"sample", 256, 0},
	"sample_gather": {"sample", 256, 0},
	"sample_rows":   {"sample", 512, 0},

	"share_rows":      {"peers", 512, 0},
	"collect_columns": {"peers", 256, 0},
	"collect_wait":    {"peers", 32, 0},

	"upload_words":  {"upload", 256, 0},
	"pack_weight":   {"pack", 256, 0},
	"unpack_weight": {"pack", 256, 0},
	"fill_weight":   {"pack", 256, 0},
	"check_weight":  {"pack", 256, 0},
	"pack_codes":    {"codes", 256, 0},
	"unpack_codes":  {"codes", 256, 0},
	"fill_codes":    {"codes", 256, 0},
	"embed_coded":   {"codes", 256, 0},
	"tap_rows":      {"tap", 256, 0},
}

func init() {
	for size, code := range map[int]string{1: "_e4m3", 2: ""} { // of keys and values
		for _, hd := range []int{32, 64, 128} {
			table[fmt.Sprint("attend_decode", code, "_", hd)] = kernel{"attend_decode", 128, decodeShared(hd, size)}
			table[fmt.Sprint("attend_prefill", code, "_", hd)] = kernel{"attend_prefill", 128, prefillShared(hd, size)}
		}
		table["attend_decode"+code+"_90"] = kernel{"attend_decode90", 160, fastDecodeShared}
		table["attend_prefill"+code+"_90"] = kernel{"attend_prefill90", 384, fastPrefillShared}
	}
	for _, what := range []string{"partial", "swiglu"} {
		for code, threads := range map[string]int{"e4m3": 288, "int4": 320, "table4": 288} {
			for _, width := range []int{8, 16, 32, 64} {
				table[fmt.Sprint("stream_", what, "_", code, "_", width)] = kernel{"stream_codes", threads, streamCodedShared(code, width)}
			}
		}
	}
	for _, width := range []int{8, 16, 32, 64} {
		for _, what := range []string{"partial", "swiglu"} {
			table[fmt.Sprint("stream_", what, "_digits_", width)] = kernel{"stream_codes", 288, streamCodedShared("digits", width)}
		}
	}
}

// maxWidth is the widest residual stream: its row lies in shared memory while it is normalised.
const maxWidth = 16 << 10

// decodeShared is the size of attend_decode.cu's Shared<hd>: the warps' rings of keys and values of so many bytes, which become the
// place where their results meet.
func decodeShared(hd, size int) int { return max(4*3*2*16*hd*size, 4*16*(hd+4)*4) + 2*4*16*4 }

// Sizes of attend_decode90.cu's DecodeShared, with e4m3's barriers, and attend_prefill90.cu's PrefillShared.
const (
	fastDecodeShared  = 2*2*2*64*128 + 17*5*128*4 + 16*(128+8)*2 + 2*4*16*4 + (2*4+1)*8 + 2*4*(64+1) + 8
	fastPrefillShared = 128*256 + 3*2*128*256 + 4*3*8 + 2*2*8
)

// Sizes of gemm_tower90.cu's and attend_tile90.cu's Shared.
const (
	towerShared    = 4*(2*8192+248*128) + 2*64*68*4 + 2*8*8
	fastTileShared = 2*128*128 + 3*2*2*128*128 + 2*8 + 4*3*8
)

// prefillShared is two stages of 64 keys and values of so many bytes.
func prefillShared(hd, size int) int { return 2 * 2 * 64 * hd * size }
