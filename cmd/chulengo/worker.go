package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/spf13/cobra"

	"chulengo/engine"
	"chulengo/kernels"
	"chulengo/kernels/hosts"
	"chulengo/model"
	"chulengo/safetensors"
)

func (a *app) workerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worker",
		Short: a.say("Share a model with processes on other hosts", "与其他主机上的进程共同运行模型"),
		Long: a.say(`A model may be shared by several processes, each with as many GPUs, on one host or on several. Process 0 is any command that
generates, such as serve; the others are workers, which do what it says. Every process needs the checkpoint, the same options
about it, and NCCL (libnccl.so.2, or the file that CHULENGO_NCCL names).

Process 0 waits for the workers at --rendezvous. What goes over that connection, prompts included, is not encrypted, and whoever
reaches the port may say that it is a worker: open it to the other hosts alone. If a process ends, all have to start again.`,
			`一个模型可由多个进程共同运行，各用同样多的 GPU，可在一台或多台主机上。进程 0 是任何生成内容的命令，如 serve；
其余为 worker，听从进程 0。每个进程都需要模型文件、相同的模型选项，以及 NCCL（libnccl.so.2，或 CHULENGO_NCCL 指定的文件）。

进程 0 在 --rendezvous 等待各 worker。该连接上的内容（包括提示）不加密，能访问此端口的人都可冒充 worker：只对其他主机开放。
任何进程结束后，所有进程都须重新启动。`),
		Example: `  chulengo serve  --model DIR --device cuda --processes 2 --rendezvous 10.0.0.1:5001
  chulengo worker --model DIR --device cuda --processes 2 --rendezvous 10.0.0.1:5001 --process 1`,
		Args: a.arguments(0, 0, ""),
	}
	a.addFlags(cmd.Flags(), loadOptions, []string{"seed"})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := a.signalled(cmd.Context())
		defer stop()
		if a.opts.Processes < 2 || a.opts.Process < 1 {
			return usage("worker: want --processes 2 or more and --process 1 or more, got %d and %d", "worker：--processes 应不小于 2，--process 应不小于 1，现为 %d 和 %d",
				a.opts.Processes, a.opts.Process)
		}
		return a.work(ctx)
	}
	return cmd
}

// checkProcesses refuses what --processes and what belongs to it must not be.
func (a *app) checkProcesses() error {
	n, i := a.opts.Processes, a.opts.Process
	if n < 1 || i < 0 || i >= n {
		return usage("--process: want 0 or more, below --processes, got %d of %d", "--process 的值不合适：应不小于 0 且小于 --processes，现为 %d（共 %d）", i, n)
	}
	if n == 1 {
		return nil
	}
	if _, _, err := net.SplitHostPort(a.opts.Rendezvous); err != nil {
		return usage("--rendezvous: want HOST:PORT such as 10.0.0.1:5001, got %q", "--rendezvous 的值 %q 不合适：应为 主机:端口，如 10.0.0.1:5001", a.opts.Rendezvous)
	}
	if list, ok := cudaOrdinals(a.opts.Device); !ok || n*max(len(list), 1) > 8 {
		return usage("--processes %d: want --device cuda, and at most 8 GPUs in all, got --device %s", "--processes %d 需要 --device cuda，且总共不超过 8 个 GPU；现为 --device %s", n, a.opts.Device)
	}
	return nil
}

// ownGPUs are those of this process where several share the model.
func (a *app) ownGPUs() []int {
	if list, _ := cudaOrdinals(a.opts.Device); len(list) > 0 {
		return list
	}
	return []int{0}
}

