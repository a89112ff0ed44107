// Messages on the page. What the model writes is Markdown, made safe before it becomes HTML; what people write is text.
import { text } from './texts.js';

const container = document.getElementById('chat-container');
const toEnd = document.getElementById('to-end');

let follow = true; // the reader is at the end: stay there

container.addEventListener('scroll', () => {
  follow = container.scrollHeight - container.scrollTop - container.clientHeight < 60;
  toEnd.hidden = follow;
});
toEnd.addEventListener('click', () => {
  follow = true;
  scrollToEnd();
});
new ResizeObserver(() => scrollToEnd()).observe(container);

function scrollToEnd() {
  if (!follow) return;
  container.scrollTop = container.scrollHeight;
  toEnd.hidden = true;
}

export function empty() {
  container.replaceChildren();
  follow = true;
}

// Message is one bubble.
export class Message {
  constructor(role, content = '', note = '') {
    this.role = role;
    this.content = content;
    this.element = document.createElement('article');
    this.element.className = `message ${role === 'user' ? 'user-message' : 'bot-message'}`;
    this.body = document.createElement('div');
    this.body.className = 'body';
    this.foot = document.createElement('div');
    this.foot.className = 'message-foot';
    this.element.append(this.body, this.foot);
    container.append(this.element);
    this.finish(note);
  }

  // add appends streamed text; the bubble is drawn at most once a frame.
  add(delta) {
    this.content += delta;
    this.foot.replaceChildren();
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw(false);
    });
  }

  // finish draws the whole message, with what can be done with it.
  finish(note = '', content = this.content) {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.content = content;
    this.draw(true);
    this.foot.replaceChildren();
    if (note) {
      const label = document.createElement('span');
      label.className = 'note';
      label.textContent = note;
      this.foot.append(label);
    }
    if (this.content) this.foot.append(copyButton(() => this.content));
  }

  fail(message) {
    this.element.classList.add('failed');
    this.element.setAttribute('role', 'alert');
    this.content = '';
    this.body.textContent = message;
    this.foot.replaceChildren();
    scrollToEnd();
  }

  remove() {
    this.element.remove();
  }

  draw(whole) {
    if (this.role === 'user') {
      this.body.textContent = this.content;
    } else {
      this.body.replaceChildren(render(this.content, whole));
    }
    scrollToEnd();
  }
}

// HTML in an answer is shown as what was written.
const parser = new marked.Marked({ gfm: true, breaks: true, async: false, renderer: { html: ({ text: raw }) => escape(raw) } });

function escape(raw) {
  const span = document.createElement('span');
  span.textContent = raw;
  return span.innerHTML;
}

// render turns Markdown into nodes. DOMPurify decides what may be in them; pictures are left out, because the only ones
// a text model can name lie on other hosts.
function render(markdown, whole) {
  const nodes = DOMPurify.sanitize(parser.parse(markdown), {
    RETURN_DOM_FRAGMENT: true,
    FORBID_TAGS: ['img', 'style', 'form', 'input', 'button', 'textarea', 'select', 'video', 'audio', 'svg', 'math'],
    FORBID_ATTR: ['style', 'id', 'name', 'class'],
    ADD_ATTR: ['start'],
  });
  for (const link of nodes.querySelectorAll('a')) {
    link.target = '_blank';
    link.rel = 'noopener noreferrer nofollow';
  }
  if (whole) {
    for (const code of nodes.querySelectorAll('pre > code')) {
      if (code.textContent.length < 50000) {
        const found = hljs.highlightAuto(code.textContent);
        code.innerHTML = DOMPurify.sanitize(found.value, { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'] });
      }
      const plain = code.textContent;
      code.parentElement.append(copyButton(() => plain));
    }
  }
  for (const table of nodes.querySelectorAll('table')) {
    const frame = document.createElement('div');
    frame.className = 'table';
    table.replaceWith(frame);
    frame.append(table);
  }
  return nodes;
}

function copyButton(content) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'copy';
  button.textContent = text('copy');
  button.addEventListener('click', async () => {
    button.textContent = text((await copy(content())) ? 'copied' : 'copyFailed');
    setTimeout(() => { button.textContent = text('copy'); }, 1500);
  });
  return button;
}

// copy works over plain http at a LAN name too, where navigator.clipboard does not exist.
async function copy(content) {
  if (navigator.clipboard && isSecureContext) {
    try {
      await navigator.clipboard.writeText(content);
      return true;
    } catch { /* refused: try the older way */ }
  }
  const area = document.createElement('textarea');
  area.value = content;
  area.className = 'unseen';
  document.body.append(area);
  const before = document.activeElement;
  area.select();
  const ok = document.execCommand('copy');
  area.remove();
  before?.focus();
  return ok;
}
