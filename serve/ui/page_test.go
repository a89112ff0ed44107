package ui_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"chulengo/serve"
)

func TestLoading(t *testing.T) {
	s := start(t, serve.ModelInfo{Name: "Llama-4-Scout-17B-16E-Instruct", Display: "Llama-4-Scout-17B-16E-Instruct", Scout: true, Llama: true}, nil)
	p := visitor(t).open(s.url)
	p.wait(`document.getElementById('model-loading-text').textContent === '模型正在加载中,请稍候... 首次加载可能需要1-2分钟'`)
	p.is(`document.getElementById('user-input').disabled && document.getElementById('send-btn').disabled`)
	p.is(`document.getElementById('settings-content').hidden && document.getElementById('settings-mark').textContent === '▼'`)
	s.SetProgress(1<<30, 4<<30)
	p.wait(`document.getElementById('model-loading').innerText.includes('25%') && document.getElementById('model-loading-bar').value === 25`)
	s.SetReady(s.backend)
	p.wait(canType)
	p.is(`document.getElementById('model-loading').hidden`)
	p.is(`!document.getElementById('settings-content').hidden && document.getElementById('settings-mark').textContent === '▲'`)
	// The tutorial's own words, where its model is loaded.
	p.is(`document.title === 'Llama-4-Scout 对话助手' && document.querySelector('h1').textContent === document.title`)
	p.is(lastBot + ` === '您好!我是由MetaAI开发的Llama-4-Scout-17B-16E-Instruct。请问有什么我可以帮助您的?'`)
	p.is(`document.body.innerText.includes('Built with Llama')`)
	for _, id := range []string{"model-loading", "chat-id", "settings-toggle", "settings-content", "max-tokens-slider", "max-tokens-value",
		"history-length-slider", "history-length-value", "clear-btn", "chat-container", "loading", "user-input", "send-btn"} {
		p.is(`document.getElementById('` + id + `')`)
	}

	s = start(t, serve.ModelInfo{}, nil)
	p = visitor(t).open(s.url)
	p.wait(`!document.getElementById('model-loading').hidden`)
	p.is(`!document.body.innerText.includes('Built with Llama')`)
}

func TestAsk(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Hold = make(chan struct{})
	s.backend.Script = words("你好 **bold** 🦙 end")
	p := visitor(t).open(s.url)
	p.ask("  first question ")
	s.say(2)
	p.wait(lastBot + `.includes('bold')`) // it streams: the rest was not said yet
	p.is(lastUser + ` === 'first question'`)
	p.is(`document.getElementById('user-input').disabled && !document.getElementById('loading').hidden && document.getElementById('send-btn').hidden`)
	s.say(2)
	p.answered()
	p.is(lastBot + ` === '你好 bold 🦙 end' && document.querySelector('.bot-message strong').textContent === 'bold'`)
	p.wait(`document.querySelector('#conversations .open')?.textContent === 'first question'`)

	// The sliders show their values and are sent; the second prompt holds the first round.
	p.run(chromedp.SetValue(chromedp.ID("max-tokens-slider"), "512"))
	p.is(`(document.getElementById('max-tokens-slider').dispatchEvent(new Event('input')), document.getElementById('max-tokens-value').textContent === '512')`)
	s.backend.Hold = nil
	p.ask("second")
	p.answered()
	requests := s.backend.Requests()
	if last := requests[len(requests)-1]; last.MaxTokens != 512 {
		t.Errorf("max_new_tokens: got %d, want 512", last.MaxTokens)
	}

	// A reload keeps the conversation; another tab has its own; each other visitor sees none of it.
	id := get[string](p, `document.getElementById('chat-id').textContent`)
	p.run(chromedp.Reload())
	p.wait(`document.querySelectorAll('.user-message').length === 2 && document.getElementById('max-tokens-value').textContent === '512'`)
	p.is(`document.getElementById('chat-id').textContent === '` + id + `'`)
	q := p.another().open(s.url)
	q.wait(canType)
	q.is(`document.getElementById('chat-id').textContent !== '` + id + `' && document.querySelectorAll('.user-message').length === 0`)
	q.wait(`document.querySelectorAll('#conversations li').length === 1`)
	r := visitor(t).open(s.url)
	r.wait(canType)
	r.is(`document.querySelectorAll('#conversations li').length === 0`)

	p.run(chromedp.Click(chromedp.ID("clear-btn")))
	p.wait(`document.querySelectorAll('.user-message').length === 0 && ` + lastBot + `.includes('Fake 1B')`)
}

