//go:build !cuda

package main

import (
	"errors"

	"chulengo/bench"
	"chulengo/kernels"
	"chulengo/kernels/hosts"
)

// cudaBuilt says that this program has CUDA kernels.
const cudaBuilt = false

func checkCUDA([]int) error { panic("no CUDA in this build") }
func countCUDA() int        { panic("no CUDA in this build") }

func openCUDA([]int, gpuOptions) (gpuDevice, error) { return nil, errors.New("no CUDA in this build") }

func openPart([]int, gpuOptions, int, int) (hosts.Local, error) {
	return nil, errors.New("no CUDA in this build")
}

func openProfiled([]int, gpuOptions) (kernels.Device, func() []bench.KernelTime, error) {
	panic("no CUDA in this build")
}
