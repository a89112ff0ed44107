// What a question is asked with: bounds, system prompt, sampling, and presets of them. The server keeps it for the
// browser session.
import { json, request } from './api.js';
import { text } from './texts.js';
import { notify } from './notice.js';

const $ = (id) => document.getElementById(id);

// The sliders of the tutorial's page.
const bounds = {
  max_new_tokens: { slider: $('max-tokens-slider'), value: $('max-tokens-value'), otherwise: 1024 },
  max_history_length: { slider: $('history-length-slider'), value: $('history-length-value'), otherwise: 10 },
};

// Ranges of the sliders; the number beside one takes what the server takes (low to high), or nothing: the model's
// default, which neutral stands for while it is not known.
const sampling = {
  temperature: { min: 0, max: 2, step: 0.05, low: 0, high: 100, neutral: 1 },
  top_p: { min: 0, max: 1, step: 0.01, low: 0, high: 1, neutral: 1 },
  top_k: { min: 0, max: 200, step: 1, low: 0, high: 1 << 20, neutral: 0 },
  min_p: { min: 0, max: 1, step: 0.01, low: 0, high: 1, neutral: 0 },
  repetition_penalty: { min: 0.8, max: 2, step: 0.01, low: 0.01, high: 100, neutral: 1 },
  frequency_penalty: { min: -2, max: 2, step: 0.1, low: -2, high: 2, neutral: 0 },
  presence_penalty: { min: -2, max: 2, step: 0.1, low: -2, high: 2, neutral: 0 },
  seed: { step: 1, low: 0, high: 2 ** 53 },
};

const builtIn = [
  { key: 'presetBalanced', values: {} },
  { key: 'presetPrecise', values: { temperature: 0.3, top_p: 0.9 } },
  { key: 'presetCreative', values: { temperature: 1, top_p: 1, min_p: 0.05 } },
  { key: 'presetGreedy', values: { temperature: 0 } },
];

let values = {};  // by name; what is not there is the default
let presets = []; // the reader's own: {name, values}
const rows = {};  // by name of a sampling field: {number, slider}

// fields are the part of a request that settings decide.
export function fields() {
  const all = {};
  for (const [name, { otherwise }] of Object.entries(bounds)) all[name] = values[name] ?? otherwise;
  for (const name of Object.keys(sampling)) if (name in values) all[name] = values[name];
  if (values.system) all.system = values.system;
  return all;
}

// ---- kept on the server

let timer;
let unsaved = false;

function changed() {
  show();
  unsaved = true;
  clearTimeout(timer);
  timer = setTimeout(save, 400);
}

async function save() {
  clearTimeout(timer);
  if (!unsaved) return;
  unsaved = false;
  try {
    await request('PUT', 'api/settings', { settings: { version: 1, values, presets } }, { keepalive: true });
  } catch (e) {
    unsaved = true; // with the next change, or when the page is left
    if (e.status !== 401) notify(text('settingsFailed') + e.message, true);
  }
}

// load takes what the server has, unless there is something newer here.
export async function load() {
  try {
    const { settings } = await json('GET', 'api/settings');
    if (unsaved || !settings) return;
    values = checked(settings.values);
    presets = (Array.isArray(settings.presets) ? settings.presets : []).filter((p) => typeof p?.name === 'string')
      .map((p) => ({ name: p.name, values: checked(p.values) }));
    show();
  } catch { /* the status line says when the server is away */ }
}

// checked keeps what this page knows of an object that another version of it may have written.
function checked(given) {
  const good = {};
  for (const [name, v] of Object.entries(given ?? {})) {
    if (name === 'system' ? typeof v === 'string' : (name in bounds || name in sampling) && Number.isFinite(v)) good[name] = v;
  }
  return good;
}

addEventListener('pagehide', save);
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') load();
  else save();
});

// ---- controls

function set(name, value) {
  if (value === undefined || value === '') delete values[name];
  else values[name] = value;
  changed();
}

