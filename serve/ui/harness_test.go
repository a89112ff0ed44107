package ui_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// lanName is a name that the browser takes for this machine: a host without a secure context, as in a home network.
const lanName = "chulengo.test"

var (
	browserOnce sync.Once
	browserCtx  context.Context
	browserErr  error
)

// browser starts one browser for the whole package.
func browser(t *testing.T) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("no browser is installed: want chromium or google-chrome on the PATH")
	}
	browserOnce.Do(func() {
		options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("disable-gpu", true),
			chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true),
			chromedp.Flag("host-resolver-rules", "MAP "+lanName+" 127.0.0.1"))
		allocator, _ := chromedp.NewExecAllocator(context.Background(), options...)
		browserCtx, _ = chromedp.NewContext(allocator)
		browserErr = chromedp.Do(browserCtx)
	})
	if browserErr != nil {
		t.Fatalf("browser: %v", browserErr)
	}
	return browserCtx
}

// server is a real server with a backend whose words the test decides.
type server struct {
	*serve.Server
	backend *fake.Backend
	url     string
}

func start(t *testing.T, info serve.ModelInfo, edit func(*serve.Options)) *server {
	t.Helper()
	if info.Name == "" {
		info.Name, info.Display = "fake", "Fake 1B"
	}
	info.Context = 1 << 16
	o := serve.Options{Addr: "127.0.0.1:0", DataDir: t.TempDir(), Model: info, Version: "test", Logger: slog.New(slog.DiscardHandler)}
	if edit != nil {
		edit(&o)
	}
	s, err := serve.New(o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return &server{s, &fake.Backend{Model: info}, fmt.Sprintf("http://127.0.0.1:%d%s/", s.Addr().(*net.TCPAddr).Port, o.BasePath)}
}

func ready(t *testing.T, info serve.ModelInfo) *server {
	s := start(t, info, nil)
	s.SetReady(s.backend)
	return s
}

// say lets the backend speak n pieces.
func (s *server) say(n int) {
	for range n {
		s.backend.Hold <- struct{}{}
	}
}

// tab is one page; its console must stay free of errors and it may ask only this machine.
type tab struct {
	t     *testing.T
	ctx   context.Context // of actions
	whole context.Context // of the tab
}

// visitor is a browser profile of its own: cookies and storage are not shared with others.
func visitor(t *testing.T) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser(t), chromedp.WithNewBrowserContext())
	return newTab(t, ctx, cancel)
}

// another opens a second tab of the same visitor.
func (p *tab) another() *tab {
	p.t.Helper()
	ctx, cancel := chromedp.NewContext(p.whole)
	return newTab(p.t, ctx, cancel)
}

func newTab(t *testing.T, whole context.Context, cancel context.CancelFunc) *tab {
	t.Helper()
	t.Cleanup(cancel)
	if err := chromedp.Do(whole); err != nil { // the tab lives as long as the context of its first action
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(whole, 2*time.Minute)
	t.Cleanup(stop)
	p := &tab{t, ctx, whole}
	requests := chromedp.Events(whole, network.RequestWillBeSent)
	dialogs := chromedp.Events(whole, page.JavascriptDialogOpening)
	go func() {
		for e, err := range requests {
			if err != nil {
				return
			}
			if u, err := url.Parse(e.Request.URL); err != nil || strings.HasPrefix(u.Scheme, "http") && u.Hostname() != "127.0.0.1" && u.Hostname() != lanName {
				t.Errorf("the page asks %s", e.Request.URL)
			}
		}
	}()
	go func() {
		for _, err := range dialogs {
			if err != nil {
				return
			}
			chromedp.Call(whole, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
		}
	}()
	return p
}

func (p *tab) run(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tab) open(url string) *tab {
	p.t.Helper()
	p.run(chromedp.Navigate(url))
	return p
}

// get evaluates an expression.
func get[T any](p *tab, expression string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// wait waits until an expression is true.
func (p *tab) wait(expression string) {
	p.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		v, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool]("(() => { try { return Boolean("+expression+") } catch { return false } })()"))
		if v {
			return
		}
		if time.Now().After(deadline) { // an error before it is a page on its way
			p.t.Fatalf("never true: %s (%v); the page shows:\n%s", expression, err, get[string](p, `document.body.innerText`))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// do evaluates a statement.
func (p *tab) do(statement string) {
	p.t.Helper()
	p.run(chromedp.Evaluate[chromedp.Void](statement))
}

// is fails the test if an expression is not true.
func (p *tab) is(expression string) {
	p.t.Helper()
	if !get[bool](p, "Boolean("+expression+")") {
		p.t.Errorf("not true: %s", expression)
	}
}

const (
	canType  = `!document.getElementById('user-input').disabled`
	lastBot  = `[...document.querySelectorAll('.bot-message .body')].at(-1).innerText`
	lastUser = `[...document.querySelectorAll('.user-message .body')].at(-1).innerText`
	stopping = `document.getElementById('stop-btn').hidden`
)

// typed puts text into the input as a person would.
func (p *tab) typed(text string) *tab {
	p.t.Helper()
	p.wait(canType)
	p.run(chromedp.SendKeys(chromedp.ID("user-input"), text))
	return p
}

// ask types a question and sends it.
func (p *tab) ask(question string) {
	p.t.Helper()
	p.typed(question)
	p.run(chromedp.SendKeys(chromedp.ID("user-input"), "\r"))
}

// answered waits for the end of an answer.
func (p *tab) answered() {
	p.t.Helper()
	p.wait(canType)
}

// words are the pieces of an answer, one token each.
func words(text string) func(string) ([]string, error) {
	return func(string) ([]string, error) { return strings.SplitAfter(text, " "), nil }
}
