// Exports, which the browser downloads, and imports of them.
import { conversationPath, json } from './api.js';
import { language, text } from './texts.js';
import { notify } from './notice.js';

const $ = (id) => document.getElementById(id);
const limit = 16 << 20; // bytes that the server takes

// start makes the controls work. chat() is the id of the conversation on the page; imported(list) is called with the
// conversations that came.
export function start({ chat, imported }) {
  for (const link of document.querySelectorAll('[data-export]')) {
    link.addEventListener('click', () => {
      const path = link.dataset.scope === 'all' ? 'api' : conversationPath(chat());
      link.href = `${path}/export?format=${link.dataset.export}&lang=${language()}`;
      link.closest('details')?.removeAttribute('open');
    });
  }
  $('import-btn').addEventListener('click', () => $('import-file').click());
  $('import-file').addEventListener('change', async () => {
    const [file] = $('import-file').files;
    $('import-file').value = '';
    if (file) imported(await take(file));
  });
}

async function take(file) {
  if (file.size > limit) {
    notify(text('importTooLarge', { size: Math.ceil(file.size / (1 << 20)), limit: limit >> 20 }), true);
    return [];
  }
  let content;
  try {
    content = JSON.parse(await file.text());
    if (content === null || typeof content !== 'object' || Array.isArray(content)) throw new Error('no object');
  } catch {
    notify(text('importNotOurs'), true);
    return [];
  }
  try {
    const { imported, conversations, skipped } = await json('POST', 'api/import', content);
    if (skipped.length === 0) notify(text('imported', { count: imported }));
    else notify(text('importedSome', { count: imported, skipped: skipped.length, why: skipped[0].error }), true);
    return conversations;
  } catch (e) {
    notify(text('importFailed') + e.message, true);
    return [];
  }
}
