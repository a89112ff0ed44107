package ui_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	control "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"

	"chulengo/serve"
)

// A search finds what was said, on any branch, and shows it.
func TestSearch(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Script = words("An alpaca.")
	p := visitor(t).open(s.url)
	p.ask("about llamas")
	p.answered()
	p.wait(`document.querySelector('.regenerate')`)
	s.backend.Script = words("A vicuña.")
	p.do(`document.querySelector('.regenerate').click()`) // the first answer is now on another branch
	p.answered()
	p.run(chromedp.Click(chromedp.ID("new-chat")))
	p.ask("关于羊驼的问题")
	p.answered()
	titles := `[...document.querySelectorAll('#conversations .title')].map(e => e.textContent).join()`
	p.wait(titles + ` === '关于羊驼的问题,about llamas'`)
	search := func(words string) {
		p.do(`(() => { const f = document.getElementById('search'); f.value = '` + words + `'; f.dispatchEvent(new Event('input')) })()`)
	}
	search("羊驼")
	p.wait(titles + ` === '关于羊驼的问题' && document.querySelector('#conversations mark').textContent === '羊驼'`)
	search("nowhere")
	p.wait(titles + ` === '' && !document.getElementById('no-conversations').hidden`)
	search("ALPACA")
	p.wait(titles + ` === 'about llamas' && document.querySelector('.snippet').textContent.includes('An alpaca')`)
	p.do(`document.querySelector('#conversations .open').click()`)
	p.wait(lastBot + ` === 'An alpaca.' && document.querySelector('.bot-message.found') && ` + versions(1) + ` === '‹1/2›'`)
	p.run(chromedp.Focus(chromedp.ID("search")), chromedp.KeyEvent("\u001b"))
	p.wait(`document.getElementById('search').value === '' && document.querySelectorAll('#conversations li').length === 2`)
}

// What one visitor exports another can import, with its versions.
func TestExportAndImport(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Script = counted()
	p := visitor(t).open(s.url)
	p.ask("to keep")
	p.answered()
	p.wait(`document.querySelector('.regenerate')`)
	p.do(`document.querySelector('.regenerate').click()`)
	p.answered()
	p.wait(versions(1) + ` === '‹2/2›'`)
	folder := t.TempDir()
	download := func(click string) string {
		t.Helper()
		if _, err := chromedp.Call(p.ctx, control.SetDownloadBehavior, control.SetDownloadBehaviorParams{
			Behavior: "allow", DownloadPath: folder, BrowserContextID: chromedp.FromContext(p.whole).BrowserContextID}); err != nil {
			t.Fatal(err)
		}
		p.do(click)
		for range 200 {
			found, _ := filepath.Glob(folder + "/chulengo-*")
			if len(found) == 1 && !strings.HasSuffix(found[0], ".crdownload") {
				text, err := os.ReadFile(found[0])
				if err != nil {
					t.Fatal(err)
				}
				kept := filepath.Join(t.TempDir(), filepath.Base(found[0]))
				if err := os.Rename(found[0], kept); err != nil {
					t.Fatal(err)
				}
				if len(text) == 0 {
					t.Error("the file is empty")
				}
				return kept
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatal("nothing was downloaded")
		return ""
	}
	markdown := download(`document.querySelector('.menu [data-export=markdown]').click()`)
	if text, _ := os.ReadFile(markdown); !strings.Contains(string(text), "# to keep") || !strings.Contains(string(text), "answer 2") || filepath.Ext(markdown) != ".md" {
		t.Errorf("%s: %s", markdown, text)
	}
	whole := download(`document.querySelector('[data-scope=all][data-export=json]').click()`)

	q := visitor(t).open(s.url)
	q.wait(canType)
	put := func(file string) {
		t.Helper()
		q.run(chromedp.SetUploadFiles(chromedp.CSS("#import-file"), []string{file}, chromedp.NodeReady))
	}
	put(whole)
	q.wait(lastBot + `.startsWith('answer 2 ') && ` + versions(1) + ` === '‹2/2›' && document.getElementById('notice').innerText === '已导入 1 个会话'`)
	q.wait(`document.querySelector('#conversations .current .title').textContent === 'to keep'`)
	bad := filepath.Join(t.TempDir(), "bad.json")
	for text, says := range map[string]string{"[1]": "这不是导出的", `{"a": 1}`: "format"} {
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		put(bad)
		q.wait(`document.getElementById('notice').innerText.startsWith('导入失败') && document.getElementById('notice').innerText.includes('` + says + `')`)
	}
}