func TestStop(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Hold = make(chan struct{})
	s.backend.Script = words("one two three four")
	p := visitor(t).open(s.url)
	for _, stop := range []chromedp.Action[chromedp.Void]{chromedp.Click(chromedp.ID("stop-btn")), chromedp.KeyEvent("\u001b")} {
		p.ask("count")
		s.say(2)
		p.wait(lastBot + `.includes('two')`)
		p.run(stop)
		p.answered()
		p.is(lastBot + `.trim() === 'one two' && document.body.innerText.includes('已停止')`)
		if running, _, _ := s.backend.Counts(); running != 0 {
			t.Errorf("%d answers still run", running)
		}
	}
}

// Enter that accepts a candidate of the input method does not send; Shift+Enter begins a line.
func TestInputMethod(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	p := visitor(t).open(s.url)
	p.typed("zhong")
	key := func(extra string) string {
		return `document.getElementById('user-input').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true, ` + extra + `}))`
	}
	for _, guarded := range []string{key("isComposing: true"), key("keyCode: 229"), key("shiftKey: true"),
		`(document.getElementById('user-input').dispatchEvent(new CompositionEvent('compositionend')), ` + key("") + `)`} {
		get[bool](p, guarded)
	}
	p.is(`document.getElementById('user-input').value === 'zhong' && document.querySelectorAll('.user-message').length === 0`)
	time.Sleep(30 * time.Millisecond) // longer than the guard after a composition
	get[bool](p, key(""))
	p.wait(lastUser + ` === 'zhong'`)
	p.answered()
}

// The server goes on answering whatever happens to the page.
func TestReattach(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Hold = make(chan struct{})
	const text = "一二 三四 🦙🦙 five six"
	s.backend.Script = words(text)
	p := visitor(t).open(s.url)
	p.ask("go on")
	s.say(3)
	p.wait(lastBot + `.includes('🦙🦙')`)
	p.run(chromedp.Reload())
	p.wait(lastBot + `.includes('🦙🦙')`)
	p.is(lastUser + ` === 'go on' && document.getElementById('user-input').disabled`)
	s.say(1)
	p.wait(lastBot + `.includes('five')`)
	s.say(1)
	p.answered()
	p.is(lastBot + ` === '` + text + `'`)

	p.ask("closed tab")
	s.say(1)
	p.wait(lastBot + `.includes('一二')`)
	p.open("about:blank")
	s.say(4)
	p.open(s.url)
	p.wait(lastUser + ` === 'closed tab' && ` + lastBot + ` === '` + text + `'`)
}