function show() {
  for (const [name, b] of Object.entries(bounds)) b.value.textContent = b.slider.value = values[name] ?? b.otherwise;
  if (document.activeElement !== $('system-prompt')) $('system-prompt').value = values.system ?? '';
  for (const [name, { number, slider }] of Object.entries(rows)) {
    if (document.activeElement !== number) number.value = values[name] ?? '';
    if (!slider) continue;
    slider.value = values[name] ?? sampling[name].neutral;
    slider.classList.toggle('unset', !(name in values));
    slider.setAttribute('aria-valuetext', name in values ? String(values[name]) : text('byDefault'));
  }
  showPresets();
}

function showPresets() {
  const chip = (label, help, on, act, remove) => {
    const span = document.createElement('span');
    span.className = 'chip';
    const b = document.createElement('button');
    b.type = 'button';
    b.textContent = label;
    b.title = help;
    b.setAttribute('aria-pressed', String(on));
    b.addEventListener('click', act);
    span.append(b);
    if (remove) {
      const x = document.createElement('button');
      x.type = 'button';
      x.className = 'remove-preset';
      x.textContent = '✕';
      x.setAttribute('aria-label', text('presetRemove', { name: label }));
      x.addEventListener('click', remove);
      span.append(x);
    }
    return span;
  };
  const focused = [...$('presets').querySelectorAll('button')].indexOf(document.activeElement);
  $('presets').replaceChildren(
    ...builtIn.map((p) => chip(text(p.key), text(`${p.key}Help`), Object.keys(sampling).every((k) => values[k] === p.values[k]), () => {
      for (const k of Object.keys(sampling)) delete values[k];
      Object.assign(values, p.values);
      changed();
    })),
    ...presets.map((p, i) => chip(p.name, '', same(values, p.values), () => {
      values = { ...p.values };
      changed();
    }, () => {
      presets.splice(i, 1);
      changed();
    })),
  );
  if (focused >= 0) [...$('presets').querySelectorAll('button')].at(Math.min(focused, $('presets').querySelectorAll('button').length - 1))?.focus();
}

const same = (a, b) => [...new Set([...Object.keys(a), ...Object.keys(b)])].every((k) => a[k] === b[k]);

// row makes the controls of one sampling field: what it is called, a number, a slider, and what it does.
function row(name, rule) {
  const div = document.createElement('div');
  div.className = 'sampling-row';
  const label = document.createElement('label');
  label.dataset.text = name;
  label.htmlFor = `setting-${name}`;
  const number = document.createElement('input');
  Object.assign(number, { id: `setting-${name}`, type: 'number', min: rule.low, max: rule.high, step: name === 'seed' || name === 'top_k' ? 1 : 'any' });
  number.dataset.placeholder = 'byDefault';
  number.setAttribute('aria-describedby', `help-${name}`);
  number.addEventListener('input', () => {
    if (number.checkValidity()) set(name, number.value === '' ? undefined : Number(number.value));
  });
  number.addEventListener('change', show); // what is out of range goes back
  div.append(label, number);
  rows[name] = { number };
  if (rule.min !== undefined) {
    const slider = document.createElement('input');
    Object.assign(slider, { type: 'range', min: rule.min, max: rule.max, step: rule.step });
    slider.dataset.label = name;
    slider.addEventListener('input', () => set(name, Number(slider.value)));
    rows[name].slider = slider;
    div.append(slider);
  }
  const help = document.createElement('p');
  help.className = 'help';
  help.id = `help-${name}`;
  help.dataset.text = `${name}Help`;
  div.append(help);
  return div;
}

export function start() {
  $('sampling').append(...Object.entries(sampling).map(([name, rule]) => row(name, rule)));
  for (const [name, { slider }] of Object.entries(bounds)) slider.addEventListener('input', () => set(name, Number(slider.value)));
  $('system-prompt').addEventListener('input', () => set('system', $('system-prompt').value));
  $('preset-form').addEventListener('submit', (e) => {
    e.preventDefault();
    const name = $('preset-name').value.trim();
    if (!name) return;
    presets = [...presets.filter((p) => p.name !== name), { name, values: { ...values } }];
    $('preset-name').value = '';
    changed();
    notify(text('presetSaved', { name }));
  });
  $('settings-reset').addEventListener('click', () => {
    values = {};
    changed();
  });
  $('settings-open').addEventListener('click', open);
  show();
  load();
}

export function open() {
  if (!$('settings-dialog').open) $('settings-dialog').showModal();
}

// relabel writes the texts that depend on the language and are not in the HTML.
export const relabel = show;
