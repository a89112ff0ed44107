// The chat page: what it knows, and what happens when. See ui.go for the other modules.
import { json, request, events, conversationPath, Failure } from './api.js';
import * as texts from './texts.js';
import * as conversations from './conversations.js';
import { Message, empty } from './messages.js';

const { text } = texts;
const $ = (id) => document.getElementById(id);
const input = $('user-input');
const form = $('composer');

const state = {
  status: null,    // api/status
  chat: '',        // id of the conversation on the page
  answering: null, // {chat, message, stopped} while an answer is being written
  fresh: true,     // nothing was said yet: the welcome stands there
};

// ---- the model

const megabytes = (n) => (n >= 1 << 30 ? `${(n / (1 << 30)).toFixed(1)} GiB` : `${Math.round(n / (1 << 20))} MiB`);

async function watchStatus() {
  let wait = 1000;
  try {
    const was = state.status?.state;
    state.status = await json('GET', 'api/status');
    showStatus();
    if (state.status.state === 'ready' && was !== 'ready') ready();
    if (state.status.state !== 'loading') wait = 15000;
  } catch {
    showBar(text('unreachable'));
    state.status = state.status && { ...state.status, state: 'away' };
    enable();
  }
  setTimeout(watchStatus, wait);
}

function showStatus() {
  const { status } = state;
  if (status.state === 'loading') {
    const known = status.total > 0;
    showBar(known ? text('loadingBytes', { percent: Math.floor(status.percent), done: megabytes(status.done), total: megabytes(status.total) }) : text('loading'),
      known ? status.percent : undefined);
  } else if (status.state === 'failed') {
    showBar(text('failed', { error: status.error || text('unknownError') }));
  } else {
    $('model-loading').hidden = true;
  }
  showModel();
  enable();
}

function showBar(message, percent) {
  $('model-loading').hidden = false;
  $('model-loading-text').textContent = message;
  $('model-loading-bar').hidden = percent === undefined;
  $('model-loading-bar').value = percent ?? 0;
}

function showModel() {
  const { model, version } = state.status;
  const name = model.scout ? 'Llama-4-Scout' : model.display || model.name;
  $('heading').textContent = document.title = text('heading', { name });
  $('built-with').hidden = !model.llama;
  $('version').textContent = version ? `chulengo ${version.split(',')[0]}` : '';
  if (state.fresh) welcome();
}

function ready() {
  openSettings(true);
  enable();
  if (matchMedia('(pointer: fine)').matches) input.focus();
}

// enable follows the tutorial: nothing can be typed until the model is there, and while it answers.
function enable() {
  const ready = state.status?.state === 'ready';
  const busy = state.answering !== null;
  input.disabled = !ready || busy;
  $('send-btn').disabled = !ready || busy;
  $('clear-btn').disabled = !ready;
  $('send-btn').hidden = busy;
  $('stop-btn').hidden = !busy;
  $('loading').hidden = !busy;
}

