// The conversation on the page: asking, answering, stopping, and the versions of its messages.
import { json, request, events, conversationPath, Failure } from './api.js';
import { text } from './texts.js';
import { announce, notify } from './notice.js';
import { Message, empty, shown, removeFrom, forgetFailures } from './messages.js';
import * as pictures from './pictures.js';

const $ = (id) => document.getElementById(id);
const input = $('user-input');
const utf8 = new TextEncoder();

export const state = {
  chat: '',     // id of the conversation on the page
  run: null,    // {chat, message, stopped} while an answer is being written
  fresh: true,  // nothing was said yet: the welcome stands there
};

// hooks connect the chat to the rest of the page: changed() after whatever the controls depend on, settings() for a
// request's fields, listed() when the list of conversations may have changed, welcome() for an empty conversation,
// progress(what) and numbers(what) while an answer comes, typed(text) to put a text back into the input.
let hooks = {};

export function start(h) { hooks = h; }

const focusInput = () => { if (matchMedia('(pointer: fine)').matches && !document.querySelector('dialog[open]')) input.focus(); };

// ---- asking

// ask asks a question; with place.parent (an answer's id, or null for a first question) under that message, in place of
// the question that the page shows there, instead of at the end. images are data: addresses, or ids of pictures in the
// conversation.
export function ask(question, place = {}, images = []) {
  if (state.run) return;
  forgetFailures();
  if (state.fresh) empty();
  state.fresh = false;
  const from = 'parent' in place && shown().find((m) => m.role === 'user' && (m.facts.parent ?? null) === place.parent);
  if (from) removeFrom(from);
  const asked = new Message({ role: 'user', content: question, pictures: images });
  const body = { user_input: question };
  if (images.length) body.images = images;
  if ('parent' in place) body.parent = place.parent;
  const again = () => {
    if (state.run) return;
    if (input.value === question) hooks.typed('');
    if (images.length) pictures.take();
    ask(question, place, images);
  };
  answer(() => generate(body), {
    again,
    branch: Boolean(from),
    failed: () => {
      asked.fails();
      if (!from && !input.value) hooks.typed(question);
      if (!from) pictures.put(images);
    },
    lost: () => from && new Message({ role: 'user', content: question, pictures: images }).fails(), // nothing that was typed is lost
  });
}

// regenerate answers the question of an answer again.
export function regenerate(message) {
  if (state.run) return;
  forgetFailures();
  const { id } = message.facts;
  removeFrom(message);
  answer(() => generate({ regenerate: id }), { again: () => !state.run && answerAgain(id), branch: true });
}

// answerAgain is regenerate for a message that is no longer where it was.
function answerAgain(id) {
  const message = shown().find((m) => m.facts.id === id);
  if (message?.role === 'user') {
    const next = shown()[shown().indexOf(message) + 1];
    if (next) removeFrom(next);
    forgetFailures();
    answer(() => generate({ regenerate: id }), { again: () => !state.run && answerAgain(id), branch: true });
  } else if (message) regenerate(message);
}

export function edit(message, question) {
  if (state.run) return;
  ask(question, { parent: message.facts.parent ?? null }, message.facts.pictures ?? []);
}

export const picturePath = (id) => `${conversationPath(state.chat)}/pictures/${id}`;

function generate(fields) {
  return request('POST', 'api/generate', { ...hooks.settings(), ...fields, chat_id: state.chat, stream: true, detach: true, progress: true });
}

// ---- answering

