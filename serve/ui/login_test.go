package ui_test

import (
	"testing"

	"github.com/chromedp/chromedp"

	"chulengo/serve"
)

// With keys the page asks for one; when a login has ended, the form stands where the page stood, and what was typed is
// there again afterwards.
func TestLogin(t *testing.T) {
	s := start(t, serve.ModelInfo{}, func(o *serve.Options) { o.APIKeys = []string{"open-sesame"} })
	s.SetReady(s.backend)
	p := visitor(t).open(s.url + "?lang=en")
	login := func() {
		t.Helper()
		p.wait(`document.querySelector('input[name=key]')`)
		p.run(chromedp.SendKeys(chromedp.CSS("input[name=key]"), "open-sesame\r"))
	}
	login()
	p.ask("hello")
	p.answered()
	p.typed("not sent yet")
	p.do(`fetch('api/logout', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' }).then(() => { window.out = true })`)
	p.wait(`window.out`)
	p.run(chromedp.SendKeys(chromedp.ID("user-input"), "\r"))
	login()
	p.wait(canType + ` && ` + lastUser + ` === 'hello' && document.getElementById('user-input').value.includes('not sent yet')`)
}
