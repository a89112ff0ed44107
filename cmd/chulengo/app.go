package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"chulengo/serve"
)

// app is what the commands share: the world outside, the language, and the options in force.
type app struct {
	world
	lang   string // zh or en
	opts   options
	origin map[string]string // of each option in force, by flag name; absent: the default

	observe *serve.Server // whom the engine tells its numbers; nil: nobody

	signal atomic.Pointer[os.Signal] // the first signal that ended the command's context
}

// world is everything that a command reads from and writes to, so that tests may run commands in their own process.
type world struct {
	in       io.Reader
	out, err io.Writer
	lookup   func(name string) (string, bool) // environment
}

func system() world { return world{os.Stdin, os.Stdout, os.Stderr, os.LookupEnv} }

func (w *world) env(name string) string {
	v, _ := w.lookup(name)
	return v
}

// run is the whole program; the result is the exit code.
func run(ctx context.Context, args []string, w world) int {
	a := &app{world: w, origin: map[string]string{}}
	a.lang = a.language(args)
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := a.exitCode(err)
	if code != exitInterrupted && code != exitTerminated {
		fmt.Fprintln(a.err, a.say("error: ", "错误：")+a.describe(err))
		if isMisuse(err) {
			fmt.Fprintln(a.err, a.say("`chulengo help` shows the usage.", "运行 chulengo help 查看用法。"))
		}
	}
	return code
}

// say picks the text of the user's language.
func (a *app) say(en, zh string) string {
	if a.lang == "zh" {
		return zh
	}
	return en
}

// note writes a line for the person at the terminal, unless --quiet asks for none.
func (a *app) note(en, zh string, args ...any) {
	if !a.opts.Quiet {
		fmt.Fprintf(a.err, a.say(en, zh)+"\n", args...)
	}
}

// language is that of --lang, CHULENGO_LANG, or the locale. It is needed before the flags are parsed, because their
// descriptions have a language too.
func (a *app) language(args []string) string {
	tag := ""
	for i, arg := range args {
		if v, ok := strings.CutPrefix(arg, "--lang="); ok {
			tag = v
		} else if arg == "--lang" && i+1 < len(args) {
			tag = args[i+1]
		} else if arg == "--" {
			break
		}
	}
	for _, name := range []string{"CHULENGO_LANG", "LC_ALL", "LC_MESSAGES", "LANG"} {
		if tag == "" {
			tag = a.env(name)
		}
	}
	return languageOf(tag)
}

func languageOf(tag string) string {
	if strings.HasPrefix(strings.ToLower(tag), "zh") {
		return "zh"
	}
	return "en"
}

// signalled gives a context that ends with the first SIGINT or SIGTERM. The second ends the process at once.
func (a *app) signalled(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				if !a.signal.CompareAndSwap(nil, &s) {
					os.Exit(signalCode(s))
				}
				cancel(errInterrupted)
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(context.Canceled)
	}
}

var errInterrupted = errors.New("interrupted")

// terminal says whether a stream of the world is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}

// withModel runs a command body with signals and a checkpoint that is ready to generate.
func (a *app) withModel(body func(ctx context.Context, l *loaded) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		ctx, stop := a.signalled(cmd.Context())
		defer stop()
		l, err := a.load(ctx, a.loadBar())
		if err != nil {
			return err
		}
		defer l.Close()
		return body(ctx, l)
	}
}
