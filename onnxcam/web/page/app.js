// The page: pictures from a file, a drop or the camera; the newest answer is drawn over the picture it belongs to.

import {blend, toPicture} from './pixels.js';

const by = name => document.getElementById(name);
const LONGEST = 1280; // of the canvas, in pixels

// What is shown, for those who want the numbers.
export const shown = {count: 0, answer: null, picture: null, threads: 0};

const worker = new Worker('worker.js', {type: 'module'});
const waiting = new Map();
let site, colors, source = null, busy = false, again = false, rate = 0, last = 0;
let stream = null, asked = null; // of the camera: what it gives, and whose click asked for it

worker.onmessage = ({data: {id, body, error}}) => {
  const [done, failed] = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) done(body); else failed(new Error(error));
};
worker.onerror = event => say(event.message || 'the model could not be loaded');

function ask(action, body, moved = []) {
  return new Promise((done, failed) => {
    const id = crypto.getRandomValues(new Uint32Array(1))[0];
    waiting.set(id, [done, failed]);
    worker.postMessage({id, action, body}, moved);
  });
}

const say = text => { by('trouble').textContent = text; };
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const nameOf = index => site.classes.labels?.[index] ?? `class ${index}`;

function option(select, value, text) {
  const made = document.createElement('option');
  made.value = value;
  made.textContent = text;
  select.append(made);
}

async function begin() {
  site = await (await fetch('model.json', {cache: 'no-cache'})).json();
  colors = [bytes(site.colors), bytes(site.signed_colors)];
  document.title = `${site.title} · onnxcam`;
  by('title').textContent = site.title;
  by('score-name').textContent = site.scores ?? 'score';
  site.maps.forEach((map, k) => option(by('map'), k, map.title));
  by('maps').hidden = site.maps.length < 2;
  for (let k = 0; k < site.classes.count; k++) option(by('class'), k, nameOf(k));
  by('class').parentElement.hidden = !site.classes.input;
  describe();
  say('Loading the model …');
  shown.threads = (await ask('open', site)).threads;
  say('');
  update();
}

function describe() {
  const map = site.maps[by('map').value || 0];
  const told = [map.title, map.layer && `at ${map.layer}`, `of the ${site.target}`];
  by('what').textContent = told.filter(Boolean).join(' ');
}

// ---- pictures ----

// Colours as they are stored: neither a profile nor transparency changes what the model sees.
async function fromFile(blob) {
  const bitmap = await createImageBitmap(blob, {colorSpaceConversion: 'none', premultiplyAlpha: 'none'});
  const made = taken(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  return isClear(made.data) ? await opaque(blob) ?? made : made;
}

function isClear(rgba) {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] < 255) return true;
  return false;
}

function taken(image, width, height) {
  const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext('2d', {willReadFrequently: true});
  pen.drawImage(image, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height);
}

// Canvases multiply colours by their opacity and lose some; a decoder's own bytes are whole.
async function opaque(blob) {
  if (!('ImageDecoder' in self)) return null;
  const how = {type: blob.type, premultiplyAlpha: 'none', colorSpaceConversion: 'none'};
  const {image} = await new ImageDecoder({data: await blob.arrayBuffer(), ...how}).decode();
  const {format, codedWidth, codedHeight} = image, made = new ImageData(codedWidth, codedHeight), rgba = made.data;
  const known = ['RGBA', 'BGRA'].includes(format);
  if (known) await image.copyTo(rgba);
  image.close();
  if (!known) return null;
  for (let i = 0; i < rgba.length; i += 4) {
    if (format === 'BGRA') [rgba[i], rgba[i + 2]] = [rgba[i + 2], rgba[i]];
    rgba[i + 3] = 255;
  }
  return made;
}

async function open(blob) {
  stop();
  try {
    source = await fromFile(blob);
    say('');
    await update();
  } catch (error) {
    say(`This is no picture that the browser can read (${error.message})`);
  }
}

