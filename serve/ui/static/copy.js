// Copying to the clipboard.
import { text } from './texts.js';

// copyButton copies what content() gives when it is pressed.
export function copyButton(content) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'tool copy';
  button.textContent = text('copy');
  button.addEventListener('click', async () => {
    button.textContent = text((await copy(content())) ? 'copied' : 'copyFailed');
    setTimeout(() => { button.textContent = text('copy'); }, 1500);
  });
  return button;
}

// copy works over plain http at a LAN name too, where navigator.clipboard does not exist.
async function copy(content) {
  if (navigator.clipboard && isSecureContext) {
    try {
      await navigator.clipboard.writeText(content);
      return true;
    } catch { /* refused: try the older way */ }
  }
  const area = document.createElement('textarea');
  area.value = content;
  area.className = 'unseen';
  document.body.append(area);
  const before = document.activeElement;
  area.select();
  const ok = document.execCommand('copy');
  area.remove();
  before?.focus();
  return ok;
}
