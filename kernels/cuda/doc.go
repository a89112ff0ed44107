// Package cuda runs the stages of package kernels on NVIDIA GPUs: Device is one, Group several that share a model. It is built
// with the tag cuda; without it the package is empty and the module needs neither cgo nor a driver.
//
// # How a step runs
//
// A step's rows fall into two phases, whose kernels add in different orders: decode (rows that continue a sequence by one
// token, at most 64) and prefill (pieces of prompts). Weights lie on the device once, in tiles that both read (image.cuh).
// The residual stream is float32; products multiply bfloat16 with float32 sums; keys and values are bfloat16 or E4M3. Quantised
// weights (codes.cuh) are widened on their way into the tensor cores: decode scales sums, prefill the weights. If Options.Activations says so,
// prefill quantises rows before each product with E4M3 weights instead (quantise_rows, gemm_e4m3_90.cu).
//
//	upload_words                                 what the host brought
//	embed_rows                                   x
//	norm → stream/gemm                           the sums of q, k and v
//	rope_append → attend_decode → attend_combine, attend_prefill   k and v into their pages, z; in decode on 9.0 one kernel
//	stream/gemm                                  x += z·Woᵀ
//	route_rows, or norm → gemm → choose_rows → sort_rows → gather_rows   h, expert, gate·h
//	stream/gemm, twice                           x += shared(h) + expert(gate·h); between them digit_rows, for many rows and INT4
//	norm → stream → sample_slices → sample_gather → sample_rows   answers
//
// In decode with few rows, a row is normed and routed by several blocks, a slice of 640 columns each (slice.cuh). Where a layer's
// description has an Order, kernels of their own (norm_rows_ordered and so on) write the normalised row in it, and one block routes it.
//
// In decode, what a stage adds to x stays in slots (partial sums over splits of K; the shared and the routed expert
// apart) until the next norm reads it. Every sum has an order that depends on the matrix and the position alone, so a
// sequence's tokens do not depend on its company.
//
// Some families have a variant for compute capability 9.0 besides the portable one: products of prefill (gemm90.cu; gemm_e4m3_90.cu, which has no other) and of the vision
// tower (gemm_tower90.cu), attention over heads of 128 (attend_decode90.cu, attend_prefill90.cu), whose pages then lie as tiles, and
// over the tower's heads (attend_tile90.cu), which then lie as images.
//
// A picture (vision.go) goes through the tower five tiles at a time, in the same stream, between steps:
//
//	patch_rows → gemm → layer_norm               x, with positions
//	layer_norm → gemm_heads → attend_tile → gemm_bias         x += attention; q and k are turned in the product's epilogue
//	layer_norm → gemm_gelu → gemm_bias           x += fc2(gelu(fc1)); of few rows on 9.0 the next layer_norm adds fc2's parts
//	layer_norm_shuffle → gemm_gelu, twice → gemm  rows of the text model, which steps copy over their embeddings
//
// Its products fill every multiprocessor, so that a second stream would hold up decoding no less. Instead a caller who has steps to
// run may have pieces of a few milliseconds enqueued between them (pieces.go). Otherwise Encode returns when all is enqueued.
//
// A step that only decodes, without taps or pictures, is captured as a CUDA graph the second time its bucket of rows (1, 2, 4 … 64)
// comes, and replayed from then on: everything that changes from step to step lies in device memory, which one kernel
// fills from pinned memory; answers come back in pinned memory. Taps run the same kernels, with the values between them
// written out: an observer changes no bit.
//
// # Several GPUs
//
// A rank of a Group is a Device with a part of the heads, of the feed-forwards' columns and of the vocabulary. Embeddings, norms,
// routers and the residual stream are the same on all, bit for bit: sums over ranks are added in their order everywhere. In decode
// the norm that reads a sum sends this rank's part to the others and polls for theirs; in prefill the norm reads all parts where they
// lie (peers.cuh). Logits meet on the first rank, which draws. A rank that hears nothing for five seconds gives up, and the
// step's error says so.
//
// GPUs that do not reach each other's memory meet through NCCL (gather.go): it gathers the parts of all ranks, and every rank adds
// them in the same order. Without the library they meet in the host's memory. Where ranks
// run in several processes (package hosts), every process records the step and runs its own ranks; NCCL is the only way there.
//
// # Code is dear
//
// A multiprocessor of an H200 has 32 KB of instructions near and 128 KB farther; what lies in neither comes from the L2 cache, at 257 clocks a
// kilobyte for 64 (bench/LOG.md, 2026-11-29). A layer runs seven kernels, most of whose code is run once, so a kernel of decode, or of one
// tile of a picture, is better short than unrolled: loops that wait for nothing say "unroll 1", an inline function is called in
// one place, and what all warps of a block need is worked out by one. Where loads of several turns should leave together, unrolling stays.
//
// # What is not as the design had it
//
// FP8 in prefill multiplies what codes are worth (W8A16), unless Options.Activations asks for codes of activations, too (W8A8).
// Ranks exchange float32 and wait for it: nothing overlaps yet.
//
// The host feeds the drawn token back: the step's fixed cost is 53 µs on an H200, of which the way through the host is a part.
// Rotation, QK norm and append come after the product, not in its epilogue: decode sums its splits first.
package cuda