// ---- the camera ----

async function watch() {
  const video = by('video'), mine = asked = {};
  by('camera').setAttribute('aria-pressed', 'true');
  try {
    const found = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}, audio: false});
    if (asked !== mine) return close(found); // stopped while the browser was asking
    video.srcObject = stream = found;
    await video.play();
  } catch (error) {
    if (asked !== mine) return;
    stop();
    say(`No camera: ${error.message}`);
    return;
  }
  say('');
  rate = last = 0;
  while (asked === mine) {
    if (video.readyState >= 2) source = taken(video, video.videoWidth, video.videoHeight);
    await update();
    await new Promise(done => requestAnimationFrame(done));
  }
}

const close = found => found?.getTracks().forEach(track => track.stop());

function stop() {
  close(stream);
  asked = stream = by('video').srcObject = null;
  by('camera').setAttribute('aria-pressed', 'false');
  by('rate').textContent = '';
}

// ---- answers ----

// One run at a time; what changes meanwhile is asked for behind it, be it that the run fails.
async function update() {
  if (!source || !shown.threads) return;
  if (busy) { again = true; return; }
  busy = true;
  do {
    again = false;
    await run();
  } while (again);
  busy = false;
}

async function run() {
  try {
    const picture = source, rgba = picture.data.slice().buffer;
    const body = {width: picture.width, height: picture.height, rgba, choice: Number(by('class').value)};
    Object.assign(shown, {answer: await ask('explain', body, [rgba]), picture});
    draw();
    tell();
    shown.count++;
  } catch (error) {
    say(`The model did not run: ${error.message}`);
    stop();
  }
}

function draw() {
  if (!shown.answer) return;
  const {picture, answer} = shown, canvas = by('overlay'), which = Number(by('map').value || 0);
  const shrink = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
  const [h, w] = [picture.height, picture.width].map(n => Math.max(1, Math.round(n * shrink)));
  const whole = new OffscreenCanvas(picture.width, picture.height);
  whole.getContext('2d').putImageData(picture, 0, 0);
  const under = taken(whole, w, h), signed = site.maps[which].normalize === 'none';
  const heat = toPicture(answer.maps[which], answer.where, [h, w]);
  blend(under.data, heat, Number(by('blend').value), colors[Number(signed)], signed);
  [canvas.width, canvas.height] = [w, h];
  canvas.getContext('2d').putImageData(under, 0, 0);
  by('hint').hidden = true;
}

function tell() {
  const {index, scores, ms, maps} = shown.answer, now = performance.now();
  by('explained').textContent = index === null ? site.target : nameOf(index);
  by('score').textContent = scores && index !== null ? scores[index].toFixed(3) : '';
  by('run').textContent = ms.toFixed(1);
  if (stream && last) rate = rate ? 0.9 * rate + 100 / (now - last) : 1000 / (now - last);
  if (stream && rate) by('rate').textContent = rate.toFixed(1);
  last = now;
  say(maps[by('map').value || 0].every(v => v === 0) ? 'The map is blank: nothing speaks for this class here.' : '');
}

// ---- the hand ----

by('file').addEventListener('change', event => event.target.files[0] && open(event.target.files[0]));
by('camera').addEventListener('click', () => asked ? stop() : watch());
by('class').addEventListener('change', update);
by('map').addEventListener('change', () => { describe(); draw(); });
by('blend').addEventListener('input', draw);
addEventListener('dragover', event => { event.preventDefault(); by('stage').classList.add('over'); });
addEventListener('dragleave', event => event.relatedTarget || by('stage').classList.remove('over'));
addEventListener('drop', event => {
  event.preventDefault();
  by('stage').classList.remove('over');
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});

// Later visits need no network; and what the service worker hands out may use several threads.
navigator.serviceWorker?.register('sw.js').catch(() => {});
begin().catch(error => say(`The page could not start: ${error.message}`));