func TestFailures(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Script = func(string) ([]string, error) { return nil, errors.New("inside: secret path") }
	p := visitor(t).open(s.url)
	p.ask("will fail")
	p.wait(`document.querySelector('.failed')`)
	p.answered()
	p.is(`document.querySelector('.failed').innerText.startsWith('错误: ') && !document.body.innerText.includes('secret')`)
	p.is(`document.getElementById('user-input').value === 'will fail'`) // nothing typed is lost
	s.backend.Script = func(string) ([]string, error) { return []string{"half ", "way "}, errors.New("secret") }
	p.run(chromedp.SendKeys(chromedp.ID("user-input"), "\r"))
	p.wait(stopping + ` && document.querySelectorAll('.failed').length === 1`)
	p.is(`!document.body.innerText.includes('secret') && !document.body.innerText.includes('half')`)

	// The server keeps the question: it is there after a reload, and can be asked again or dismissed.
	s.backend.Script = words("at last")
	p.run(chromedp.Reload())
	p.wait(canType + ` && document.querySelector('.failed-question .body').innerText === 'will fail' && document.querySelector('.failed').innerText.startsWith('错误: ')`)
	p.do(`document.querySelector('.failed .tryAgain').click()`)
	p.answered()
	p.is(lastBot + ` === 'at last' && document.querySelectorAll('.user-message').length === 1 && !document.querySelector('.failed')`)
	p.wait(`document.getElementById('user-input').value === ''`)

	broken := start(t, serve.ModelInfo{}, nil)
	q := visitor(t).open(broken.url)
	q.wait(`!document.getElementById('model-loading').hidden`)
	broken.Close()
	q.wait(`document.getElementById('model-loading').innerText.includes('无法连接服务器')`)
}

func TestConversations(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	p := visitor(t).open(s.url)
	p.ask("alpha")
	p.answered()
	p.run(chromedp.Click(chromedp.ID("new-chat")))
	p.ask("beta")
	p.answered()
	titles := `[...document.querySelectorAll('#conversations .open')].map(e => e.textContent).join()`
	p.wait(titles + ` === 'beta,alpha'`)
	p.do(`document.querySelectorAll('#conversations .rename')[1].click()`)
	p.run(chromedp.SendKeys(chromedp.CSS("#conversations input"), "Gamma\r"))
	p.wait(titles + `.includes('Gamma')`)
	p.do(`[...document.querySelectorAll('#conversations .open')].find(e => e.textContent === 'Gamma').click()`)
	p.wait(lastUser + ` === 'alpha'`)
	p.do(`document.querySelector('#conversations .current .remove').click()`) // the dialog is accepted
	p.wait(titles + ` === 'beta' && document.querySelectorAll('.user-message').length === 0`)
}

func TestLanguages(t *testing.T) {
	s := ready(t, serve.ModelInfo{Name: "chulengo-demo", Display: "chulengo-demo", Demo: true})
	p := visitor(t).open(s.url)
	p.wait(canType)
	p.is(`document.documentElement.lang === 'zh-CN' && document.getElementById('send-btn').textContent === '发送' && document.body.innerText.includes('演示模型')`)
	p.run(chromedp.Click(chromedp.CSS("[data-lang=en]")))
	english := `document.documentElement.lang === 'en' && document.getElementById('send-btn').textContent === 'Send' && document.body.innerText.includes('demonstration model')`
	p.wait(english)
	p.is(`!/[\u4e00-\u9fff]/.test(document.body.innerText.replace('中文', ''))`)
	p.run(chromedp.Reload())
	p.wait(english)
	visitor(t).open(s.url + "?lang=en").wait(english)
	p.run(chromedp.Click(chromedp.CSS(".try")))
	p.wait(lastUser + ` === 'What is the capital of France?'`)
	p.answered()
}

// Nothing that a model or a person writes runs.
func TestUnsafeText(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	const attack = "<img src=x onerror=\"window.hit=1\"> <script>window.hit=2</script> [link](javascript:window.hit=3) " +
		"<a href=\"javascript:window.hit=4\" onclick=\"window.hit=5\">x</a> ![p](http://203.0.113.9/p.png) <style>*{display:none}</style>\n\n```html\n<b onmouseover=\"window.hit=6\">code</b>\n```"
	s.backend.Script = func(string) ([]string, error) { return []string{attack}, nil }
	p := visitor(t).open(s.url)
	p.ask(`<img src=x onerror="window.hit=7"><b>mine</b>`)
	p.answered()
	p.do(`document.querySelectorAll('.message a').forEach(a => a.click())`)
	p.is(`window.hit === undefined && document.querySelectorAll('.message img, .message script, .message style, .message [onclick], .message [onerror]').length === 0`)
	p.is(`![...document.querySelectorAll('.message a')].some(a => a.href.startsWith('javascript'))`)
	p.is(lastUser + `.includes('<b>mine</b>') && document.querySelector('pre code').innerText.includes('<b onmouseover')`)
}

