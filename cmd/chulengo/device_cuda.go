//go:build cuda

package main

import (
	"errors"

	"chulengo/bench"
	"chulengo/kernels"
	"chulengo/kernels/cuda"
	"chulengo/kernels/cuda/driver"
	"chulengo/kernels/hosts"
)

// cudaBuilt says that this program has CUDA kernels.
const cudaBuilt = true

// checkCUDA refuses a GPU that is not there, early.
func checkCUDA(ordinals []int) error {
	list, err := driver.Devices()
	if err != nil {
		return cudaError(err)
	}
	for _, n := range ordinals {
		if n >= len(list) {
			return unusable(nil, "there is no GPU number %d: %d can be seen", "没有编号为 %d 的 GPU：可见 %d 个", n, len(list))
		}
	}
	return nil
}

// countCUDA is the number of GPUs that can be seen.
func countCUDA() int {
	list, _ := driver.Devices()
	return len(list)
}

// oneGPU is a GPU that has a model for itself.
type oneGPU struct{ *cuda.Device }

func (oneGPU) Ranks() int { return 1 }

// gpuGroup is several that share it.
type gpuGroup struct{ *cuda.Group }

func (g gpuGroup) Ranks() int { return len(g.Group.Ranks()) }

// openCUDA opens one GPU (none named: the first), or several for one model.
func openCUDA(ordinals []int, o gpuOptions) (gpuDevice, error) {
	d, _, err := openGPUs(o.device(), ordinals)
	return d, err
}

// ways are the values of --exchange.
var ways = map[string]cuda.Way{"auto": cuda.AnyWay, "peers": cuda.ByPeers, "nccl": cuda.ByNCCL, "host": cuda.ByHost}

// device is what package cuda is told.
func (o gpuOptions) device() cuda.Options {
	return cuda.Options{Way: ways[o.exchange], Activations: o.activations, Profile: o.profile}
}

// openPart opens the GPUs of this process, where those of others share the model: ranks first, first+1 … of so many.
func openPart(ordinals []int, o gpuOptions, first, ranks int) (hosts.Local, error) {
	g, err := cuda.OpenPart(o.device(), ordinals, first, ranks)
	if err != nil {
		return nil, cudaError(err)
	}
	return g, nil
}

// openGPUs gives the first one, too.
func openGPUs(o cuda.Options, ordinals []int) (gpuDevice, *cuda.Device, error) {
	if len(ordinals) > 1 {
		g, err := cuda.NewGroup(o, ordinals)
		if err != nil {
			return nil, nil, cudaError(err)
		}
		return gpuGroup{g}, g.Ranks()[0], nil
	}
	for _, n := range ordinals {
		o.Ordinal = n
	}
	d, err := cuda.New(o)
	if err != nil {
		return nil, nil, cudaError(err)
	}
	return oneGPU{d}, d, nil
}

// openProfiled opens GPUs for measuring. With o.profile, what it gives besides says how long each kernel took, on the first.
func openProfiled(ordinals []int, o gpuOptions) (kernels.Device, func() []bench.KernelTime, error) {
	d, first, err := openGPUs(o.device(), ordinals)
	if err != nil {
		return nil, nil, err
	}
	if !o.profile {
		return d, nil, nil
	}
	return d, func() []bench.KernelTime {
		var list []bench.KernelTime
		for _, k := range first.Profile() {
			list = append(list, bench.KernelTime(k))
		}
		return list
	}, nil
}

// cudaError says in both languages why no GPU can be used.
func cudaError(err error) error {
	if errors.Is(err, cuda.ErrActivations) {
		return unusable(nil, "--activations fp8: want a GPU of compute capability 9.0, such as H100 or H200; others multiply FP8 weights with bf16",
			"--activations fp8 需要计算能力 9.0 的 GPU，如 H100、H200；其他 GPU 以 bf16 与 FP8 权重相乘")
	}
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
