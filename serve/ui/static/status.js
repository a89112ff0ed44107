// The model's state: loading, ready, failed, or a server that does not answer.
import { json } from './api.js';
import { text } from './texts.js';

const $ = (id) => document.getElementById(id);

// server is api/status; its state is "away" while the server does not answer, null before the first answer.
export let server = null;

// hooks: ready() when the model can be asked, changed() after every look.
let hooks = {};
let timer;

export function start(h) {
  hooks = h;
  watch();
}

async function watch() {
  clearTimeout(timer);
  let wait = 1000;
  try {
    const was = server?.state;
    server = await json('GET', 'api/status');
    draw();
    if (server.state === 'ready' && was !== 'ready') hooks.ready(was);
    if (server.state !== 'loading') wait = 15000;
  } catch {
    showBar(text('unreachable'));
    server = server && { ...server, state: 'away' };
    hooks.changed();
  }
  clearTimeout(timer); // of another look in the meantime
  timer = setTimeout(watch, wait);
}

// look asks at once: something else found the server away, or back.
export const look = watch;

export function draw() {
  if (!server) return;
  const { state, total, done, percent, error } = server;
  if (state === 'away') {
    showBar(text('unreachable'));
  } else if (state === 'loading') {
    showBar(total > 0 ? text('loadingBytes', { percent: Math.floor(percent), done: bytes(done), total: bytes(total) }) : text('loading'),
      total > 0 ? percent : undefined);
  } else if (state === 'failed') {
    showBar(text('failed', { error: error || text('unknownError') }));
  } else {
    $('model-loading').hidden = true;
  }
  const { model, version } = server;
  const name = model.scout ? 'Llama-4-Scout' : model.display || model.name;
  $('heading').textContent = document.title = text('heading', { name });
  $('built-with').hidden = !model.llama;
  $('version').textContent = version ? `chulengo ${version.split(',')[0]}` : '';
  hooks.changed();
}

const bytes = (n) => (n >= 1 << 30 ? `${(n / (1 << 30)).toFixed(1)} GiB` : `${Math.round(n / (1 << 20))} MiB`);

function showBar(message, percent) {
  $('model-loading').hidden = false;
  $('model-loading-text').textContent = message;
  $('model-loading-bar').hidden = percent === undefined;
  $('model-loading-bar').value = percent ?? 0;
}