// Everything works over plain http at a name in the network, and below a path: no secure context, no absolute URL.
func TestPlainName(t *testing.T) {
	s := start(t, serve.ModelInfo{}, func(o *serve.Options) { o.BasePath, o.AllowedHosts = "/chat", []string{lanName} })
	s.SetReady(s.backend)
	p := visitor(t).open(strings.Replace(s.url, "127.0.0.1", lanName, 1))
	p.wait(canType)
	p.is(`!isSecureContext && !navigator.clipboard && !crypto.randomUUID`)
	p.ask("hello")
	p.answered()
	p.do(`document.addEventListener('copy', () => { window.copied = document.getSelection().toString() || document.activeElement.value })`)
	p.do(`document.querySelector('.user-message .copy').click()`)
	p.wait(`document.querySelector('.user-message .copy').textContent === '已复制'`)
	p.is(`window.copied === 'hello'`)
	p.run(chromedp.Click(chromedp.ID("new-chat")))
	p.wait(`/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(document.getElementById('chat-id').textContent)`)
	p.ask("again")
	p.answered()
	p.wait(`document.querySelectorAll('#conversations li').length === 2`)
}

func TestPhoneAndKeyboard(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Script = func(string) ([]string, error) {
		return []string{"```\n" + strings.Repeat("wide ", 100) + "\n```\n" + strings.Repeat("x", 300)}, nil
	}
	p := visitor(t)
	p.run(chromedp.EmulateViewport(360, 740, chromedp.EmulateScale(2), chromedp.EmulateMobile))
	p.open(s.url).ask("wide")
	p.answered()
	noScroll := `document.documentElement.scrollWidth <= 360 && document.querySelector('main').scrollWidth <= 360`
	p.is(noScroll)
	p.is(`document.getElementById('sidebar').getBoundingClientRect().right <= 0`)
	p.run(chromedp.Click(chromedp.ID("sidebar-open")))
	p.wait(`document.getElementById('sidebar').getBoundingClientRect().left === 0 && document.activeElement.id === 'sidebar-close'`)
	p.is(noScroll)
	p.is(`document.querySelector('main').inert`) // what the drawer covers cannot be reached
	p.run(chromedp.Click(chromedp.ID("settings-open")))
	p.wait(`document.getElementById('settings-dialog').open`)
	p.is(`document.getElementById('settings-dialog').scrollWidth <= 360 && document.getElementById('settings-dialog').getBoundingClientRect().right <= 360`)
	p.do(`document.querySelector('#settings-dialog [data-close]').click()`)
	p.run(chromedp.KeyEvent("\u001b"))
	p.wait(`document.getElementById('sidebar').getBoundingClientRect().right <= 0 && document.activeElement.id === 'sidebar-open'`)
	p.is(`!document.querySelector('main').inert`)

	// By keyboard alone: Tab reaches every control, and what has the focus shows it.
	q := visitor(t).open(s.url)
	q.wait(canType)
	get[bool](q, `(document.activeElement.blur(), true)`)
	reached := map[string]bool{}
	for range 20 {
		q.run(chromedp.KeyEvent("\t"))
		reached[get[string](q, `document.activeElement.id || document.activeElement.dataset.lang || document.activeElement.className`)] = true
	}
	for _, id := range []string{"skip", "new-chat", "settings-toggle", "max-tokens-slider", "history-length-slider", "zh", "en", "clear-btn", "chat-container", "user-input"} {
		if !reached[id] {
			t.Errorf("Tab never reaches %s: %v", id, reached)
		}
	}
	q.run(chromedp.Focus(chromedp.ID("new-chat")), chromedp.KeyEvent("\t"))
	q.is(`parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2`)

	// Text stands out from its ground in both schemes.
	for _, scheme := range []string{"light", "dark"} {
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
		if _, err := chromedp.Call(q.ctx, emulation.SetEmulatedMedia, media); err != nil {
			t.Fatal(err)
		}
		ratio := get[float64](q, `(() => {
			const parse = (c) => c.match(/[\d.]+/g).slice(0, 3).map(Number);
			const light = (c) => parse(c).map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
			const pair = (fg, bg) => { const [a, b] = [light(fg), light(bg)].sort((x, y) => y - x); return (a + .05) / (b + .05); };
			const of = (s) => getComputedStyle(document.querySelector(s));
			const ground = of('body').backgroundColor, side = of('#sidebar').backgroundColor;
			return Math.min(pair(of('.bot-message .body').color, ground), pair(of('.session').color, ground), pair(of('.hint').color, ground), pair(of('.setting').color, side),
				pair(of('#send-btn').color, of('#send-btn').backgroundColor), pair(of('#version').color, side));
		})()`)
		if ratio < 4.5 {
			t.Errorf("%s: contrast %.2f, want at least 4.5", scheme, ratio)
		}
	}
}

