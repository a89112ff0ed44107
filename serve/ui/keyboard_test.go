package ui_test

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"chulengo/serve"
)

func TestShortcuts(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	p := visitor(t).open(s.url + "?lang=en")
	press := func(key string, modifiers ...chromedp.Modifier) {
		t.Helper()
		p.run(chromedp.KeyEvent(key, chromedp.KeyModifiers(modifiers...)))
	}
	focused := func(id string) {
		t.Helper()
		p.wait(`document.activeElement.id === '` + id + `'`)
	}
	p.ask("one")
	p.answered()
	p.wait(`document.querySelector('.edit')`)
	press("k", chromedp.ModifierCtrl)
	focused("search")
	press("/") // it is typed there
	p.is(`document.activeElement.value === '/'`)
	press("\u001b")
	p.do(`document.activeElement.blur()`)
	press("/")
	focused("user-input")
	p.do(`document.activeElement.value = ''`) // the protocol types what a keyboard would not: its key was taken
	press("?")
	p.is(`document.activeElement.value === '?' && !document.getElementById('keys-dialog').open`)
	press(kb.ArrowUp) // not in the midst of a text
	p.is(`!document.querySelector('.edit-area')`)
	p.do(`document.activeElement.value = ''`)
	press(kb.ArrowUp)
	p.wait(`document.activeElement.className === 'edit-area' && document.activeElement.value === 'one'`)
	press("\u001b")
	press(kb.ArrowUp, chromedp.ModifierAlt) // from the question: there is nothing before it
	press(kb.ArrowDown, chromedp.ModifierAlt)
	p.wait(`document.activeElement.classList.contains('bot-message') && document.activeElement.getAttribute('aria-label') === 'Assistant'`)
	press(kb.ArrowUp, chromedp.ModifierAlt)
	p.wait(`document.activeElement.classList.contains('user-message')`)
	press("?")
	p.wait(`document.getElementById('keys-dialog').open && document.getElementById('keys').innerText.includes('Ctrl + K')`)
	press("\u001b")
	p.wait(`!document.getElementById('keys-dialog').open`)
	press(",", chromedp.ModifierCtrl)
	p.wait(`document.getElementById('settings-dialog').open && document.getElementById('settings-dialog').contains(document.activeElement)`)
	press("\u001b")
	press("O", chromedp.ModifierCtrl, chromedp.ModifierShift)
	p.wait(`document.querySelectorAll('.user-message').length === 0`)
	focused("user-input")
}
