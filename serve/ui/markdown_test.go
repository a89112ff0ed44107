package ui_test

import (
	"strings"
	"testing"

	"chulengo/serve"
)

// answersAs opens a page on which the model has answered with a text, streamed in small pieces.
func answersAs(t *testing.T, text string) *tab {
	t.Helper()
	s := ready(t, serve.ModelInfo{})
	s.backend.Script = func(string) ([]string, error) {
		var pieces []string
		for runes := []rune(text); len(runes) > 0; {
			n := min(3, len(runes))
			pieces, runes = append(pieces, string(runes[:n])), runes[n:]
		}
		return pieces, nil
	}
	p := visitor(t).open(s.url)
	p.do(`window.refused = []; document.addEventListener('securitypolicyviolation', e => window.refused.push(e.violatedDirective + ' ' + e.blockedURI))`)
	p.ask("show")
	p.answered()
	return p
}

// Formulas are set in every way that models write them; prices and code are left alone; wrong ones stay readable.
func TestMaths(t *testing.T) {
	p := answersAs(t, strings.Join([]string{
		`Inline \(a^2 + b^2 = c^2\) and $e^{i\pi} = -1$, then $$\int_0^1 x\,dx$$ inside.`,
		"\\[\n\\sum_{n=1}^\\infty \\frac{1}{n^2} = \\frac{\\pi^2}{6}\n\\]",
		"$$\n\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}\n$$",
		"\\begin{align}\nx &= 1 \\\\\ny &= 2\n\\end{align}",
		"It costs $5, or $6 with milk; `$x$` is code.",
		"Wrong: $\\nosuchmacro{x}$ and $\\frac{1$.",
		"- in a list: $\\alpha$\n\n| table |\n|---|\n| $\\beta$ |",
		`<span data-math="inline">\(\href{javascript:alert(1)}{x}\)</span> $\href{javascript:alert(1)}{y}$`,
	}, "\n\n"))
	p.is(`document.querySelectorAll('.bot-message .katex-display').length === 4`)
	for _, formula := range []string{`a^2 + b^2 = c^2`, `e^{i\\pi} = -1`, `\\int_0^1 x\\,dx`, `\\alpha`, `\\beta`} {
		p.is(`[...document.querySelectorAll('annotation')].some(a => a.textContent === '` + formula + `')`)
	}
	p.is(lastBot + `.includes('It costs $5, or $6 with milk; $x$ is code.')`)
	p.is(`[...document.querySelectorAll('[data-math] > code')].map(c => c.textContent).join('|').includes('$\\nosuchmacro{x}$') || [...document.querySelectorAll('.katex')].some(k => k.textContent.includes('nosuchmacro'))`)
	p.is(lastBot + `.includes('$\\frac{1$')`)
	p.is(`![...document.querySelectorAll('.message a')].some(a => a.href.startsWith('javascript'))`)
	p.is(`window.refused.length === 0 || (console.log(window.refused), false)`)
	p.wait(`[...document.fonts].some(f => f.family === 'KaTeX_Main' && f.status === 'loaded') && document.fonts.status === 'loaded'`)
}

// Code has its language, colours, and a button that copies it alone; drawing while it grows changes nothing.
func TestCode(t *testing.T) {
	p := answersAs(t, "Before.\n\n```go\nfunc main() { println(\"你好\") }\n```\n\n1. one\n   ```python\n   print(1)\n   ```\n\n```\nplain < text\n```\n\nAfter [a][1].\n\n[1]: /there")
	p.is(`[...document.querySelectorAll('.code-head > span')].map(e => e.textContent).join() === 'go,python,'`)
	p.is(`document.querySelector('pre code .hljs-keyword').textContent === 'func' && document.querySelector('ol .code .hljs-built_in').textContent === 'print'`)
	p.is(`[...document.querySelectorAll('pre code')].at(-1).textContent.trim() === 'plain < text' && document.querySelector('.message p a').getAttribute('href') === '/there'`)
	p.is(`document.querySelectorAll('.bot-message .body > *').length === 5`)
	p.do(`document.addEventListener('copy', () => { window.copied = document.activeElement.value }); Object.defineProperty(navigator, 'clipboard', { value: undefined })`)
	p.do(`document.querySelector('.code .copy').click()`)
	p.wait(`window.copied.trim() === 'func main() { println("你好") }'`)
}
