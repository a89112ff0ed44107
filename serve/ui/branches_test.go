package ui_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"chulengo/serve"
)

// counted answers "answer 1 to …", "answer 2 to …": what was asked last, and how often the model was asked.
func counted() func(string) ([]string, error) {
	n := 0
	return func(prompt string) ([]string, error) {
		n++
		lines := strings.Split(strings.TrimSpace(prompt), "\n")
		return []string{fmt.Sprintf("answer %d to %s of %d", n, strings.TrimPrefix(lines[len(lines)-1], "user: "), len(lines))}, nil
	}
}

const bodies = `[...document.querySelectorAll('.message .body')].map(e => e.innerText).join('|')`

func versions(at int) string {
	return fmt.Sprintf(`[...document.querySelectorAll('.message')][%d].querySelector('.versions')?.innerText.replace(/\s/g, '')`, at)
}

// Questions and answers have versions: each stands with what followed it.
func TestVersions(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Script = counted()
	p := visitor(t).open(s.url)
	p.ask("one")
	p.answered()
	p.ask("two")
	p.answered()
	p.wait(`document.querySelectorAll('.regenerate').length === 2`)
	p.is(`!document.querySelector('.versions')`)

	// Regenerating the first answer leaves the second round on its own branch.
	p.do(`document.querySelectorAll('.regenerate')[0].click()`)
	p.answered()
	p.wait(bodies + ` === 'one|answer 3 to one of 1' && ` + versions(1) + ` === '‹2/2›'`)
	p.do(`document.querySelector('.versionBefore').click()`)
	p.wait(bodies + ` === 'one|answer 1 to one of 1|two|answer 2 to two of 3' && ` + versions(1) + ` === '‹1/2›'`)
	p.is(`document.activeElement.classList.contains('versionAfter') && document.querySelector('.versionBefore').disabled`)

	// Editing the second question: Esc leaves it, Enter sends it.
	edit := `document.querySelectorAll('.user-message .edit')[1].click()`
	p.do(edit)
	p.wait(`document.activeElement.value === 'two'`)
	p.run(chromedp.SendKeys(chromedp.CSS(".edit-area"), " changed"), chromedp.KeyEvent("\u001b"))
	p.is(`!document.querySelector('.edit-area') && ` + lastUser + ` === 'two' && document.activeElement.classList.contains('edit')`)
	p.do(edit)
	p.run(chromedp.SendKeys(chromedp.CSS(".edit-area"), " changed\r"))
	p.answered()
	changed := bodies + ` === 'one|answer 1 to one of 1|two changed|answer 4 to two changed of 3' && ` + versions(2) + ` === '‹2/2›'`
	p.wait(changed)
	p.run(chromedp.Reload())
	p.wait(canType + ` && ` + changed)

	// The first question can be edited too; the versions of the second are found again.
	p.do(`document.querySelectorAll('.user-message .edit')[0].click()`)
	p.run(chromedp.SendKeys(chromedp.CSS(".edit-area"), "!\r"))
	p.answered()
	p.wait(bodies + ` === 'one!|answer 5 to one! of 1' && ` + versions(0) + ` === '‹2/2›'`)
	p.do(`document.querySelector('.versionBefore').click()`)
	p.wait(changed)

	// Nothing of this can be done while an answer is written.
	s.backend.Hold = make(chan struct{})
	p.ask("three")
	p.is(`[...document.querySelectorAll('.edit, .regenerate, .versions button')].every(e => getComputedStyle(e).visibility === 'hidden')`)
	s.say(1)
	p.answered()
}

// A version whose answer fails takes nothing away: what it was to replace is there again, and what was typed is too.
func TestFailedVersions(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	s.backend.Script = counted()
	p := visitor(t).open(s.url)
	p.ask("one")
	p.answered()
	s.backend.Script = func(string) ([]string, error) { return []string{"half"}, fmt.Errorf("no") }
	p.wait(`document.querySelector('.regenerate')`)
	p.do(`document.querySelector('.regenerate').click()`)
	p.wait(stopping + ` && document.querySelector('.failed')`)
	p.wait(bodies + `.startsWith('one|answer 1 to one of 1|错误: ')`)
	p.do(`document.querySelector('.user-message .edit').click()`)
	p.run(chromedp.SendKeys(chromedp.CSS(".edit-area"), " more\r"))
	p.wait(stopping + ` && document.querySelector('.failed-question')`)
	p.wait(bodies + `.startsWith('one|answer 1 to one of 1|one more|错误: ')`)
	s.backend.Script = counted()
	p.do(`document.querySelector('.tryAgain').click()`)
	p.answered()
	p.wait(bodies + ` === 'one more|answer 1 to one more of 1' && ` + versions(0) + ` === '‹2/2›'`)
}
