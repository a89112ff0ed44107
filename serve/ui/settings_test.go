package ui_test

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"chulengo/engine"
	"chulengo/serve"
	"chulengo/serve/internal/fake"
	"chulengo/serve/ui"
)

// last is the newest request that reached the model.
func (s *server) last() engine.Request {
	list := s.backend.Requests()
	return list[len(list)-1]
}

// What is set reaches the model, is kept on the server, and comes back with presets.
func TestSettings(t *testing.T) {
	s := ready(t, serve.ModelInfo{Sampling: engine.Sampling{Temperature: 0.6, TopP: 0.9}})
	p := visitor(t).open(s.url)
	p.ask("defaults")
	p.answered()
	if got := s.last().Sampling; got.Temperature != 0.6 || got.TopP != 0.9 {
		t.Errorf("without settings: got %+v, want the model's", got)
	}
	p.run(chromedp.Click(chromedp.ID("settings-open")))
	p.wait(`document.getElementById('settings-dialog').open`)
	p.is(`document.getElementById('presets').querySelector('[aria-pressed=true]').textContent === '均衡'`)
	p.run(chromedp.SendKeys(chromedp.ID("system-prompt"), "Be a llama."))
	for _, field := range [][2]string{{"temperature", "0.25"}, {"top_p", "0.5"}, {"top_k", "7"}, {"min_p", "0.1"}, {"repetition_penalty", "1.5"},
		{"frequency_penalty", "-1"}, {"presence_penalty", "1.25"}, {"seed", "42"}} {
		p.run(chromedp.SendKeys(chromedp.ID("setting-"+field[0]), field[1]))
	}
	p.is(`document.getElementById('presets').querySelector('[aria-pressed=true]') === null`)
	p.run(chromedp.SendKeys(chromedp.ID("preset-name"), "mine\r"))
	p.wait(`document.querySelector('#presets [aria-pressed=true]')?.textContent === 'mine' && document.getElementById('notice').innerText.includes('mine')`)
	p.run(chromedp.KeyEvent("\u001b"))
	p.wait(`!document.getElementById('settings-dialog').open`)
	check := func() {
		t.Helper()
		r := s.last()
		got, want := r.Sampling, engine.Sampling{Temperature: 0.25, TopP: 0.5, TopK: 7, MinP: 0.1, RepetitionPenalty: 1.5, FrequencyPenalty: -1, PresencePenalty: 1.25, Seed: 42}
		if got.Temperature != want.Temperature || got.TopP != want.TopP || got.TopK != want.TopK || got.MinP != want.MinP || got.RepetitionPenalty != want.RepetitionPenalty ||
			got.FrequencyPenalty != want.FrequencyPenalty || got.PresencePenalty != want.PresencePenalty || got.Seed != want.Seed {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if text := fake.Text(r.Prompt); !strings.HasPrefix(text, "system: Be a llama.\n") {
			t.Errorf("the prompt begins %.40q, want the system prompt", text)
		}
	}
	p.ask("mine")
	p.answered()
	check()

	// A reset, then the preset in another tab of the same visitor.
	p.run(chromedp.Click(chromedp.ID("settings-open")), chromedp.Click(chromedp.ID("settings-reset")))
	p.is(`document.getElementById('system-prompt').value === '' && document.getElementById('setting-seed').value === ''`)
	p.do(`setInterval(async () => { window.kept = await (await fetch('api/settings')).text() }, 100)`) // it is sent a moment later
	p.wait(`window.kept?.includes('"values":{},"presets":[{"name":"mine"')`)
	q := p.another().open(s.url)
	q.wait(canType + ` && document.getElementById('presets').innerText.includes('mine')`)
	q.run(chromedp.Click(chromedp.ID("settings-open")))
	q.do(`[...document.querySelectorAll('#presets button')].find(b => b.textContent === 'mine').click()`)
	q.is(`document.getElementById('setting-top_k').value === '7' && document.getElementById('system-prompt').value === 'Be a llama.'`)
	q.do(`document.querySelector('#settings-dialog [data-close]').click()`)
	q.ask("again")
	q.answered()
	check()

	// Built-in presets change sampling alone; numbers out of range are not taken.
	q.run(chromedp.Click(chromedp.ID("settings-open")))
	q.do(`[...document.querySelectorAll('#presets button')].find(b => b.textContent === '确定').click()`)
	q.is(`document.getElementById('setting-temperature').value === '0' && document.getElementById('setting-top_k').value === '' && document.getElementById('system-prompt').value !== ''`)
	q.do(`(() => { const n = document.getElementById('setting-top_p'); n.value = '3'; n.dispatchEvent(new Event('input')); n.dispatchEvent(new Event('change')) })()`)
	q.is(`document.getElementById('setting-top_p').value === ''`)
	q.do(`document.querySelector('.remove-preset').click()`)
	q.is(`!document.getElementById('presets').innerText.includes('mine')`)
	q.do(`document.querySelector('#settings-dialog [data-close]').click()`)
	q.run(chromedp.Reload())
	q.wait(canType + ` && document.getElementById('setting-temperature').value === '0' && !document.getElementById('presets').innerText.includes('mine')`)
}

// Light and dark follow the system until the reader chooses, and the choice stays.
func TestTheme(t *testing.T) {
	s := ready(t, serve.ModelInfo{})
	p := visitor(t).open(s.url)
	theme := `document.documentElement.dataset.theme`
	p.wait(theme + ` === 'light'`)
	p.do(`document.querySelector('[data-theme-choice=dark]').click()`)
	p.is(theme + ` === 'dark' && document.querySelector('[data-theme-choice=dark]').getAttribute('aria-pressed') === 'true'`)
	p.run(chromedp.Reload())
	p.wait(theme + ` === 'dark' && getComputedStyle(document.documentElement).colorScheme === 'dark'`)
}

// Both languages have the same texts with the same names to fill in, and each is used.
func TestDictionaries(t *testing.T) {
	entry := regexp.MustCompile(`(?m)^  (\w+): (.*)$`)
	name := regexp.MustCompile(`\{\w+\}`)
	tables := map[string]map[string][]string{}
	source := ""
	files, err := fs.Glob(ui.FS, "static/*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "index.html") {
		data, err := fs.ReadFile(ui.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		if file != "static/zh.js" && file != "static/en.js" {
			source += string(data)
			continue
		}
		if found := regexp.MustCompile(`\p{Han}+`).Find(data); file == "static/en.js" && found != nil {
			t.Errorf("%s says %s", file, found)
		}
		tables[file] = map[string][]string{}
		for _, m := range entry.FindAllStringSubmatch(string(data), -1) {
			if _, twice := tables[file][m[1]]; twice {
				t.Errorf("%s has %s twice", file, m[1])
			}
			names := name.FindAllString(m[2], -1)
			slices.Sort(names)
			tables[file][m[1]] = names
		}
	}
	zh, en := tables["static/zh.js"], tables["static/en.js"]
	if len(zh) < 50 {
		t.Fatalf("only %d texts found", len(zh))
	}
	for key := range en {
		if _, ok := zh[key]; !ok {
			t.Errorf("%s is missing in Chinese", key)
		}
	}
	for key, names := range zh {
		other, ok := en[key]
		if !ok {
			t.Errorf("%s is missing in English", key)
		} else if !slices.Equal(names, other) {
			t.Errorf("%s: names %v in Chinese, %v in English", key, names, other)
		}
		// Quoted somewhere, or the name of a setting; what explains something is named after it.
		used := regexp.MustCompile(`['"]` + strings.TrimSuffix(key, "Help") + `['"]|\b` + strings.TrimSuffix(key, "Help") + `: \{`)
		if !used.MatchString(source) {
			t.Errorf("%s is not used", key)
		}
	}
}
