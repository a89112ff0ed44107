//go:build cuda

package main

import (
	"errors"

	"chulengo/bench"
	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
)

// cudaBuilt says that this program has CUDA kernels.
const cudaBuilt = true

// checkCUDA refuses a GPU that is not there, early.
func checkCUDA(ordinal int) error {
	list, err := driver.Devices()
	if err != nil {
		return cudaError(err)
	}
	if ordinal >= len(list) {
		return unusable(nil, "there is no GPU number %d: %d can be seen", "没有编号为 %d 的 GPU：可见 %d 个", ordinal, len(list))
	}
	return nil
}

func openCUDA(ordinal int) (gpuDevice, error) {
	d, err := cuda.New(cuda.Options{Ordinal: ordinal})
	if err != nil {
		return nil, cudaError(err)
	}
	return d, nil
}

// openProfiled opens a GPU for measuring. With profile, what it gives besides says how long each kernel took.
func openProfiled(ordinal int, profile bool) (kernels.Device, func() []bench.KernelTime, error) {
	d, err := cuda.New(cuda.Options{Ordinal: ordinal, Profile: profile})
	if err != nil {
		return nil, nil, cudaError(err)
	}
	if !profile {
		return d, nil, nil
	}
	return d, func() []bench.KernelTime {
		var list []bench.KernelTime
		for _, k := range d.Profile() {
			list = append(list, bench.KernelTime(k))
		}
		return list
	}, nil
}

// cudaError says in both languages why no GPU can be used.
func cudaError(err error) error {
	var e *driver.UnavailableError
	if !errors.As(err, &e) {
		return failed(err, "cannot use the GPU", "无法使用 GPU")
	}
	zh := map[driver.Problem]string{
		driver.NoDriver: "没有 NVIDIA 驱动", driver.OldDriver: "NVIDIA 驱动太旧", driver.NoDevice: "没有可用的 NVIDIA GPU", driver.NoOrdinal: "没有这个编号的 GPU",
		driver.TooOld: "GPU 太旧", driver.Broken: "NVIDIA 驱动无法启动",
	}[e.Problem]
	detail := ""
	if e.Detail != "" {
		detail = "：" + e.Detail
	}
	return &message{code: exitFailed, en: e.Error(), zh: zh + detail}
}
