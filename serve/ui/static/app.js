// The chat page: wiring of its parts, and the controls. See ui.go for the other modules.
import * as texts from './texts.js';
import * as conversations from './conversations.js';
import * as chat from './chat.js';
import * as keys from './keys.js';
import * as numbers from './numbers.js';
import * as pictures from './pictures.js';
import * as settings from './settings.js';
import * as status from './status.js';
import * as transfer from './transfer.js';
import { Message, start as startMessages, composing, noteComposition } from './messages.js';
import { notify } from './notice.js';

const { text } = texts;
const { state } = chat;
const $ = (id) => document.getElementById(id);
const input = $('user-input');
const form = $('composer');

// ---- what can be done now

// enable follows the tutorial: nothing can be typed until the model is there, and while it answers.
function enable() {
  const ready = status.server?.state === 'ready';
  const busy = state.run !== null;
  input.disabled = !ready || busy;
  $('send-btn').disabled = !ready || busy;
  $('clear-btn').disabled = !ready;
  pictures.enable(ready && !busy, Boolean(status.server?.model?.vision));
  $('send-btn').hidden = busy;
  $('stop-btn').hidden = !busy;
  $('loading').hidden = !busy;
  document.body.classList.toggle('idle', ready && !busy);
  $('chat-container').setAttribute('aria-busy', String(busy));
  if ($('chat-id').textContent !== state.chat) entered();
}

// entered is called when another conversation is on the page.
function entered() {
  $('chat-id').textContent = state.chat;
  remember(state.chat);
  conversations.select(state.chat);
  typed(draft());
  pictures.enter(state.chat);
}

function welcome() {
  const model = status.server?.model;
  if (!model) return;
  const key = model.scout ? 'welcomeScout' : model.demo ? 'welcomeDemo' : 'welcome';
  const message = new Message({ role: 'assistant', content: text(key, { name: model.display || model.name }) });
  message.foot.replaceChildren();
  if (!model.demo) return;
  for (const question of text('tries')) {
    const b = document.createElement('button');
    b.type = 'button';
    b.className = 'try';
    b.textContent = question;
    b.addEventListener('click', () => {
      if (input.disabled) return;
      input.value = question;
      form.requestSubmit();
    });
    message.foot.append(b);
  }
}

// ---- the input

form.addEventListener('submit', (e) => {
  e.preventDefault();
  const question = input.value.trim();
  if ((!question && !pictures.any()) || input.disabled) return;
  typed('');
  chat.ask(question, {}, pictures.take());
});

input.addEventListener('compositionend', noteComposition);
input.addEventListener('keydown', (e) => {
  if (e.key !== 'Enter' || e.shiftKey || e.ctrlKey || e.altKey || e.metaKey || composing(e)) return;
  e.preventDefault();
  form.requestSubmit();
});
input.addEventListener('input', () => typed(input.value));

// typed puts a text into the input, makes the input as high as its text, and keeps the text over a reload.
function typed(value) {
  if (input.value !== value) input.value = value;
  input.style.height = 'auto';
  input.style.height = `${Math.min(input.scrollHeight + 2, 200)}px`;
  try {
    if (value) sessionStorage.setItem(`chulengo.draft.${state.chat}`, value);
    else sessionStorage.removeItem(`chulengo.draft.${state.chat}`);
  } catch { /* private mode */ }
}

function draft() {
  try { return sessionStorage.getItem(`chulengo.draft.${state.chat}`) || ''; } catch { return ''; }
}

// ---- conversations

function newChat() {
  chat.show(newID(), true);
  closeSidebar();
  input.focus();
}

// newID is a random UUID. crypto.randomUUID exists only in secure contexts, which a LAN name over http is not.
function newID() {
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6] & 0x0f) | 0x40;
  b[8] = (b[8] & 0x3f) | 0x80;
  const hex = Array.from(b, (x) => x.toString(16).padStart(2, '0')).join('');
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, '$1-$2-$3-$4-$5');
}

// Each tab keeps its own conversation over a reload. The first one takes the id that the server gave.
function remember(chat) {
  try { sessionStorage.setItem('chulengo.chat', chat); } catch { /* private mode */ }
}

function firstChat() {
  const given = $('chat-id').textContent;
  try {
    const mine = sessionStorage.getItem('chulengo.chat');
    if (mine) return mine;
    if (localStorage.getItem('chulengo.first') === given) return newID();
    localStorage.setItem('chulengo.first', given);
  } catch { /* private mode */ }
  return given;
}