// answer shows the answer that open() streams, and takes it up again when the connection is lost: the server goes on
// writing it, whatever happens to the page. after.failed() is called when it fails, after.again() to ask once more.
// after.branch: the page shows less than the conversation has; a failure brings that back, and after.lost() adds what
// would be lost by it.
async function answer(open, after = {}) {
  const { chat } = state;
  const message = new Message({ role: 'assistant' });
  message.element.classList.add('waiting');
  const run = { chat, message, stopped: false };
  state.run = run;
  hooks.progress({});
  hooks.changed();
  const here = () => state.run === run;
  const fail = async (problem) => {
    after.failed?.();
    if (after.branch) { // the conversation still has what was to be replaced
      state.run = null;
      await show(chat);
      if (state.chat !== chat || document.querySelector('.failed')) return;
      after.lost?.();
      new Message({ role: 'assistant' }).fail(problem, after.again);
      return;
    }
    message.fail(problem, after.again);
  };
  try {
    let response = await open();
    for (let tries = 0; here(); ) {
      const before = message.content.length;
      const end = response && await read(response, message, here);
      if (!here()) return;
      if (end?.error) {
        await fail(text('error') + end.error);
        return;
      }
      if (end?.done) {
        message.finish({ content: end.response, finish_reason: end.finish_reason, id: end.message_id, parent: end.question_id, numbers: end.numbers });
        hooks.numbers(end.numbers);
        announce(text('answered', { text: end.response }));
        state.run = null;
        await sync(chat);
        return;
      }
      tries = message.content.length > before ? 0 : tries + 1;
      if (tries > 0 || !response) hooks.progress({ lost: true });
      await new Promise((wake) => setTimeout(wake, Math.min(500 * 2 ** tries, 10000)));
      if (!here()) return;
      try {
        response = await request('GET', `${conversationPath(chat)}/stream?progress=1&from=${utf8.encode(message.content).length}`);
        if (response.status === 204) { // it ended while the page was away
          state.run = null;
          await show(chat);
          return;
        }
        hooks.progress({});
      } catch (e) {
        if (e.status === 400 || e.status === 404) {
          state.run = null;
          await show(chat);
          return;
        }
        response = null;
        hooks.progress({ lost: true });
      }
    }
  } catch (e) {
    if (!here()) return;
    if (e.status === 409) { // another tab asked first: show its answer
      state.run = null;
      await show(chat);
      after.failed?.();
      return;
    }
    if (e.status === 0) hooks.progress({ lost: true });
    await fail(e instanceof Failure && e.status > 0 ? text('error') + e.message : text('happened') + e.message);
  } finally {
    message.element.classList.remove('waiting');
    if (here()) state.run = null;
    if (!state.run && state.chat === chat) {
      hooks.changed();
      focusInput();
    }
    hooks.listed();
  }
}

// read takes events until the end; undefined means that the connection was lost.
async function read(response, message, here) {
  let end; // the stream is read to its own end after it, so that the connection can be used again
  try {
    for await (const event of events(response)) {
      if (!here()) return undefined;
      if (event.delta) {
        message.element.classList.remove('waiting');
        message.add(event.delta);
        hooks.progress({ writing: true });
      } else if (event.progress) {
        hooks.progress(event.progress);
      } else if (event.numbers && !event.done) {
        hooks.numbers(event.numbers, true);
      } else if (event.done || event.error) {
        end = event;
      }
    }
  } catch { /* lost */ }
  return end;
}

export async function stop() {
  const { run } = state;
  if (!run || run.stopped) return;
  run.stopped = true;
  try {
    await request('POST', 'api/stop', { chat_id: run.chat });
  } catch (e) {
    run.stopped = false;
    notify(e.message, true);
  }
}

// ---- what the server has

// sync brings the ids and versions of what the page shows up to date; if it shows something else than the server has,
// it is drawn anew.
async function sync(chat) {
  let c;
  try {
    c = await json('GET', conversationPath(chat));
  } catch {
    return; // the next question brings it
  }
  if (state.chat !== chat || state.run) return;
  const list = shown();
  const same = list.length === c.messages.length && list.every((m, i) => m.role === c.messages[i].role && m.content === c.messages[i].content);
  if (same && !c.running) list.forEach((m, i) => m.update(c.messages[i]));
  else draw(c);
}

