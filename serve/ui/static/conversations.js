// The list of this browser's conversations, and the search in them.
import { json, request, conversationPath } from './api.js';
import { text } from './texts.js';
import { announce } from './notice.js';

const list = document.getElementById('conversations');
const field = document.getElementById('search');
const none = document.getElementById('no-conversations');

let items = [];
let current = '';
let words = '';    // what is searched for; "": all are listed
let handlers = {}; // open(id), find(id, message), removed(id), failed(error)
let asked = 0;     // counts requests: an answer that was overtaken is dropped
let timer;

export function start(h) {
  handlers = h;
  field.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(search, field.value.trim() ? 200 : 0);
  });
  field.addEventListener('keydown', (e) => {
    if (e.isComposing || e.keyCode === 229) return;
    if (e.key === 'Escape' && field.value) {
      e.stopPropagation();
      field.value = '';
      search();
    } else if (e.key === 'ArrowDown' || e.key === 'Enter') {
      e.preventDefault();
      list.querySelector('.open')?.focus();
    }
  });
  // Up and down go through the list.
  list.addEventListener('keydown', (e) => {
    const rows = [...list.querySelectorAll('.open')];
    const at = rows.indexOf(document.activeElement);
    if (at < 0 || (e.key !== 'ArrowDown' && e.key !== 'ArrowUp')) return;
    e.preventDefault();
    (rows[at + (e.key === 'ArrowDown' ? 1 : -1)] ?? (at === 0 ? field : rows[at])).focus();
  });
}

async function search() {
  words = field.value.trim();
  await refresh();
  if (words) announce(text('foundCount', { count: items.length }));
}

export async function refresh() {
  const mine = ++asked;
  const sought = words;
  try {
    const found = (await json('GET', `api/conversations${sought ? `?q=${encodeURIComponent(sought.slice(0, 200))}` : ''}`)).conversations;
    if (mine !== asked) return;
    items = found;
  } catch {
    return; // the status line says when the server is away
  }
  draw();
}

export function select(id) {
  current = id;
  draw();
}

export function draw() {
  if (list.querySelector('input')) return; // a title is being written
  const focused = list.contains(document.activeElement) ? document.activeElement.closest('li').dataset.id : '';
  list.replaceChildren(...items.map(row));
  none.hidden = items.length > 0 || !words;
  if (focused) [...list.children].find((li) => li.dataset.id === focused)?.querySelector('.open').focus();
}

function row(item) {
  const li = document.createElement('li');
  li.dataset.id = item.id;
  const title = item.title || text('untitled');
  const open = document.createElement('button');
  open.type = 'button';
  open.className = 'open';
  const name = document.createElement('span');
  name.className = 'title';
  name.append(...marked(title));
  open.append(name);
  open.title = `${title}\n${new Date(item.updated_at).toLocaleString(document.documentElement.lang)}`;
  if (item.snippet) {
    const snippet = document.createElement('span');
    snippet.className = 'snippet';
    snippet.append(...marked(item.snippet));
    open.append(snippet);
  }
  if (item.id === current) {
    li.className = 'current';
    open.setAttribute('aria-current', 'true');
  }
  open.addEventListener('click', () => {
    if (words && item.message) handlers.find(item.id, item.message);
    else handlers.open(item.id);
  });
  li.append(open, tool('✎', 'rename', title, () => rename(li, item)), tool('✕', 'remove', title, () => remove(item, title)));
  return li;
}

// marked are the nodes of a text in which the words that were searched for stand out.
function marked(whole) {
  if (!words) return [whole];
  const pattern = words.split(/\s+/).map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|');
  return whole.split(new RegExp(`(${pattern})`, 'gi')).map((part, i) => {
    if (i % 2 === 0) return part;
    const mark = document.createElement('mark');
    mark.textContent = part;
    return mark;
  });
}

function tool(mark, key, title, act) {
  const b = document.createElement('button');
  b.type = 'button';
  b.className = `icon ${key}`;
  b.textContent = mark;
  b.title = text(key);
  b.setAttribute('aria-label', `${text(key)}: ${title}`);
  b.addEventListener('click', act);
  return b;
}

// rename puts an input in the row's place: Enter and leaving it keep, Esc does not.
function rename(li, item) {
  const input = document.createElement('input');
  input.value = item.title;
  input.maxLength = 200;
  input.setAttribute('aria-label', text('rename'));
  li.replaceChildren(input);
  input.focus();
  input.select();
  let over = false;
  const end = async (keep) => {
    if (over) return;
    over = true;
    if (keep && input.value.trim() !== item.title) {
      try {
        await request('PATCH', conversationPath(item.id), { title: input.value.trim() });
      } catch (e) {
        handlers.failed(e);
      }
    }
    const back = document.activeElement === input;
    li.replaceChildren();
    await refresh();
    draw();
    if (back) [...list.children].find((row) => row.dataset.id === item.id)?.querySelector('.rename').focus();
  };
  input.addEventListener('keydown', (e) => {
    if (e.isComposing || e.keyCode === 229) return;
    if (e.key === 'Enter') end(true);
    if (e.key === 'Escape') {
      e.stopPropagation();
      end(false);
    }
  });
  input.addEventListener('blur', () => end(true));
}

async function remove(item, title) {
  if (!confirm(text('removeAsk', { title }))) return;
  try {
    await request('DELETE', conversationPath(item.id));
    handlers.removed(item.id);
  } catch (e) {
    handlers.failed(e);
  }
  refresh();
}
