package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"chulengo/serve"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: a.say("Serve the chat page and the API", "启动对话网页与接口"),
		Long: a.say(`Serve the chat page, the tutorial's API and OpenAI's (/v1). The page is there at once; the model loads in the background.
Ctrl-C lets running answers finish; a second Ctrl-C ends at once.`,
			`启动对话网页、教程的接口与 OpenAI 兼容接口（/v1）。网页立即可用，模型在后台加载。
按 Ctrl-C 会等正在生成的回答结束；再按一次立即退出。`),
		Args: a.arguments(0, 0, ""),
	}
	a.addFlags(cmd.Flags(), []string{"addr", "base-path", "page", "data-dir", "database"}, deviceOptions, chatOptions, samplingOptions, accessOptions,
		[]string{"answer-timeout", "body-limit", "drain-timeout", "log-prompts"})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := a.signalled(cmd.Context())
		defer stop()
		return a.serve(ctx)
	}
	return cmd
}

// serve opens the address before it looks at the weights, so that whatever can fail early does.
func (a *app) serve(ctx context.Context) error {
	if _, _, err := net.SplitHostPort(a.opts.Addr); err != nil {
		return usage("--addr: want HOST:PORT such as 127.0.0.1:5000, got %q", "--addr 的值 %q 不合适：应为 主机:端口，如 127.0.0.1:5000", a.opts.Addr)
	}
	d, err := a.describeModel()
	if err != nil {
		return err
	}
	if err := a.checkDevice(); err != nil {
		return err
	}
	template, err := a.template(d)
	if err != nil {
		return err
	}
	sampling, err := a.sampling(d.generation)
	if err != nil {
		return err
	}
	sampling.Seed = a.opts.Seed.value
	data, err := a.dataDir()
	if err != nil {
		return err
	}
	keys, err := a.keys()
	if err != nil {
		return err
	}
	server, err := serve.New(serve.Options{Addr: a.opts.Addr, BasePath: a.opts.BasePath, DataDir: data, Database: a.opts.Database,
		Page: a.opts.Page, System: a.opts.System, Model: d.info(), Version: version(), Sampling: &sampling,
		APIKeys: keys, AllowedHosts: a.opts.AllowedHosts, Origins: a.opts.Origins, TrustedProxies: a.opts.Proxies,
		RateLimit: a.opts.RateLimit.value, RateBurst: a.opts.RateBurst, LogPrompts: a.opts.LogPrompts,
		AnswerTimeout: a.opts.AnswerTimeout, BodyLimit: int64(a.opts.BodyLimit) << 10, DrainTimeout: a.opts.Drain, Logger: a.logger()})
	if err != nil {
		return err
	}
	a.note("serving %s at", "%s 的对话网页：", d.name)
	a.note("%s", "%s", serve.Reach(server.Addr(), server.BasePath(), serve.Lang(a.lang)))

	ended := make(chan struct{}) // closed when the server is: then nothing uses the model any more
	released := make(chan struct{})
	var model atomic.Pointer[loaded]
	go func() {
		defer close(released)
		bar := a.loadBar()
		a.observe = server
		l, err := a.start(ctx, d, func(done, total int64) {
			server.SetProgress(done, total)
			if bar != nil {
				bar(done, total)
			}
		})
		if err != nil {
			server.Fail(err)
			return
		}
		model.Store(l)
		info := d.info()
		info.Context = l.engine.Context()
		server.SetReady(serve.NewBackend(info, d.tokenizer, template, l.engine))
		a.note("%s is ready (%s, %.1f s)", "%s 已就绪（%s，%.1f 秒）", d.name, l.device.Name(), l.took.Seconds())
		<-ended
		l.Close()
	}()
	told := context.AfterFunc(ctx, func() {
		a.note("waiting for running answers; Ctrl-C again ends at once", "正在等待未完成的回答；再按一次 Ctrl-C 立即退出")
	})
	err = server.Run(ctx)
	told()
	close(ended)
	<-released
	if ctx.Err() != nil {
		return nil // asked to end; a load that was cut short by it is no failure
	}
	return err
}

// keys are those of --api-key and --api-key-file.
func (a *app) keys() ([]string, error) {
	keys := slices.Clone(a.opts.APIKeys)
	if name := a.opts.APIKeyFile; name != "" {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, usage("--api-key-file: %q cannot be read", "--api-key-file：无法读取 %q", name)
		}
		before := len(keys)
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				keys = append(keys, line)
			}
		}
		if len(keys) == before {
			return nil, usage("--api-key-file: there is no key in %q", "--api-key-file：%q 中没有密钥", name) // an open door would surprise
		}
	}
	return keys, nil
}

// logger writes what happens on the server to standard error: with --verbose every request, else only what is wrong.
func (a *app) logger() *slog.Logger {
	level := slog.LevelWarn
	if a.opts.Verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, at slog.Attr) slog.Attr {
		if at.Key == slog.TimeKey && len(groups) == 0 && !a.opts.Verbose {
			at.Value = slog.StringValue(at.Value.Time().Format("15:04:05"))
		}
		return at
	}}))
}