// draw shows a conversation as the server gave it; an answer that is being written goes on there.
function draw(c) {
  empty();
  if (c.messages.length === 0 && !c.running && !c.failure) {
    welcome();
    return;
  }
  state.fresh = false;
  for (const m of c.messages) new Message(m);
  hooks.numbers(c.messages.findLast((m) => m.numbers)?.numbers);
  if (c.failure && !c.running) showFailure(c);
  if (c.running) answer(() => request('GET', `${conversationPath(c.id)}/stream?progress=1&from=0`), { again: () => show(c.id) });
}

// showFailure tells of a question that was asked before the page was opened, and got no answer.
function showFailure({ id: chat, messages, failure }) {
  const asked = messages.find((m) => m.role === 'user' && m.content === failure.content && (m.parent ?? null) === (failure.parent ?? null));
  if (!asked) new Message({ role: 'user', content: failure.content, pictures: failure.pictures ?? [] }).fails();
  new Message({ role: 'assistant' }).fail(text('error') + failure.error, () => {
    if (state.run) return;
    if (input.value === failure.content) hooks.typed('');
    if (asked) answerAgain(asked.id);
    else ask(failure.content, { parent: failure.parent ?? null }, failure.pictures ?? []);
  }, async () => {
    try {
      await request('DELETE', `${conversationPath(chat)}/failure`);
      forgetFailures();
      if (shown().length === 0) welcome();
    } catch (e) {
      notify(e.message, true);
    }
  });
}

function welcome() {
  empty();
  state.fresh = true;
  hooks.numbers();
  hooks.welcome();
}

// show brings a conversation onto the page; isNew: the server does not know it yet.
export async function show(chat, isNew = false) {
  state.run = null;
  state.chat = chat;
  hooks.changed();
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
    if (e.status !== 404) new Message({ role: 'assistant' }).fail(text('happened') + e.message, () => show(chat));
    return;
  }
  if (state.chat === chat) draw(c);
}

// relabel writes the texts of the messages' buttons in the page's language.
export function relabel() {
  for (const m of shown()) m.update({});
}

// choose makes the version id of a message the active one. The focus stays on the arrow (key) that was pressed.
export async function choose(message, id, key) {
  if (state.run || !id) return;
  const { chat } = state;
  const at = shown().indexOf(message);
  try {
    const c = await json('PUT', `${conversationPath(chat)}/branch`, { message: id });
    if (state.chat !== chat || state.run) return;
    const top = message.element.getBoundingClientRect().top;
    draw(c);
    const now = shown()[at];
    if (!now) return;
    now.keepAt(top);
    const arrows = [...now.foot.querySelectorAll('.versions button')];
    (arrows.find((b) => b.classList.contains(key) && !b.disabled) || arrows.find((b) => !b.disabled))?.focus({ preventScroll: true });
    announce(text('versionShown', { at: now.facts.siblings.indexOf(now.facts.id) + 1, of: now.facts.siblings.length }));
  } catch (e) {
    notify(e.message, true);
  }
}

// find shows a message of a conversation, whichever branch it is on.
export async function find(chat, id) {
  if (state.chat !== chat) await show(chat);
  if (state.chat !== chat) return;
  const here = () => shown().find((m) => m.facts.id === id);
  if (!here() && !state.run) {
    try {
      draw(await json('PUT', `${conversationPath(chat)}/branch`, { message: id }));
    } catch (e) {
      notify(e.message, true);
    }
  }
  here()?.reveal();
}

// clear forgets all that was said.
export async function clear() {
  try {
    const r = await json('POST', 'api/clear_history', { chat_id: state.chat });
    if (!r.success) {
      notify(text('clearFailed') + (r.error || text('unknownError')), true);
      return;
    }
    state.run = null;
    hooks.changed();
    welcome();
    hooks.listed();
  } catch (e) {
    notify((e.status > 0 ? text('clearFailed') : text('clearError')) + e.message, true);
  }
}