function welcome() {
  empty();
  state.fresh = true;
  const model = state.status?.model;
  if (!model) return;
  const key = model.scout ? 'welcomeScout' : model.demo ? 'welcomeDemo' : 'welcome';
  const message = new Message('assistant', text(key, { name: model.display || model.name }));
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

// ---- asking and answering

const utf8 = new TextEncoder();

form.addEventListener('submit', (e) => {
  e.preventDefault();
  const question = input.value.trim();
  if (question && !input.disabled) ask(question);
});

async function ask(question) {
  const chat = state.chat;
  if (state.fresh) empty();
  state.fresh = false;
  const asked = new Message('user', question);
  input.value = '';
  fit();
  const failed = (problem) => {
    // The server keeps no question whose answer failed: it goes back to where it was typed.
    if (state.chat === chat && !input.value) input.value = question;
    fit();
    asked.element.classList.add('failed-question');
    return problem;
  };
  await answer(chat, async () => request('POST', 'api/generate', {
    user_input: question, chat_id: chat, stream: true, detach: true,
    max_new_tokens: Number($('max-tokens-slider').value), max_history_length: Number($('history-length-slider').value),
  }), failed);
}

// answer shows the answer that open() streams, and takes it up again when the connection is lost: the server goes on
// writing it, whatever happens to the page.
async function answer(chat, open, failed = (problem) => problem) {
  const message = new Message('assistant');
  message.element.classList.add('waiting');
  const run = { chat, message, stopped: false };
  state.answering = run;
  enable();
  const here = () => state.answering === run;
  try {
    let response = await open();
    for (let tries = 0; here(); ) {
      const before = message.content.length;
      const end = response && await read(response, message, here);
      if (!here()) return;
      if (end?.error) {
        message.fail(failed(text('error') + end.error));
        return;
      }
      if (end?.done) {
        message.finish(note(end.finish_reason), end.response);
        $('announce').textContent = text('answered', { text: end.response });
        return;
      }
      tries = message.content.length > before ? 0 : tries + 1;
      await new Promise((wake) => setTimeout(wake, Math.min(500 * 2 ** tries, 10000)));
      if (!here()) return;
      try {
        response = await request('GET', `${conversationPath(chat)}/stream?from=${utf8.encode(message.content).length}`);
        if (response.status === 204) { // it ended while the page was away
          await show(chat);
          return;
        }
        $('announce').textContent = '';
      } catch (e) {
        if (e.status === 400 || e.status === 404) {
          await show(chat);
          return;
        }
        response = null;
        $('announce').textContent = text('reconnecting');
      }
    }
  } catch (e) {
    if (!here()) return;
    if (e.status === 409) { // another tab asked first: show its answer
      state.answering = null;
      await show(chat);
      failed('');
      return;
    }
    message.fail(failed(e instanceof Failure && e.status > 0 ? text('error') + e.message : text('happened') + e.message));
  } finally {
    message.element.classList.remove('waiting');
    if (here()) {
      state.answering = null;
      enable();
      if (matchMedia('(pointer: fine)').matches) input.focus();
    }
    conversations.refresh();
  }
}

// read takes events until the end; undefined means that the connection was lost.
async function read(response, message, here) {
  try {
    for await (const event of events(response)) {
      if (!here()) return undefined;
      if (event.delta) {
        message.element.classList.remove('waiting');
        message.add(event.delta);
      } else if (event.done || event.error) {
        return event;
      }
    }
  } catch { /* lost */ }
  return undefined;
}

function note(reason) {
  return ['length', 'stop_requested', 'interrupted'].includes(reason) ? text(reason) : '';
}

async function stop() {
  const run = state.answering;
  if (!run || run.stopped) return;
  run.stopped = true;
  try {
    await request('POST', 'api/stop', { chat_id: run.chat });
  } catch (e) {
    run.stopped = false;
    $('announce').textContent = e.message;
  }
}

// ---- conversations

// show brings a conversation onto the page; an answer that is being written goes on there.
async function show(chat, isNew = false) {
  state.answering = null;
  state.chat = chat;
  remember(chat);
  $('chat-id').textContent = chat;
  conversations.select(chat);
  enable();
  if (isNew) {
    welcome();
    return;
  }
  let c;
  try {
    c = await json('GET', conversationPath(chat));
  } catch (e) {
    if (state.chat !== chat) return;
    welcome();
    if (e.status !== 404) new Message('assistant').fail(text('happened') + e.message);
    return;
  }
  if (state.chat !== chat) return;
  if (c.messages.length === 0 && !c.running) {
    welcome();
    return;
  }
  empty();
  state.fresh = false;
  for (const m of c.messages) new Message(m.role, m.content, note(m.finish_reason));
  if (c.running) answer(chat, () => request('GET', `${conversationPath(chat)}/stream?from=0`));
}

function newChat() {
  show(newID(), true);
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

async function clear() {
  try {
    const r = await json('POST', 'api/clear_history', { chat_id: state.chat });
    if (!r.success) {
      alert(text('clearFailed') + (r.error || text('unknownError')));
      return;
    }
    state.answering = null;
    enable();
    welcome();
    conversations.refresh();
  } catch (e) {
    alert((e.status > 0 ? text('clearFailed') : text('clearError')) + e.message);
  }
}

// ---- controls

let composed = 0; // when the input method last ended a composition

input.addEventListener('compositionend', (e) => { composed = e.timeStamp; });
input.addEventListener('keydown', (e) => {
  if (e.key !== 'Enter' || e.shiftKey || e.ctrlKey || e.altKey || e.metaKey) return;
  // Enter that accepts a candidate of the input method must not send. Safari ends the composition just before the key.
  if (e.isComposing || e.keyCode === 229 || e.timeStamp - composed < 20) return;
  e.preventDefault();
  form.requestSubmit();
});
input.addEventListener('input', fit);

// fit makes the input as high as its text.
function fit() {
  input.style.height = 'auto';
  input.style.height = `${Math.min(input.scrollHeight + 2, 200)}px`;
}

document.addEventListener('keydown', (e) => {
  if (e.key !== 'Escape' || e.isComposing || e.keyCode === 229) return;
  if (document.body.classList.contains('sidebar-open')) closeSidebar();
  else stop();
});
$('stop-btn').addEventListener('click', stop);
$('new-chat').addEventListener('click', newChat);
$('clear-btn').addEventListener('click', clear);

for (const [slider, value] of [['max-tokens-slider', 'max-tokens-value'], ['history-length-slider', 'history-length-value']]) {
  const s = $(slider);
  try { s.value = localStorage.getItem(`chulengo.${slider}`) ?? s.value; } catch { /* private mode */ }
  const showValue = () => { $(value).textContent = s.value; };
  showValue();
  s.addEventListener('input', () => {
    showValue();
    try { localStorage.setItem(`chulengo.${slider}`, s.value); } catch { /* private mode */ }
  });
}

function openSettings(open) {
  $('settings-content').hidden = !open;
  $('settings-toggle').setAttribute('aria-expanded', String(open));
  $('settings-mark').textContent = open ? '▲' : '▼';
}
$('settings-toggle').addEventListener('click', () => openSettings($('settings-content').hidden));

function openSidebar() {
  document.body.classList.add('sidebar-open');
  $('shade').hidden = false;
  $('sidebar-open').setAttribute('aria-expanded', 'true');
  $('sidebar-close').focus();
}
function closeSidebar() {
  if (!document.body.classList.contains('sidebar-open')) return;
  document.body.classList.remove('sidebar-open');
  $('shade').hidden = true;
  $('sidebar-open').setAttribute('aria-expanded', 'false');
  $('sidebar-open').focus();
}
$('sidebar-open').addEventListener('click', openSidebar);
$('sidebar-close').addEventListener('click', closeSidebar);
$('shade').addEventListener('click', closeSidebar);

for (const b of document.querySelectorAll('[data-lang]')) {
  b.addEventListener('click', () => {
    texts.setLanguage(b.dataset.lang);
    texts.apply();
    if (state.status) showStatus();
    conversations.draw();
  });
}

// A phone that slept, or a page from the browser's cache, may have lost its connection without a word.
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') conversations.refresh();
});
window.addEventListener('pageshow', (e) => { if (e.persisted) location.reload(); });

conversations.start({
  open: (id) => { closeSidebar(); if (id !== state.chat) show(id); },
  removed: (id) => { if (id === state.chat) newChat(); },
  failed: (e) => { $('announce').textContent = e.message; },
});
texts.apply();
show(firstChat());
conversations.refresh();
watchStatus();
