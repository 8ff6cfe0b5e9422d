"""What a report's page is made of: its HTML around the content, its style and its script."""

from __future__ import annotations

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<div><p class="over">Explanation report</p><h1>{model}</h1></div>
{status}
{pages}
</header>
<main>
"""

GALLERY = """<section aria-labelledby="images-head">
<h2 id="images-head">Images</h2>
{note}
<div class="tools" id="tools" role="search" aria-label="Images" hidden>
<label>Find <input type="search" id="find" placeholder="name, class, message"></label>
<label>Class <select id="class"><option value="">all</option></select></label>
<label>Top class is <select id="state"><option value="">anything</option><option value="right">right</option>
<option value="wrong">wrong</option><option value="unknown">unknown</option></select></label>
<label>Show <select id="show"><option value="">all</option><option value="flagged">flagged</option>
<option value="error">errors</option><option value="explained">explained</option></select></label>
<label>Sort <select id="sort"><option value="index">plan order</option><option value="name">name</option>
<option value="class">class</option><option value="-score">score, highest first</option>
<option value="score">score, lowest first</option><option value="-probability">probability, highest first</option>
<option value="probability">probability, lowest first</option></select></label>
<label>Overlay <input type="range" id="blend" min="0" max="100" value="50"></label>
<button type="button" id="reset">Reset</button>
<output id="count" role="status">{count}{this}</output>
</div>
<ul class="cards" id="cards">
"""

FOOT = """</ul>
<p id="nothing" hidden>No image on this page fits.</p>
{pages}
</section>
</main>
<dialog id="large" aria-labelledby="large-name"><div class="inner">
<div class="bar"><h2 id="large-name"></h2>
<button type="button" id="back" title="Previous image (left arrow)">&larr;</button>
<button type="button" id="next" title="Next image (right arrow)">&rarr;</button>
<button type="button" id="close" autofocus title="Close (Escape)">&times;</button></div>
<div class="sides" id="sides"></div>
<dl id="facts"></dl>
</div></dialog>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --mute: #5b626c; --line: #dcdfe4; --soft: #f5f6f8;
  --link: #0b5cad; --bad: #b3261e; --warn: #8a5200; --good: #1a7037; --blend: .5; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e4e6e9; --mute: #9ba2ac; --line: #33383f;
  --soft: #1e2126; --link: #79b8ff; --bad: #ff8a80; --warn: #f0b35a; --good: #6fcf8c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 86rem; padding: 1.25rem 1.5rem 4rem; background: var(--back); color: var(--text);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1, h2, h3, p, dl, dd, ul, figure { margin: 0; padding: 0; }
h1 { font-size: 1.5rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
a { color: var(--link); }
header { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: end; padding-bottom: 1rem;
  border-bottom: 1px solid var(--line); }
header > div { flex: 1 1 20rem; }
.over, .mute, dt, th, figcaption { color: var(--mute); }
.over { font-size: .8rem; letter-spacing: .04em; text-transform: uppercase; }
.status { font-weight: 600; border: 1px solid; border-radius: 99px; padding: .1rem .7rem; }
.good, .truth.right { color: var(--good); } .bad, .truth.wrong { color: var(--bad); }
.warn, .flag { color: var(--warn); }
.pages { display: flex; flex-wrap: wrap; gap: .2rem .5rem; margin: .3rem 0; flex-basis: 100%; }
.pages a { padding: 0 .3rem; } .pages [aria-current] { font-weight: 700; color: inherit; text-decoration: none; }
.stats { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  border-bottom: 1px solid var(--line); }
.stats div { padding: .8rem 1rem .8rem 0; }
.stats dd { font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.stats small { display: block; font-size: .8rem; font-weight: 400; color: var(--mute); }
.job { display: flex; flex-wrap: wrap; gap: 1.5rem; margin-top: 1.2rem; }
.job > :first-child { flex: 1 1 32rem; min-width: 0; }
dl.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1.2rem; }
dl.facts dd, .code { overflow-wrap: anywhere; }
.code { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: .92em; }
figure.map { width: 10rem; } figure.map img { width: 100%; display: block; border-radius: 3px; }
figcaption { font-size: .85rem; margin-top: .3rem; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--link); }
details[open] summary { margin-bottom: .5rem; }
section > p { margin-bottom: .4rem; }
.box { overflow: auto; max-height: 26rem; border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; background: var(--soft); font-weight: 500; z-index: 1; white-space: nowrap; }
tbody th { color: inherit; font-weight: 600; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; white-space: nowrap; width: 1%; } td.text { overflow-wrap: anywhere; }
td:has(img) { width: 1%; } td img { display: block; width: 40px; height: 40px; border-radius: 2px; }
.link { border: 0; padding: 0; background: none; color: var(--link); font: inherit; cursor: pointer; text-align: left;
  text-decoration: underline; overflow-wrap: anywhere; }
