// Package demo holds the demo checkpoint: a multimodal model with the Llama 4 architecture, 21.6 million parameters in
// bfloat16, small enough to be part of the program. It is read by the same code as every other checkpoint. README.md in
// this folder is its card: what it was trained on, what it scores, how it was made.
//
// With the build tag nodemo the checkpoint is not embedded but read from the folder demo/checkpoint, or from the one
// that the environment variable CHULENGO_DEMO names: for binaries that must stay small.
package demo

import "io/fs"

// Name is what the checkpoint calls itself where a checkpoint's folder would give the name.
const Name = "chulengo-demo"

// FS is the checkpoint's directory. The weights lie packed in it, and are unpacked once.
func FS() fs.FS { return folder() }
