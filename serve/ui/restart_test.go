package ui_test

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"chulengo/serve"
)

// A server that ends in the midst of an answer and comes back: the page says so meanwhile, keeps what was typed, and
// then shows what is left of the answer.
func TestRestart(t *testing.T) {
	data := t.TempDir()
	s := start(t, serve.ModelInfo{}, func(o *serve.Options) { o.DataDir, o.SaveEvery = data, 50*time.Millisecond })
	s.backend.Hold = make(chan struct{})
	s.backend.Script = words("half of it")
	s.SetReady(s.backend)
	p := visitor(t).open(s.url)
	p.ask("go on")
	s.say(1)
	p.wait(lastBot + `.includes('half')`)
	time.Sleep(200 * time.Millisecond) // it is saved
	address := s.Addr().String()
	s.Close()
	p.wait(`document.getElementById('loading-text').innerText.includes('重新连接') || document.querySelector('.note')?.innerText.includes('中断')`)

	again := start(t, serve.ModelInfo{}, func(o *serve.Options) { o.DataDir, o.Addr = data, address })
	again.SetReady(again.backend)
	p.wait(canType + ` && document.querySelector('.note').innerText.includes('中断')`)
	p.is(lastUser + ` === 'go on' && ` + lastBot + `.trim() === 'half'`)
	p.typed("unsent words")
	again.Close()
	p.run(chromedp.Evaluate[chromedp.Void](`document.dispatchEvent(new Event('visibilitychange'))`))
	p.wait(`document.getElementById('model-loading').innerText.includes('无法连接服务器') && document.getElementById('user-input').disabled`)
	p.is(`document.getElementById('user-input').value === 'unsent words'`)
	last := start(t, serve.ModelInfo{}, func(o *serve.Options) { o.DataDir, o.Addr = data, address })
	last.SetReady(last.backend)
	p.wait(canType + ` && document.getElementById('model-loading').hidden`)
	p.is(`document.getElementById('user-input').value === 'unsent words' && ` + lastUser + ` === 'go on'`)
	p.run(chromedp.Reload())
	p.wait(canType + ` && document.getElementById('user-input').value === 'unsent words'`)
}
