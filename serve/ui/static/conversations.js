// The list of this browser's conversations.
import { json, request, conversationPath } from './api.js';
import { text } from './texts.js';

const list = document.getElementById('conversations');
let items = [];
let current = '';
let handlers = {}; // open(id), removed(id), failed(error)

export function start(h) { handlers = h; }

export async function refresh() {
  try {
    items = (await json('GET', 'api/conversations')).conversations;
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
  list.replaceChildren(...items.map(row));
}

function row(item) {
  const li = document.createElement('li');
  const title = item.title || text('untitled');
  const open = document.createElement('button');
  open.type = 'button';
  open.className = 'open';
  open.textContent = title;
  open.title = title;
  if (item.id === current) {
    li.className = 'current';
    open.setAttribute('aria-current', 'true');
  }
  open.addEventListener('click', () => handlers.open(item.id));
  li.append(open, tool('✎', 'rename', title, () => rename(li, item)), tool('✕', 'remove', title, () => remove(item, title)));
  return li;
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
    await refresh();
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
