// Pictures that go with the next question: chosen, pasted or dropped, and shown above the input until they are sent.
import { text } from './texts.js';
import { announce, notify } from './notice.js';

const most = 16, megabytes = 32; // what the server takes with a question, of a file
const kinds = ['image/png', 'image/jpeg', 'image/gif', 'image/webp', 'image/bmp'];

const strip = document.getElementById('attached');
const button = document.getElementById('attach');
const chooser = document.getElementById('attach-file');

const kept = new Map(); // conversation → its pictures, {name, address}
let chat = '';
let able = () => true;  // the model can see
let list = [];

// enter brings the pictures of another conversation's draft.
export function enter(id) {
  if (list.length) kept.set(chat, list);
  else kept.delete(chat);
  chat = id;
  list = kept.get(id) ?? [];
  draw();
}

export const any = () => list.length > 0;

// take gives the addresses of what is there, which then is no more.
export function take() {
  const addresses = list.map((p) => p.address);
  list = [];
  draw();
  return addresses;
}

// put brings back what was taken in vain, if nothing took its place.
export function put(addresses) {
  if (any()) return;
  list = addresses.filter((address) => address.startsWith('data:')).map((address) => ({ name: '', address }));
  draw();
}

// enable shows the button where the model can see.
export function enable(ready, vision) {
  able = () => vision;
  button.hidden = !vision;
  button.disabled = !ready;
}

async function add(files) {
  if (!able()) {
    notify(text('noPictures'), true);
    return;
  }
  const to = chat;
  for (const file of files) {
    const name = file.name || text('picture');
    if (!kinds.includes(file.type)) notify(text('pictureKind', { name }), true);
    else if (file.size > megabytes * 2 ** 20) notify(text('pictureLarge', { name, size: megabytes }), true);
    else {
      const address = await read(file);
      if (to !== chat) return;
      if (!address) notify(text('pictureKind', { name }), true);
      else if (list.length >= most) notify(text('pictureCount', { n: most }), true);
      else list.push({ name, address });
    }
  }
  draw();
  announce(text('attached', { n: list.length }));
}

function read(file) {
  return new Promise((done) => {
    const reader = new FileReader();
    reader.addEventListener('load', () => done(reader.result));
    reader.addEventListener('error', () => done(''));
    reader.readAsDataURL(file);
  });
}

function draw() {
  strip.hidden = list.length === 0;
  strip.replaceChildren(...list.map((p, at) => {
    const item = document.createElement('span');
    item.setAttribute('role', 'listitem');
    const image = picture(p.address, p.name || text('picture'));
    const remove = document.createElement('button');
    remove.type = 'button';
    remove.textContent = '✕';
    remove.title = text('pictureRemove', { name: p.name || at + 1 });
    remove.setAttribute('aria-label', remove.title);
    remove.addEventListener('click', () => {
      list.splice(at, 1);
      draw();
      announce(text('attached', { n: list.length }));
      (strip.querySelectorAll('button')[at] ?? document.getElementById('user-input')).focus();
    });
    item.append(image, remove);
    return item;
  }));
}

export function picture(address, name) {
  const image = document.createElement('img');
  image.src = address;
  image.alt = name;
  return image;
}

button.addEventListener('click', () => chooser.click());
chooser.addEventListener('change', () => {
  add([...chooser.files]);
  chooser.value = '';
});
document.addEventListener('paste', (e) => {
  const files = [...(e.clipboardData?.files ?? [])];
  if (!files.length || document.querySelector('dialog[open]')) return;
  e.preventDefault();
  add(files);
});
const brings = (e) => [...(e.dataTransfer?.types ?? [])].includes('Files') && !document.querySelector('dialog[open]');
document.addEventListener('dragover', (e) => {
  if (!brings(e)) return;
  e.preventDefault();
  document.body.classList.add('dropping');
});
for (const event of ['dragleave', 'drop', 'dragend']) {
  document.addEventListener(event, (e) => { if (event !== 'dragleave' || !e.relatedTarget) document.body.classList.remove('dropping'); });
}
document.addEventListener('drop', (e) => {
  if (!brings(e)) return;
  e.preventDefault();
  add([...e.dataTransfer.files]);
});