.tools { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: center;
  padding: .6rem 0; margin-bottom: .6rem; background: var(--back); border-bottom: 1px solid var(--line); }
.tools label { color: var(--mute); display: flex; gap: .35rem; align-items: center; }
input, select, .tools button, dialog button { font: inherit; color: var(--text); background: var(--back);
  border: 1px solid var(--line); border-radius: 4px; padding: .15rem .45rem; }
.tools select { max-width: 9rem; } #find { width: 9.5rem; } #sort { width: 9rem; }
#blend { width: 6rem; padding: 0; accent-color: var(--link); }
button { cursor: pointer; } output { margin-left: auto; color: var(--mute); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.cards { list-style: none; display: grid; gap: 1.1rem .8rem;
  grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
.card { min-width: 0; content-visibility: auto; contain-intrinsic-size: auto 17rem; }
[hidden] { display: none !important; }
.look { position: relative; display: block; width: 100%; aspect-ratio: 1; padding: 0; border: 0; overflow: hidden;
  border-radius: 4px; background: var(--soft); color: var(--mute); font: inherit; }
.look img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.look .overlay { opacity: var(--blend); transition: opacity .12s; }
.look .overlay:first-child, .look:hover .overlay, .look:focus-visible .overlay { opacity: 1; }
.unseen { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; white-space: nowrap; }
.card p { font-size: .86rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.card .name { margin-top: .35rem; color: var(--mute); }
.card > div { display: flex; justify-content: space-between; gap: .6rem; }
.card .class { font-size: .95rem; font-weight: 600; }
.card .figures { font-variant-numeric: tabular-nums; flex: none; max-width: 75%; }
.card .message { color: var(--bad); white-space: normal; overflow-wrap: anywhere; display: -webkit-box;
  -webkit-line-clamp: 3; -webkit-box-orient: vertical; }
.card.error .look { border: 1px dashed var(--bad); color: var(--bad); }
dialog { width: min(62rem, 94vw); max-height: 92vh; padding: 0; background: var(--back);
  color: var(--text); border: 1px solid var(--line); border-radius: 8px; }
.inner { padding: 1rem 1.25rem 1.25rem; }
dialog::backdrop { background: rgb(0 0 0 / 55%); }
.bar { display: flex; gap: .4rem; align-items: center; margin-bottom: .8rem; }
.bar h2 { flex: 1; margin: 0; min-width: 0; overflow-wrap: anywhere; }
.sides { display: flex; gap: .8rem; flex-wrap: wrap; } .sides figure { flex: 1 1 16rem; max-width: 19rem; }
.sides img { width: 100%; display: block; border-radius: 4px; } .sides:not(:empty) { margin-bottom: 1rem; }
#facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1.2rem; }
#facts dd { overflow-wrap: anywhere; white-space: pre-line; font-variant-numeric: tabular-nums; }
#facts a { display: block; }
@media (prefers-reduced-motion: reduce) { .look .overlay { transition: none; } }
@media print { .tools, .pages { display: none; } .box { max-height: none; } .card { content-visibility: visible; }
  .look .overlay { opacity: 1; } }
"""

SCRIPT = """
'use strict';
const by = name => document.getElementById(name);
const facts = JSON.parse(by('data').textContent);
const cards = [...by('cards').children];
const items = facts.map((fact, k) => ({
  fact, card: cards[k], where: [fact.name, fact.class, fact.truth, fact.kind, fact.error, ...(fact.warnings || [])]
    .filter(Boolean).join('\\n').toLowerCase()}));
let view = items, at = 0;

function make(kind, text) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  return made;
}
const words = new Intl.Collator(undefined, {numeric: true});
const keys = {index: (a, b) => a.index - b.index, name: (a, b) => words.compare(a.name, b.name),
  class: (a, b) => words.compare(a.class, b.class)};
function byNumber(name, sign) {
  return (a, b) => (typeof b[name] === 'number') - (typeof a[name] === 'number') || sign * (a[name] - b[name]);
}
function order() {
  const [, minus, name] = by('sort').value.match(/^(-?)(.*)$/);
  const first = name === 'class' ? (a, b) => !a.class - !b.class || keys.class(a, b)
    : keys[name] || byNumber(name, minus ? -1 : 1);
  return (a, b) => first(a.fact, b.fact) || keys.index(a.fact, b.fact);
}
const shown = {flagged: fact => fact.flagged, error: fact => fact.state === 'error',
  explained: fact => fact.state !== 'error'};
function fits({fact, where}) {
  const asked = {find: by('find').value.trim().toLowerCase(), of: by('class').value, state: by('state').value,
    show: by('show').value};
  return where.includes(asked.find)
    && (!asked.of || String(fact.class_index) === asked.of)
    && (!asked.state || fact.state === asked.state)
    && (!asked.show || shown[asked.show](fact));
}
function update() {
  view = items.filter(fits).sort(order());
  const seen = new Set(view);
  for (const item of items) item.card.hidden = !seen.has(item);
  by('cards').append(...view.map(item => item.card));
  by('count').textContent = view.length.toLocaleString('en') + ' of ' + items.length.toLocaleString('en')
    + (document.querySelector('.pages') ? ' on this page' : '');
  by('nothing').hidden = view.length > 0;
}
function classes() {
  const found = new Map();
  for (const {fact} of items) if (fact.state !== 'error') found.set(String(fact.class_index), fact.class);
  for (const [index, name] of [...found].sort((a, b) => words.compare(a[1], b[1]))) {
    const option = make('option', name === 'class ' + index ? name : name + ' (' + index + ')');
    option.value = index;
    by('class').append(option);
  }
}

const figure = value => typeof value === 'number' ? String(Number(value.toPrecision(6))) : String(value);
const named = t => (t.label || 'class ' + t.class_index) + ' (' + t.class_index + '): ' + figure(t.logit);
const corners = ([x, y, w, h, score]) => `x ${x}, y ${y}, ${w} \\u00d7 ${h}: ${figure(score)}`;
const say = {
  size: ([height, width]) => `${width} \\u00d7 ${height} pixels`,
  state: v => v === 'unknown' ? '' : v,
  top: v => v.map(named).join('\\n'),
  warnings: v => v.join('\\n'),
  boxes: v => v.map(corners).join('\\n'),
  timings: v => Object.entries(v).map(([step, s]) => `${step} ${(1000 * s).toFixed(1)} ms`).join(', '),
  blank: v => v ? 'yes: nothing speaks for the score' : 'no',
};
const rows = [['error', 'Error'], ['kind', 'Kind'], ['class', 'Class'], ['class_index', 'Class index'],
  ['score', 'Score'], ['probability', 'Probability'], ['truth', 'True class'], ['state', 'Top class is'],
  ['target', 'Target'], ['top', 'Top classes'], ['warnings', 'Warnings'], ['blank', 'Blank map'],
  ['without', 'Picture'], ['method', 'Method'], ['layer', 'Layer'], ['boxes', 'Boxes'], ['source', 'Source'],
  ['sha256', 'SHA-256'], ['size', 'Size'], ['index', 'Place in the plan'], ['timings', 'Time']];
function tell(list, name, value) {
  if (value === '' || value === undefined || value === null) return;
  const place = make('dd');
  place.append(value);
  list.append(make('dt', name), place);
}
function links(fact) {
  const all = document.createDocumentFragment();
  for (const [kind, href] of Object.entries(fact.links)) {
    const link = make('a', fact.files[kind]);
    link.href = href;
    all.append(link);
  }
  return all.childNodes.length ? all : '';
}
function enlarge(k) {
  at = k;
  const {fact, card} = view[at];
  by('large-name').textContent = fact.name;
  by('sides').replaceChildren(...[...card.querySelectorAll('.look img')].map(image => {
    const side = make('figure'), copy = make('img');
    copy.src = image.src;
    copy.alt = image.className;
    side.append(copy, make('figcaption', image.className));
    return side;
  }));
  const list = by('facts');
  list.replaceChildren();
  for (const [key, name] of rows)
    if (fact[key] !== undefined && fact[key] !== null && !(key === 'state' && fact.error))
      tell(list, name, say[key] ? say[key](fact[key]) : figure(fact[key]));
  tell(list, 'Files', links(fact));
  by('back').disabled = at === 0;
  by('next').disabled = at === view.length - 1;
  if (!by('large').open) by('large').showModal();
  by('large').scrollTop = 0;
}
function step(way) {
  if (view[at + way]) enlarge(at + way);
}
function reset() {
  for (const name of ['find', 'class', 'state', 'show']) by(name).value = '';
  by('sort').value = 'index';
  update();
}
for (const name of ['find', 'class', 'state', 'show', 'sort']) by(name).addEventListener('input', update);
by('blend').addEventListener('input', () => by('cards').style.setProperty('--blend', by('blend').value / 100));
by('reset').addEventListener('click', reset);
by('back').addEventListener('click', () => step(-1));
by('next').addEventListener('click', () => step(1));
by('close').addEventListener('click', () => by('large').close());
by('large').addEventListener('click', event => { if (event.target === by('large')) by('large').close(); });
by('large').addEventListener('close', () => view[at].card.querySelector('.look').focus());
document.addEventListener('keydown', event => {  // a button that was pressed and is now disabled hears no keys
  const way = by('large').open && {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (way && !event.altKey && !event.ctrlKey && !event.metaKey) { event.preventDefault(); step(way); }
});
by('cards').addEventListener('click', event => {
  const card = event.target.closest('.look') && event.target.closest('.card');
  if (card) enlarge(view.findIndex(item => item.card === card));
});
for (const link of document.querySelectorAll('[data-class]')) link.addEventListener('click', () => {
  reset();
  by('class').value = link.dataset.class;
  update();
  by('images-head').scrollIntoView();
});
classes();
by('tools').hidden = false;
update();
"""
