package ui_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"

	"chulengo/cmd/demotest"
	"chulengo/engine"
	"chulengo/internal/recorded"
	"chulengo/serve"
)

// demoReady serves the demo checkpoint.
func demoReady(t *testing.T) *server {
	t.Helper()
	d := demotest.Load(t)
	d.Start(t, engine.Options{})
	info := d.Info()
	info.Sampling.Temperature = 0 // what was recorded is greedy
	s := start(t, info, nil)      // ends before the engine does
	s.SetReady(d.Backend(info))
	return s
}

// attached waits for so many pictures above the input.
func (p *tab) attached(n string) {
	p.t.Helper()
	p.wait(`document.querySelectorAll('#attached img').length === ` + n)
}

// A picture is chosen, another pasted and taken away; the model says what the reference said; the question keeps its picture
// over a reload, and when it is asked again.
func TestPictures(t *testing.T) {
	s := demoReady(t)
	cases := recorded.Pictures()
	p := visitor(t).open(s.url + "?lang=en")
	p.wait(canType)
	p.wait(`!document.getElementById('attach').hidden`)
	p.do(`document.getElementById('settings-content').hidden = false`)
	file := filepath.Join(t.TempDir(), "circle.png")
	if err := os.WriteFile(file, cases[0].PNG, 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(chromedp.SetUploadFiles(chromedp.ID("attach-file"), []string{file}))
	p.attached("1")
	p.do(`(() => {
		const bytes = Uint8Array.from(atob('` + cases[1].Base64 + `'), (c) => c.charCodeAt(0));
		const data = new DataTransfer();
		data.items.add(new File([bytes], 'square.png', { type: 'image/png' }));
		data.items.add(new File(['text'], 'words.txt', { type: 'text/plain' }));
		document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
	})()`)
	p.attached("2")
	p.wait(`document.getElementById('notice').textContent.includes('words.txt')`)
	p.do(`document.querySelectorAll('#attached button')[1].click()`)
	p.attached("1")

	p.ask(cases[0].Question)
	p.answered()
	p.wait(lastBot + ` === '` + cases[0].Answer + `'`)
	p.is(`document.getElementById('attached').hidden`)
	const kept = `document.querySelector('.user-message .pictures a img')?.naturalWidth === 112`
	p.wait(kept)
	p.run(chromedp.Reload())
	p.wait(kept)

	p.wait(canType)
	p.do(`document.querySelector('.user-message .edit').click()`)
	p.run(chromedp.SendKeys(chromedp.CSS(".edit-area"), "\r"))
	p.wait(`document.querySelectorAll('.versions').length > 0`)
	p.answered()
	p.wait(lastBot + ` === '` + cases[0].Answer + `'`)
	p.wait(kept)

	// The other one is dropped, and asked about without a word of its own.
	p.do(`(() => {
		const bytes = Uint8Array.from(atob('` + cases[1].Base64 + `'), (c) => c.charCodeAt(0));
		const data = new DataTransfer();
		data.items.add(new File([bytes], 'square.png', { type: 'image/png' }));
		document.getElementById('chat-container').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
	})()`)
	p.attached("1")
	p.run(chromedp.SendKeys(chromedp.ID("user-input"), "\r"))
	p.wait(`document.querySelectorAll('.user-message .pictures img').length === 2`)
	p.answered()
	p.is(`document.querySelectorAll('.failed').length === 0`)
}

// Where the model cannot see, there is no button, and what is dropped is answered.
func TestNoPictures(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	p := visitor(t).open(s.url)
	p.wait(canType)
	p.is(`document.getElementById('attach').hidden`)
	p.do(`(() => {
		const data = new DataTransfer();
		data.items.add(new File(['x'], 'x.png', { type: 'image/png' }));
		document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
	})()`)
	p.wait(`document.getElementById('notice').textContent === '此模型看不了图片'`)
}