// The page of the tutorial that chulengo's users come from works unchanged.
func TestTutorialPage(t *testing.T) {
	text, err := os.ReadFile("../../../shared/tutorial/tutorial.txt")
	if err != nil {
		t.Skip("the tutorial is not beside the module")
	}
	_, html, _ := strings.Cut(string(text), "<!DOCTYPE html>")
	html, _, found := strings.Cut(html, "</html>")
	if !found {
		t.Fatal("no page in the tutorial")
	}
	file := t.TempDir() + "/index.html"
	if err := os.WriteFile(file, []byte("<!DOCTYPE html>"+html+"</html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, serve.ModelInfo{}, func(o *serve.Options) { o.Page = file })
	s.backend.Hold = make(chan struct{})
	s.backend.Script = words("Paris 巴黎")
	p := visitor(t).open(s.url)
	p.wait(`getComputedStyle(document.getElementById('model-loading')).display !== 'none' && document.getElementById('user-input').disabled`)
	p.is(`document.getElementById('chat-id').textContent.length === 36`)
	s.SetReady(s.backend)
	p.typed("Where?") // it polls every five seconds
	p.is(`getComputedStyle(document.getElementById('model-loading')).display === 'none'`)
	p.do(`(() => { const s = document.getElementById('max-tokens-slider'); s.value = 384; s.dispatchEvent(new Event('input')) })()`)
	p.is(`document.getElementById('max-tokens-value').textContent === '384'`)
	p.run(chromedp.Click(chromedp.ID("send-btn")))
	p.wait(`getComputedStyle(document.getElementById('loading')).display !== 'none'`)
	s.say(2)
	messages := `[...document.querySelectorAll('.message')].map(e => e.textContent.trim())`
	p.wait(messages + `.at(-1) === 'Paris 巴黎'`)
	p.is(messages + `.at(-2) === 'Where?' && getComputedStyle(document.getElementById('loading')).display === 'none'`)
	if got := s.backend.Requests()[0].MaxTokens; got != 384 {
		t.Errorf("max_new_tokens: got %d, want 384", got)
	}
	p.run(chromedp.Click(chromedp.ID("clear-btn")))
	p.wait(messages + `.length === 1`)
	s.backend.Hold, s.backend.Script = nil, func(string) ([]string, error) { return nil, fmt.Errorf("no") }
	p.typed("again")
	p.run(chromedp.Click(chromedp.ID("send-btn")))
	p.wait(messages + `.at(-1).startsWith('错误')`)
}
