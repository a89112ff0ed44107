// Markdown that grows: an answer is cut into its blocks, and only the blocks that changed are drawn again, so that what
// a reader has selected stays selected, and a long answer does not slow the page.
import { copyButton } from './copy.js';
import { extensions, typeset } from './maths.js';

// HTML in an answer is shown as what was written.
const parser = new marked.Marked({
  gfm: true, breaks: true, async: false, extensions: extensions(escape),
  renderer: {
    html: ({ text: raw }) => escape(raw),
    code: ({ text: raw, lang }) => `<pre data-language="${escape((lang || '').split(/\s/)[0])}"><code>${escape(raw)}</code></pre>`,
  },
});

function escape(raw) {
  const span = document.createElement('span');
  span.textContent = raw;
  return span.innerHTML.replaceAll('"', '&quot;');
}

export class Markdown {
  constructor(element) {
    this.element = element;
    this.blocks = []; // {raw, whole, nodes}
  }

  // draw shows a text. Until it is whole, its last block may still change and is drawn without what takes time.
  draw(content, whole) {
    const tokens = content ? parser.lexer(content) : [];
    // A link's address may come after the link: then blocks with the same text can look different.
    const links = JSON.stringify(tokens.links ?? {});
    const same = links === this.links;
    this.links = links;
    let kept = 0;
    while (same && kept < tokens.length && kept < this.blocks.length && this.blocks[kept].raw === tokens[kept].raw &&
      (this.blocks[kept].whole || !whole && kept === tokens.length - 1)) kept++;
    for (const block of this.blocks.splice(kept)) for (const node of block.nodes) node.remove();
    if (kept === 0) this.element.replaceChildren();
    for (let i = kept; i < tokens.length; i++) {
      const done = whole || i < tokens.length - 1;
      const fragment = render(tokens[i], done);
      this.blocks.push({ raw: tokens[i].raw, whole: done, nodes: [...fragment.childNodes] });
      this.element.append(fragment);
    }
  }
}

// render turns one block into nodes. DOMPurify decides what may be in them; pictures are left out, because the only ones
// a text model can name lie on other hosts.
function render(token, whole) {
  const nodes = DOMPurify.sanitize(parser.parser([token]), {
    RETURN_DOM_FRAGMENT: true,
    FORBID_TAGS: ['img', 'style', 'form', 'input', 'button', 'textarea', 'select', 'video', 'audio', 'svg', 'math'],
    FORBID_ATTR: ['style', 'id', 'name', 'class'],
    ADD_ATTR: ['start'],
  });
  for (const link of nodes.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow';
  }
  typeset(nodes);
  for (const code of nodes.querySelectorAll('pre > code')) frameCode(code, whole);
  for (const table of nodes.querySelectorAll('table')) {
    const frame = document.createElement('div');
    frame.className = 'table';
    frame.tabIndex = 0; // it scrolls
    table.replaceWith(frame);
    frame.append(table);
  }
  return nodes;
}

// frameCode puts a line with language and copy button above a code block, and colours what is whole.
function frameCode(code, whole) {
  const pre = code.parentElement;
  const plain = code.textContent;
  const language = hljs.getLanguage(pre.dataset.language || '') ? pre.dataset.language : '';
  const label = document.createElement('span');
  label.textContent = pre.dataset.language || '';
  if (whole && plain.length < 50000) {
    const found = language ? hljs.highlight(plain, { language, ignoreIllegals: true }) : hljs.highlightAuto(plain);
    code.innerHTML = DOMPurify.sanitize(found.value, { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'] });
  }
  const frame = document.createElement('div');
  frame.className = 'code';
  const head = document.createElement('div');
  head.className = 'code-head';
  head.append(label, copyButton(() => plain));
  pre.tabIndex = 0; // it scrolls
  pre.replaceWith(frame);
  frame.append(head, pre);
}
