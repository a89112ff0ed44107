// Package nccl is the little that is used of NVIDIA's NCCL: ranks join a communicator and gather each other's parts. The library is
// found when it is first asked for, so that programs start where there is none. It is built with the tag cuda.
//
// There is no all-reduce here on purpose: in what order that adds depends on the number of values and of ranks. Who has all
// parts can add them in the order of the ranks, and has the same bits as everybody else.
package nccl
