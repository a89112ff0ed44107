// Shortcuts, and the window that lists them.
import { text } from './texts.js';
import { composing, shown } from './messages.js';

const $ = (id) => document.getElementById(id);
const mac = /Mac|iPhone|iPad/.test(navigator.platform);
const command = (e) => (mac ? e.metaKey && !e.ctrlKey : e.ctrlKey && !e.metaKey) && !e.altKey;
const plain = (e) => !e.ctrlKey && !e.metaKey && !e.altKey && !typing();
const typing = () => document.activeElement.matches('textarea, select, input:not([type="range"], [type="file"])');

// shortcuts are what the window lists, in its order; those with a test are handled here, the others by what has the focus.
const shortcuts = [
  { keys: ['Enter'], key: 'keySend' },
  { keys: ['Shift', 'Enter'], key: 'keyLine' },
  { keys: ['Esc'], key: 'keyStop' },
  { keys: ['↑'], key: 'keyEdit', test: (e) => e.key === 'ArrowUp' && document.activeElement === $('user-input') && !$('user-input').value },
  { keys: ['⌘', 'Shift', 'O'], key: 'newChat', test: (e) => command(e) && e.shiftKey && e.code === 'KeyO' },
  { keys: ['⌘', 'K'], key: 'search', test: (e) => command(e) && !e.shiftKey && e.code === 'KeyK' },
  { keys: ['⌘', ','], key: 'settingsTitle', test: (e) => command(e) && e.key === ',' },
  { keys: ['Alt', '↑'], key: 'keyBefore', test: (e) => e.altKey && !e.ctrlKey && !e.metaKey && e.key === 'ArrowUp' },
  { keys: ['Alt', '↓'], key: 'keyAfter', test: (e) => e.altKey && !e.ctrlKey && !e.metaKey && e.key === 'ArrowDown' },
  { keys: ['/'], key: 'keyInput', test: (e) => e.key === '/' && plain(e) },
  { keys: ['?'], key: 'shortcuts', test: (e) => e.key === '?' && plain(e) },
];

// start listens; acts has a function for newChat, search and settingsTitle.
export function start(acts) {
  const all = {
    ...acts,
    keyEdit: () => shown().findLast((m) => m.role === 'user' && m.facts.id)?.edit(),
    keyBefore: () => step(-1),
    keyAfter: () => step(1),
    keyInput: () => $('user-input').focus(),
    shortcuts: open,
  };
  document.addEventListener('keydown', (e) => {
    if (composing(e) || e.defaultPrevented || document.querySelector('dialog[open]')) return;
    const found = shortcuts.find((s) => s.test?.(e));
    if (!found || (found.key === 'keyEdit' && !document.body.classList.contains('idle'))) return;
    e.preventDefault();
    all[found.key]();
  });
  $('keys-open').addEventListener('click', open);
}

// step moves the focus to the message before or after.
function step(by) {
  const articles = [...document.querySelectorAll('.message')];
  const at = articles.indexOf(document.activeElement.closest('.message'));
  const to = at < 0 ? (by < 0 ? articles.length - 1 : -1) : at + by;
  if (to >= articles.length || (at < 0 && by > 0)) $('user-input').focus();
  else if (to >= 0) {
    articles[to].focus();
    articles[to].scrollIntoView({ block: 'nearest' });
  }
}

function open() {
  $('keys').replaceChildren(...shortcuts.flatMap(({ keys, key }) => {
    const term = document.createElement('dt');
    term.append(...keys.flatMap((k, i) => {
      const kbd = document.createElement('kbd');
      kbd.textContent = k === '⌘' && !mac ? 'Ctrl' : k;
      return i ? [' + ', kbd] : [kbd];
    }));
    const what = document.createElement('dd');
    what.textContent = text(key);
    return [term, what];
  }));
  $('keys-dialog').showModal();
}
