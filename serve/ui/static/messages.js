// Messages on the page: what they show, and what can be done with them. What the model writes is Markdown, made safe
// before it becomes HTML; what people write is text.
import { text } from './texts.js';
import { Markdown } from './markdown.js';
import { copyButton } from './copy.js';
import { picture } from './pictures.js';
import { summary } from './numbers.js';

const container = document.getElementById('chat-container');
const toEnd = document.getElementById('to-end');

let follow = true; // the reader is at the end: stay there
let list = [];     // the messages, the oldest first

// handlers are what the buttons of a message do: regenerate(message), edit(message, text), choose(message, id); and
// picture(id) is the address of a picture.
let handlers = {};

export function start(h) { handlers = h; }

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
  list = [];
  follow = true;
}

// shown are the messages on the page that the conversation has or will have: neither welcome nor failure.
export const shown = () => list.filter((m) => !m.failed);

// removeFrom takes a message and all after it off the page.
export function removeFrom(message) {
  const at = list.indexOf(message);
  for (const m of list.splice(at < 0 ? list.length : at)) m.element.remove();
}

// forgetFailures takes off what was asked in vain.
export function forgetFailures() {
  for (const m of list.filter((m) => m.failed)) m.remove();
}

// Message is one bubble. facts are a message as the server gives it: role, content, id, parent, siblings,
// finish_reason, numbers.
export class Message {
  constructor(facts) {
    this.facts = { content: '', siblings: [], ...facts };
    this.element = document.createElement('article');
    this.element.className = `message ${this.role === 'user' ? 'user-message' : 'bot-message'}`;
    this.element.tabIndex = -1; // shortcuts go from one to the next
    this.body = document.createElement('div');
    this.body.className = 'body';
    this.foot = document.createElement('div');
    this.foot.className = 'message-foot';
    this.pictures = document.createElement('div');
    this.pictures.className = 'pictures';
    this.element.append(this.pictures, this.body, this.foot);
    this.markdown = new Markdown(this.body);
    container.append(this.element);
    list.push(this);
    this.finish();
  }

  get role() { return this.facts.role; }
  get content() { return this.facts.content; }

