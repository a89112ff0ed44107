// Package driver is the only one that talks to the CUDA driver: gorgonia.org/cu for devices, contexts, modules, streams and
// memory, a small C file for what cu lacks (launches with packed parameters, dependent launches, stream capture, graphs,
// pinned memory), and a loader that finds the driver when the program starts, so that the same binary runs where there is
// none. It is built with the tag cuda; cuda.h of CUDA 12.4 to 13 must be on the include path behind the folder shim, which
// takes the names that CUDA 13 gave to other functions back to those that cu knows.
//
// A Device belongs to whoever calls Enter on the goroutine's thread; nothing else is remembered for a thread.
package driver
