// Texts in the reader's language. zh.js and en.js have the same keys.
import zh from './zh.js';
import en from './en.js';

const table = { zh, en };

let current = choose();

// choose takes ?lang=, else what was chosen before. Chinese comes first: the page's users come from a Chinese tutorial.
function choose() {
  const asked = new URLSearchParams(location.search).get('lang') || stored();
  return asked && asked.toLowerCase().startsWith('en') ? 'en' : 'zh';
}

function stored() {
  try { return localStorage.getItem('chulengo.lang'); } catch { return null; }
}

export function language() { return current; }

export function setLanguage(lang) {
  current = lang in table ? lang : 'zh';
  try { localStorage.setItem('chulengo.lang', current); } catch { /* private mode: for this page only */ }
}

export function text(key, values = {}) {
  const raw = table[current][key];
  return typeof raw === 'string' ? raw.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? '') : raw;
}

// apply writes the texts that the HTML names.
export function apply() {
  document.documentElement.lang = current === 'zh' ? 'zh-CN' : 'en';
  for (const e of document.querySelectorAll('[data-text]')) e.textContent = text(e.dataset.text);
  for (const e of document.querySelectorAll('[data-placeholder]')) e.placeholder = text(e.dataset.placeholder);
  for (const e of document.querySelectorAll('[data-title]')) e.title = text(e.dataset.title);
  for (const e of document.querySelectorAll('[data-label]')) {
    e.setAttribute('aria-label', text(e.dataset.label));
    if (e.tagName === 'BUTTON' || e.tagName === 'SUMMARY') e.title = text(e.dataset.label);
  }
  for (const b of document.querySelectorAll('[data-lang]')) b.setAttribute('aria-pressed', String(b.dataset.lang === current));
}
