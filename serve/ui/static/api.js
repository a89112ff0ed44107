// The server's routes. URLs are relative: the page may lie under any path.
import { language, text } from './texts.js';

// Failure is an error with a text for people; status 0 means that the server was not reached.
export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function request(method, path, body, more = {}) {
  const options = { ...more, method, headers: { 'Accept-Language': language() } };
  if (body !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify({ ...body, lang: language() });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Failure(0, text('unreachable'));
  }
  if (response.ok) return response;
  let message = text('serverError');
  try {
    const told = await response.json();
    message = told.error || message;
    if (told.login) location.reload(); // the server's form stands where the page stood
  } catch { /* not ours: a proxy's page */ }
  throw new Failure(response.status, message);
}

export async function json(method, path, body) {
  return (await request(method, path, body)).json();
}

export const conversationPath = (id) => `api/conversations/${encodeURIComponent(id)}`;

// silence is how long a stream may say nothing: the server sends a comment every 15 seconds, so it is gone by then. A
// connection that died while a phone slept gives no error.
const silence = 40000;

// events yields the objects of a server-sent event stream. Network chunks may end anywhere, inside a character too.
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      let timer;
      const { done, value } = await Promise.race([
        reader.read(),
        new Promise((_, lost) => { timer = setTimeout(() => lost(new Error('silence')), silence); }),
      ]).finally(() => clearTimeout(timer));
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('data:')) yield JSON.parse(line.slice(5));
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