  // add appends streamed text; the bubble is drawn at most once a frame.
  add(delta) {
    this.facts.content += delta;
    this.foot.replaceChildren();
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw(false);
    });
  }

  // finish draws the whole message, with what can be done with it.
  finish(facts = {}) {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    Object.assign(this.facts, facts);
    this.draw(true);
    this.tools();
  }

  // update takes what the server knows of the message; its text stays.
  update(facts) {
    Object.assign(this.facts, facts);
    if (!this.editing) this.tools();
  }

  tools() {
    const { finish_reason: reason, id, siblings } = this.facts;
    this.element.setAttribute('aria-label', text(this.role === 'user' ? 'you' : 'assistant'));
    this.showPictures();
    this.foot.replaceChildren();
    if (siblings.length > 1 && id) this.foot.append(this.versions(siblings, siblings.indexOf(id)));
    if (['length', 'stop_requested', 'interrupted'].includes(reason)) {
      const note = document.createElement('span');
      note.className = 'note';
      note.textContent = text(reason);
      this.foot.append(note);
    }
    if (this.content) this.foot.append(copyButton(() => this.content));
    if (id && this.role === 'user') this.foot.append(tool('edit', () => this.edit()));
    if (id && this.role === 'assistant') this.foot.append(tool('regenerate', () => handlers.regenerate(this)));
    if (this.facts.numbers?.tokens > 0) this.foot.append(summary(this.facts.numbers));
  }

  // showPictures shows what a question came with: files until the server has them, then its own, which open in full size.
  showPictures() {
    const list = this.facts.pictures ?? [];
    this.pictures.hidden = list.length === 0;
    if (this.pictured === list.join()) return;
    this.pictured = list.join();
    this.pictures.replaceChildren(...list.map((p, at) => {
      const name = text('pictureOf', { at: at + 1, of: list.length });
      if (p.startsWith('data:')) return picture(p, name);
      const link = document.createElement('a');
      link.href = handlers.picture(p);
      link.target = '_blank';
      link.rel = 'noopener';
      link.append(picture(link.href, name));
      return link;
    }));
  }

  // versions is ‹ 2/3 ›.
  versions(ids, at) {
    const group = document.createElement('span');
    group.className = 'versions';
    group.setAttribute('role', 'group');
    group.setAttribute('aria-label', text('versions'));
    const count = document.createElement('span');
    count.textContent = `${at + 1}/${ids.length}`;
    const step = (mark, key, to) => {
      const b = tool(key, () => handlers.choose(this, ids[to], key));
      b.textContent = mark;
      b.title = text(key);
      b.setAttribute('aria-label', `${text(key)} (${at + 1}/${ids.length})`);
      b.disabled = to < 0 || to >= ids.length;
      return b;
    };
    group.append(step('‹', 'versionBefore', at - 1), count, step('›', 'versionAfter', at + 1));
    return group;
  }

  // edit puts an input in the question's place. Enter sends it as another version, Esc leaves all as it was.
  edit() {
    if (this.editing || this.role !== 'user') return;
    this.editing = true;
    const area = document.createElement('textarea');
    area.value = this.content;
    area.className = 'edit-area';
    area.setAttribute('aria-label', text('edit'));
    const fit = () => {
      area.style.height = 'auto';
      area.style.height = `${Math.min(area.scrollHeight + 2, 400)}px`;
    };
    const end = (send) => {
      const changed = area.value.trim();
      if (send && !changed) return;
      this.editing = false;
      this.element.classList.remove('editing');
      this.finish();
      if (send) handlers.edit(this, changed);
      else this.foot.querySelector('.edit')?.focus();
    };
    area.addEventListener('input', fit);
    area.addEventListener('keydown', (e) => {
      if (composing(e)) return;
      if (e.key === 'Escape') {
        e.stopPropagation();
        end(false);
      } else if (e.key === 'Enter' && !e.shiftKey) {
        e.preventDefault();
        end(true);
      }
    });
    area.addEventListener('compositionend', noteComposition);
    this.element.classList.add('editing');
    this.body.replaceChildren(area);
    const send = tool('send', () => end(true));
    send.classList.add('primary');
    this.foot.replaceChildren(tool('cancel', () => end(false)), send);
    fit();
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  // fail shows an error in the message's place; again, if it is there, asks once more, and dismiss forgets it.
  fail(problem, again, dismiss) {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.failed = true;
    this.facts.content = '';
    this.element.classList.add('failed');
    this.body.setAttribute('role', 'alert');
    this.body.textContent = problem;
    this.foot.replaceChildren();
    if (again) this.foot.append(tool('tryAgain', again));
    if (dismiss) this.foot.append(tool('dismiss', dismiss));
    scrollToEnd();
  }

  // fails marks a question whose answer failed.
  fails() {
    this.failed = true;
    this.element.classList.add('failed-question');
    this.tools();
  }

  remove() {
    list = list.filter((m) => m !== this);
    this.element.remove();
  }

  // reveal brings the message into sight and makes it stand out for a moment.
  reveal() {
    follow = false;
    this.element.scrollIntoView({ block: 'center' });
    this.element.classList.add('found');
    setTimeout(() => this.element.classList.remove('found'), 2500);
  }

  // keepAt scrolls so that the message's upper edge is at top, in pixels of the window.
  keepAt(top) {
    follow = false;
    container.scrollTop += this.element.getBoundingClientRect().top - top;
  }

  draw(whole) {
    if (this.role === 'user') this.body.textContent = this.content;
    else this.markdown.draw(this.content, whole);
    scrollToEnd();
  }
}

let composed = 0; // when an input method last ended a composition

export function noteComposition(e) { composed = e.timeStamp; }

// composing tells keys that belong to an input method: Enter that accepts a candidate must not send. Safari ends the
// composition just before the key.
export const composing = (e) => e.isComposing || e.keyCode === 229 || e.timeStamp - composed < 20;

function tool(key, act) {
  const b = document.createElement('button');
  b.type = 'button';
  b.className = `tool ${key}`;
  b.textContent = text(key);
  b.addEventListener('click', act);
  return b;
}
