package main

import (
	"context"

	"github.com/spf13/cobra"

	"chulengo/bench"
	"chulengo/model"
)

func (a *app) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: a.say("Measure speed beside the machine's bounds", "测量速度，并与机器上限比较"),
		Args:  a.arguments(0, 0, ""),
	}
	a.addFlags(cmd.Flags(), modelOptions, []string{"device", "load-format", "quant", "activations", "kv-dtype", "threads", "format", "shape", "layers", "batch", "depth", "prompt-tokens", "steps"})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch a.opts.BenchFormat {
		case "table", "json", "go":
		default:
			return usage("--format: want table, json or go, got %q", "--format 的值 %q 不合适：应为 table、json 或 go", a.opts.BenchFormat)
		}
		if err := a.checkDevice(); err != nil {
			return err
		}
		ctx, stop := a.signalled(cmd.Context())
		defer stop()
		report, err := a.bench(ctx)
		if err != nil {
			return err
		}
		switch a.opts.BenchFormat {
		case "json":
			return report.JSON(a.out)
		case "go":
			return report.GoBench(a.out)
		}
		return report.Table(a.out, a.say)
	}
	cmd.AddCommand(a.benchQualityCommand())
	return cmd
}

// bench measures the engine and the hot routines of this machine's processor; or, of a GPU or a shape, the steps alone.
func (a *app) bench(ctx context.Context) (*bench.Report, error) {
	if _, gpu := cudaOrdinals(a.opts.Device); gpu || a.opts.Shape != "" || a.opts.Layers > 0 || a.opts.LoadFormat == "dummy" || a.opts.KVDType != "auto" {
		return a.benchSteps(ctx)
	}
	src, err := a.resolve(a.opts.Model)
	if err != nil {
		return nil, err
	}
	return bench.Run(ctx, bench.Options{Checkpoint: src.files, Name: src.name, Threads: a.opts.Threads, Load: model.LoadOptions{Recipe: a.recipe(), Notes: a.noteLoad},
		Progress: func(what string) { a.note("measuring %s", "正在测量 %s", what) }})
}
