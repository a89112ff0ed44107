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
		Long: a.say(`Serve the chat page and the APIs that programs speak. The page is there at once; the model loads in the background.
Ctrl-C lets running answers finish; a second Ctrl-C ends at once.

  /                                   the chat page
  /api/generate, /api/clear_history   the tutorial's API; beside it /api/stop, /api/conversations…, /api/export, /api/import
  /v1/chat/completions                OpenAI's API; also /v1/completions, /v1/responses, /v1/models
  /v1/messages                        Anthropic's API; also /v1/messages/count_tokens
  /api/chat, /api/generate, /api/tags Ollama's API; also /api/show, /api/ps, /api/version
  /tokenize, /detokenize, /apply-template, /props, /slots    as llama-server and vLLM have them
  /health, /readyz, /version, /metrics                       for what watches the server (Prometheus)

Without keys everybody who reaches the address may use it. With --api-key-file programs send Authorization: Bearer KEY (or
x-api-key), and the page asks for a key; /health, /readyz and /version need none.`,
			`启动对话网页与供程序使用的接口。网页立即可用，模型在后台加载。
按 Ctrl-C 会等正在生成的回答结束；再按一次立即退出。

  /                                   对话网页
  /api/generate、/api/clear_history   教程的接口；另有 /api/stop、/api/conversations…、/api/export、/api/import
  /v1/chat/completions                OpenAI 兼容接口；另有 /v1/completions、/v1/responses、/v1/models
  /v1/messages                        Anthropic 兼容接口；另有 /v1/messages/count_tokens
  /api/chat、/api/generate、/api/tags Ollama 兼容接口；另有 /api/show、/api/ps、/api/version
  /tokenize、/detokenize、/apply-template、/props、/slots    与 llama-server、vLLM 相同
  /health、/readyz、/version、/metrics                       供监控使用（Prometheus）

不设密钥时，能访问该地址的人都可以使用。用 --api-key-file 设置后，程序须发送 Authorization: Bearer 密钥（或 x-api-key），
网页会要求输入密钥；/health、/readyz 和 /version 不需要密钥。`),
		Example: a.say(`  chulengo serve
  chulengo serve --model meta-llama/Llama-4-Scout-17B-16E-Instruct --addr 0.0.0.0:5000 --api-key-file keys.txt
  chulengo serve --base-path /chat --trusted-proxy 127.0.0.1 --allowed-host chat.example.org`, `  chulengo serve
  chulengo serve --model meta-llama/Llama-4-Scout-17B-16E-Instruct --addr 0.0.0.0:5000 --api-key-file keys.txt
  chulengo serve --base-path /chat --trusted-proxy 127.0.0.1 --allowed-host chat.example.org`),
		Args: a.arguments(0, 0, ""),
	}
	a.addFlags(cmd.Flags(), []string{"addr", "base-path", "page", "data-dir", "database"}, deviceOptions, chatOptions, samplingOptions, accessOptions,
		[]string{"max-batch", "max-queue", "answer-timeout", "body-limit", "fetch-images", "drain-timeout", "log-prompts"})
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
	if a.opts.MaxBatch < 1 {
		return usage("--max-batch: want 1 or more, got %d", "--max-batch 的值 %d 不合适：应不小于 1", a.opts.MaxBatch)
	}
	for _, o := range []struct {
		name  string
		value any
		bad   bool
	}{
		{"answer-timeout", a.opts.AnswerTimeout, a.opts.AnswerTimeout < 0},
		{"drain-timeout", a.opts.Drain, a.opts.Drain < 0},
		{"body-limit", a.opts.BodyLimit, a.opts.BodyLimit < 0},
		{"max-queue", a.opts.MaxQueue, a.opts.MaxQueue < 0},
	} {
		if o.bad {
			return usage("--%s: want 0 or more, got %v", "--%s 的值 %v 不合适：应不小于 0", o.name, o.value)
		}
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
		Page: a.opts.Page, System: a.opts.System, Model: a.info(d), Version: version(), Sampling: &sampling,
		APIKeys: keys, AllowedHosts: a.opts.AllowedHosts, Origins: a.opts.Origins, TrustedProxies: a.opts.Proxies,
		RateLimit: a.opts.RateLimit.value, RateBurst: a.opts.RateBurst, FetchImages: a.opts.FetchImages, LogPrompts: a.opts.LogPrompts,
		AnswerTimeout: a.opts.AnswerTimeout, BodyLimit: int64(a.opts.BodyLimit) << 10, DrainTimeout: max(a.opts.Drain, 1), Logger: a.logger()})
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
		info := a.info(d)
		info.Context = l.engine.Context()
		if info.Pictures, err = l.pictures(); err != nil {
			info.NoPictures = err.Error()
		}
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
