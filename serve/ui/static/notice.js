// What the page says beside the messages: to everybody in a line that goes away, to screen readers politely.
const announcer = document.getElementById('announce');
const line = document.getElementById('notice');
let timer;

export function announce(message) { announcer.textContent = message; }

// notify shows a sentence for a while. It is a status for screen readers too.
export function notify(message, bad = false) {
  clearTimeout(timer);
  (document.querySelector('dialog[open]') ?? document.querySelector('main')).append(line); // not behind a window
  line.textContent = message;
  line.classList.toggle('bad', bad);
  line.hidden = false;
  timer = setTimeout(() => { line.hidden = true; }, bad ? 9000 : 5000);
}