// ---- controls

document.addEventListener('keydown', (e) => {
  if (e.key !== 'Escape' || e.isComposing || e.keyCode === 229 || document.querySelector('dialog[open]')) return;
  const menu = document.querySelector('details.menu[open]');
  if (menu) {
    menu.open = false;
    menu.querySelector('summary').focus();
  } else if (document.body.classList.contains('sidebar-open')) closeSidebar();
  else chat.stop();
});
$('stop-btn').addEventListener('click', chat.stop);
$('new-chat').addEventListener('click', newChat);
$('clear-btn').addEventListener('click', chat.clear);

function openSettings(open) {
  $('settings-content').hidden = !open;
  $('settings-toggle').setAttribute('aria-expanded', String(open));
  $('settings-mark').textContent = open ? '▲' : '▼';
}
$('settings-toggle').addEventListener('click', () => openSettings($('settings-content').hidden));

const narrow = () => matchMedia('(max-width: 760px)').matches;

function openSidebar() {
  document.body.classList.add('sidebar-open');
  $('shade').hidden = false;
  $('sidebar-open').setAttribute('aria-expanded', 'true');
  document.querySelector('main').inert = narrow();
  $('sidebar-close').focus();
}
function closeSidebar() {
  if (!document.body.classList.contains('sidebar-open')) return;
  document.body.classList.remove('sidebar-open');
  $('shade').hidden = true;
  document.querySelector('main').inert = false;
  $('sidebar-open').setAttribute('aria-expanded', 'false');
  $('sidebar-open').focus();
}
$('sidebar-open').addEventListener('click', openSidebar);
$('sidebar-close').addEventListener('click', closeSidebar);
$('shade').addEventListener('click', closeSidebar);

for (const b of document.querySelectorAll('[data-close]')) b.addEventListener('click', () => b.closest('dialog').close());
for (const d of document.querySelectorAll('dialog')) {
  d.addEventListener('pointerdown', (e) => { // beside it
    const r = d.getBoundingClientRect();
    if (e.target === d && (e.clientX < r.left || e.clientX > r.right || e.clientY < r.top || e.clientY > r.bottom)) d.close();
  });
}

// A menu closes when something else is pressed or has the focus.
for (const menu of document.querySelectorAll('details.menu')) {
  for (const event of ['pointerdown', 'focusin']) document.addEventListener(event, (e) => { if (!menu.contains(e.target)) menu.open = false; });
}

for (const b of document.querySelectorAll('[data-lang]')) {
  b.addEventListener('click', () => {
    texts.setLanguage(b.dataset.lang);
    texts.apply();
    status.draw();
    settings.relabel();
    numbers.relabel();
    if (state.fresh) chat.show(state.chat, true);
    else chat.relabel();
    conversations.draw();
  });
}

// A phone that slept, or a page from the browser's cache, may have lost its connection without a word.
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState !== 'visible') return;
  conversations.refresh();
  status.look();
});
window.addEventListener('pageshow', (e) => { if (e.persisted) location.reload(); });

conversations.start({
  open: (id) => { closeSidebar(); if (id !== state.chat) chat.show(id); },
  find: (id, message) => { closeSidebar(); chat.find(id, message); },
  removed: (id) => { if (id === state.chat) newChat(); },
  failed: (e) => notify(e.message, true),
});
startMessages({ regenerate: chat.regenerate, edit: chat.edit, choose: chat.choose, picture: chat.picturePath });
chat.start({
  changed: enable,
  settings: settings.fields,
  listed: conversations.refresh,
  welcome,
  progress: (what) => {
    numbers.progress(what);
    if (what.lost) status.look();
  },
  numbers: numbers.numbers,
  typed,
});
keys.start({
  newChat,
  search: () => {
    if (narrow()) openSidebar();
    $('search').focus();
    $('search').select();
  },
  settingsTitle: settings.open,
});
settings.start();
transfer.start({
  chat: () => state.chat,
  imported: (list) => {
    conversations.refresh();
    if (list.length === 1) chat.show(list[0].id);
  },
});
texts.apply();
const first = firstChat();
$('chat-id').textContent = '';
chat.show(first);
conversations.refresh();
status.start({
  changed: () => {
    enable();
    if (state.fresh && !document.querySelector('.message')) welcome();
  },
  ready: (was) => {
    openSettings(true);
    if (was === 'away' && !state.run) chat.show(state.chat);
    if (matchMedia('(pointer: fine)').matches) input.focus();
  },
});
