package ui_test

import (
	"context"
	"testing"

	"github.com/chromedp/chromedp"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
)

// slow tells of a queue and of a prompt being read, each when the test lets it.
type slow struct {
	*fake.Backend
	steps chan engine.Progress
}

func (b *slow) Generate(ctx context.Context, r engine.Request, emit func(engine.Event) error) (*engine.Result, error) {
	tell := r.Progress
	r.Progress = nil
	for p := range b.steps {
		tell(p)
	}
	result, err := b.Backend.Generate(ctx, r, emit)
	result.Cached = 32
	return result, err
}

// While an answer is awaited the page says what it waits for; then how fast it comes; then what it took.
func TestNumbers(t *testing.T) {
	s := start(t, serve.ModelInfo{}, nil)
	backend := &slow{s.backend, make(chan engine.Progress)}
	s.backend.Script = words("one two three four")
	s.backend.Hold = make(chan struct{})
	s.SetReady(backend)
	p := visitor(t).open(s.url + "?lang=en")
	p.ask("how far?")
	says := `document.getElementById('loading-text').innerText`
	backend.steps <- engine.Progress{Queue: 3, Prompt: 400}
	p.wait(says + `.includes('requests ahead: 3') && document.getElementById('reading').hidden`)
	backend.steps <- engine.Progress{Prompt: 400, Cached: 32, Read: 100}
	p.wait(says + `.includes('Reading the prompt') && document.getElementById('reading').value === 100 && document.getElementById('speed').innerText === '25%'`)
	p.is(`document.getElementById('reading').getAttribute('aria-label') === 'Prompt: 100 of 400 tokens read'`)
	backend.steps <- engine.Progress{Prompt: 400, Cached: 32, Read: 400}
	p.wait(`document.getElementById('reading').hidden`)
	close(backend.steps)
	s.say(4)
	p.answered()
	p.wait(`document.querySelector('.numbers summary').innerText.includes('5 tokens')`)
	p.is(`/tokens\/s/.test(document.querySelector('.numbers summary').innerText) && /first after [\d.]+ s/.test(document.querySelector('.numbers summary').innerText)`)
	p.do(`document.querySelector('.numbers').open = true`)
	p.is(`document.querySelector('.numbers').innerText.includes('32 from the cache')`)
	gauge := `!document.getElementById('context').hidden && /^Context [\d,]+ \/ 65,536 \(0%\)$/.test(document.getElementById('context-text').innerText)`
	p.is(gauge)
	p.run(chromedp.Reload())
	p.wait(gauge + ` && document.querySelector('.numbers')`)
	p.run(chromedp.Click(chromedp.ID("new-chat")))
	p.wait(`document.getElementById('context').hidden`)
}
