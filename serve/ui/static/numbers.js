// What an answer waits for, what it took, and how full the context is.
import { text } from './texts.js';

const $ = (id) => document.getElementById(id);

const whole = (n) => Math.round(n).toLocaleString(document.documentElement.lang);
const seconds = (ms) => (ms < 9950 ? (ms / 1000).toFixed(ms < 995 ? 2 : 1) : whole(ms / 1000));
const perSecond = (n) => (n < 99.5 ? n.toFixed(1) : whole(n));

// progress shows what a running answer does: {queue, prompt, cached, read} as the server tells it, {lost} while the
// connection is, {writing} when it has begun.
export function progress({ lost, writing, queue, prompt, cached, read }) {
  const bar = $('reading');
  const done = Math.max(read ?? 0, cached ?? 0); // what came from the cache need not be read
  const reading = !writing && queue === 0 && done < prompt;
  bar.hidden = !reading;
  let says = text('answering');
  if (lost) says = text('reconnecting');
  else if (queue > 0) says = text('queued', { count: queue });
  else if (reading) {
    says = text('readingPrompt');
    bar.max = prompt;
    bar.value = done;
    bar.title = text('readTokens', { done: whole(done), all: whole(prompt) });
    bar.setAttribute('aria-label', bar.title);
  }
  if ($('loading-text').textContent !== says) $('loading-text').textContent = says; // it is read aloud
  if (!writing) $('speed').textContent = reading ? `${Math.floor(100 * done / prompt)}%` : '';
}

let latest; // the numbers shown

// numbers shows those of a running answer, or of the last one; nothing without any.
export function numbers(n, running = false) {
  latest = n;
  if (running && n?.tokens_per_second > 0) $('speed').textContent = text('speed', { rate: perSecond(n.tokens_per_second), tokens: whole(n.tokens) });
  const known = n?.context > 0;
  $('context').hidden = !known;
  if (!known) return;
  const share = n.context_used / n.context;
  $('context-gauge').value = Math.min(share, 1);
  $('context').classList.toggle('full', share > 0.85);
  $('context-text').textContent = text('contextUsed', { used: whole(n.context_used), all: whole(n.context), percent: Math.round(100 * share) });
  $('context').title = text('contextHelp');
}

export const relabel = () => numbers(latest);

// summary is a span that tells what an answer took: the most interesting in short, the rest when asked.
export function summary(n) {
  const details = document.createElement('details');
  details.className = 'numbers';
  const short = document.createElement('summary');
  const parts = [text('tokens', { count: whole(n.tokens) })];
  if (n.tokens_per_second > 0) parts.unshift(text('rate', { rate: perSecond(n.tokens_per_second) }));
  if (n.ttft_ms > 0) parts.push(text('firstToken', { seconds: seconds(n.ttft_ms) }));
  short.textContent = parts.join(' · ');
  const list = document.createElement('dl');
  for (const [key, value] of [
    ['numberPrompt', n.cached_tokens > 0 ? text('ofWhichCached', { count: whole(n.prompt_tokens), cached: whole(n.cached_tokens) }) : whole(n.prompt_tokens)],
    ['numberTokens', whole(n.tokens)],
    ['numberQueue', text('inSeconds', { seconds: seconds(n.queue_ms) })],
    ['numberFirst', text('inSeconds', { seconds: seconds(n.ttft_ms) })],
    ['numberTotal', text('inSeconds', { seconds: seconds(n.total_ms) })],
    ['numberContext', n.context > 0 ? `${whole(n.context_used)} / ${whole(n.context)}` : whole(n.context_used)],
  ]) {
    const term = document.createElement('dt');
    term.textContent = text(key);
    const fact = document.createElement('dd');
    fact.textContent = value;
    list.append(term, fact);
  }
  details.append(short, list);
  return details;
}