// hello is what processes tell each other: what must be the same, and which one this is.
func (a *app) hello(d *described) (hosts.Hello, error) {
	config, err := fs.ReadFile(d.files, "config.json")
	if err != nil {
		return hosts.Hello{}, bad(d.source, err)
	}
	what := fmt.Sprintf("config.json %x, --load-format %s, --quant %q, --activations %s", sha256.Sum256(config), a.opts.LoadFormat, a.opts.Quant, a.opts.Activations)
	if a.opts.LoadFormat == "dummy" {
		what += fmt.Sprintf(", --seed %d", a.opts.Seed.value)
	}
	return hosts.Hello{Process: a.opts.Process, Processes: a.opts.Processes, GPUs: len(a.ownGPUs()), Model: what}, nil
}

// lead opens this process's GPUs, waits for the workers, and gives them all as one device.
func (a *app) lead(ctx context.Context, d *described, weights func(ranks int) (int64, error), o *engine.Options) (kernels.Device, error) {
	if a.opts.Process != 0 {
		return nil, usage("--process %d: want 0 here; the other processes are chulengo worker", "--process %d：此处应为 0，其他进程用 chulengo worker", a.opts.Process)
	}
	h, err := a.hello(d)
	if err != nil {
		return nil, err
	}
	bytes, err := weights(h.GPUs * h.Processes)
	if err != nil {
		return nil, err
	}
	own, err := openPart(a.ownGPUs(), a.gpuOptions(), 0, h.GPUs*h.Processes)
	if err != nil {
		return nil, err
	}
	leader, err := hosts.Lead(ctx, a.opts.Rendezvous, h, func(address string) {
		a.note("waiting at %s for %d more processes (chulengo worker)", "在 %s 等待另外 %d 个进程（chulengo worker）", address, h.Processes-1)
	})
	if err != nil {
		own.Close()
		return nil, together(err)
	}
	dev, err := leader.Device(own)
	if err != nil {
		leader.Close()
		return nil, together(err)
	}
	if err := fit(d.config, dev, bytes, a.kvFormat(true), a.activations(), o); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// together says that processes cannot share the model.
func together(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return failed(err, "the processes cannot share the model", "这些进程无法共同运行模型")
}

// work is a worker's life.
func (a *app) work(ctx context.Context) error {
	d, err := a.describeModel()
	if err != nil {
		return err
	}
	if err := a.checkDevice(); err != nil {
		return err
	}
	h, err := a.hello(d)
	if err != nil {
		return err
	}
	l := &loaded{described: d}
	defer l.Close()
	if a.opts.LoadFormat != "dummy" {
		if l.weights, err = safetensors.Open(d.files); err != nil {
			return bad(d.source, err)
		}
	}
	own, err := openPart(a.ownGPUs(), a.gpuOptions(), h.Process*h.GPUs, h.GPUs*h.Processes)
	if err != nil {
		return err
	}
	l.device = own
	a.note("looking for process 0 at %s", "正在寻找 %s 的进程 0", a.opts.Rendezvous)
	f, err := hosts.Follow(ctx, a.opts.Rendezvous, h)
	if err != nil {
		return together(err)
	}
	defer f.Close()
	ctx, cancel := f.Context(ctx)
	defer cancel()
	if err = f.Join(ctx, own); err == nil {
		err = a.follow(ctx, f, l, own)
	}
	if errors.Is(err, hosts.ErrDone) || errors.Is(context.Cause(ctx), hosts.ErrDone) {
		return nil
	}
	f.Fail(err)
	return together(err)
}

// follow loads this process's part of the model and runs it.
func (a *app) follow(ctx context.Context, f *hosts.Follower, l *loaded, own hosts.Local) error {
	m, err := l.bring(ctx, a.opts.Seed.value, model.LoadOptions{Recipe: a.recipe(), Notes: a.noteLoad})
	if err != nil {
		return err
	}
	a.note("%s is ready", "%s 已就绪", l.name)
	var see func(*kernels.Pixels) (kernels.Picture, error)
	if m.Vision != nil {
		see = func(p *kernels.Pixels) (kernels.Picture, error) { return m.See(own, p) }
	}
	return f.Serve(ctx, own, func() { m.Forward(own) }, see)
}
