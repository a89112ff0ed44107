// Formulas in Markdown: \( \), \[ \], $ $, $$ $$, and LaTeX's environments on lines of their own.

const inlineRules = [
  [/^\\\(((?:(?!\n\s*\n)[\s\S])+?)\\\)/, false],
  [/^\\\[((?:(?!\n\s*\n)[\s\S])+?)\\\]/, true],
  [/^\$\$((?:\\[^\n]|[^$\\]|\n(?!\s*\n))+?)\$\$/, true],
  // Prices are not formulas, nor is code: no space inside the signs, no word after them, no backtick between.
  [/^\$(?!\s)((?:\\[^\n]|[^$\\`\n])*(?:\\[^\n]|[^$\\`\s]))\$(?!\w)/, false],
];

const environment = String.raw`\\begin\{(?<name>(?:equation|align|alignat|gather|multline|cases|matrix|[bpvV]matrix|CD)\*?)\}(?:(?!\n\s*\n)[\s\S])+?\\end\{\k<name>\}`;
const blockRules = [
  /^ {0,3}\$\$((?:(?!\n\s*\n|\$\$)[\s\S])+?)\$\$[ \t]*(?:\n+|$)/,
  /^ {0,3}\\\[((?:(?!\n\s*\n)[\s\S])+?)\\\][ \t]*(?:\n+|$)/,
];
const environmentRule = new RegExp(`^ {0,3}(${environment})[ \\t]*(?:\\n+|$)`);

// extensions make marked know formulas; escape makes a text safe in HTML.
export function extensions(escape) {
  const renderer = ({ tex, display, raw }) =>
    `<span data-math="${display ? 'display' : 'inline'}" data-raw="${escape(raw.trim())}">${escape(tex)}</span>`;
  return [
    {
      name: 'formulaBlock', level: 'block', renderer,
      start: (src) => src.match(/^ {0,3}(?:\$\$|\\\[|\\begin\{)/m)?.index,
      tokenizer(src) {
        for (const rule of blockRules) {
          const found = rule.exec(src);
          if (found) return { type: 'formulaBlock', raw: found[0], tex: found[1], display: true };
        }
        const found = environmentRule.exec(src);
        return found ? { type: 'formulaBlock', raw: found[0], tex: found[1], display: true } : undefined;
      },
    },
    {
      name: 'formula', level: 'inline', renderer,
      start: (src) => src.match(/\\[([]|\$/)?.index,
      tokenizer(src) {
        for (const [rule, display] of inlineRules) {
          const found = rule.exec(src);
          if (found) return { type: 'formula', raw: found[0], tex: found[1], display };
        }
        return undefined;
      },
    },
  ];
}

// typeset turns the formulas under an element from TeX into what is read. KaTeX builds nodes rather than HTML, so that
// no style needs an exception in the page's policy. What it does not know is shown as it was written.
export function typeset(nodes) {
  for (const span of nodes.querySelectorAll('[data-math]')) {
    const { math, raw } = span.dataset;
    try {
      katex.render(span.textContent, span, { displayMode: math === 'display', throwOnError: true, strict: false, trust: false, maxSize: 40, maxExpand: 300 });
    } catch (e) {
      const code = document.createElement('code');
      code.textContent = raw;
      code.title = e.message;
      span.replaceChildren(code);
    }
    delete span.dataset.raw;
  }
}
