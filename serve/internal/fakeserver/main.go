// Command fakeserver runs the server of package serve with a backend that says canned answers slowly. The page is
// developed and tested against it.
//
//	go run ./serve/internal/fakeserver -addr 127.0.0.1:5001 -load 5s -delay 30ms
//
// Questions with the words fail, long, markdown or empty get answers of those kinds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

func main() {
	var (
		addr    = flag.String("addr", "127.0.0.1:5000", "host:port to listen on")
		base    = flag.String("base", "", "path under which everything lies")
		data    = flag.String("data-dir", "", "folder of the history; none: in memory")
		page    = flag.String("page", "", "your own index.html")
		ui      = flag.String("ui", "", "folder of the page (index.html, static/), read anew for every request; none: the embedded one")
		load    = flag.Duration("load", 2*time.Second, "how long the model seems to load")
		failing = flag.Bool("load-fails", false, "loading ends in an error")
		delay   = flag.Duration("delay", 30*time.Millisecond, "time between tokens")
		scout   = flag.Bool("scout", false, "claim to be Llama-4-Scout")
		key     = flag.String("key", "", "API key that clients must send, and people give to log in; none: nobody needs one")
		limit   = flag.Int("context", 4096, "context in characters")
	)
	flag.Parse()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))

	info := serve.ModelInfo{Name: "fake", Display: "Fake Llama 1B", Context: *limit}
	if *scout {
		info = serve.ModelInfo{Name: "Llama-4-Scout-17B-16E-Instruct", Display: "Llama-4-Scout-17B-16E-Instruct",
			Llama: true, Scout: true, Context: *limit}
	}
	o := serve.Options{Addr: *addr, BasePath: *base, DataDir: *data, Page: *page, Model: info, Version: "fake"}
	if *key != "" {
		o.APIKeys = []string{*key}
	}
	if *ui != "" {
		o.UI = os.DirFS(*ui)
	}
	server, err := serve.New(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
	fmt.Println(serve.Reach(server.Addr(), *base, serve.ParseLang(os.Getenv("LANG"))))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		second := make(chan os.Signal, 1)
		signal.Notify(second, os.Interrupt, syscall.SIGTERM)
		<-second
		server.Close()
	}()
	defer stop()
	go func() {
		const total = 218 << 30
		for i := range int64(100) {
			server.SetProgress(total/100*i, total)
			time.Sleep(*load / 100)
		}
		if *failing {
			server.Fail(errors.New("the fake model fails to load as asked"))
			return
		}
		server.SetReady(&fake.Backend{Model: info, Delay: *delay})
	}()
	if err := server.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
}

// explain gives the sentence for users where an error has one.
func explain(err error) string {
	var told interface{ Text(serve.Lang) string }
	if errors.As(err, &told) {
		return told.Text(serve.ParseLang(os.Getenv("LANG")))
	}
	return err.Error()
}
