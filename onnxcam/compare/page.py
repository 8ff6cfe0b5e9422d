"""The page of a blind comparison: its frame, style and script."""

from __future__ import annotations

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 78rem; padding: 0 1rem; color: #1b1b1b;
  background: #fff; }
h1 { font-size: 1.3rem; }
.row { display: flex; gap: 1rem; flex-wrap: wrap; justify-content: center; }
figure { margin: 0; flex: 1 1 16rem; max-width: 32rem; text-align: center; }
img { width: 100%; image-rendering: auto; }
button { font: inherit; padding: .5rem 1.2rem; border: 2px solid #444; border-radius: .4rem; background: #fff;
  cursor: pointer; }
button[aria-pressed=true] { background: #14507a; color: #fff; }
button:focus-visible { outline: 3px solid #d97706; }
nav { display: flex; gap: .6rem; justify-content: center; flex-wrap: wrap; margin: 1rem 0; }
"""

SCRIPT = """
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const place = 'onnxcam-votes-' + data.page;
const by = name => document.getElementById(name);
let at = 0, votes = {}, voter = String(Math.random()).slice(2);
try { votes = JSON.parse(localStorage.getItem(place)) || {}; } catch (error) { votes = {}; }
try {
  voter = localStorage.getItem(place + '-voter') || voter;
  localStorage.setItem(place + '-voter', voter);
} catch (error) { /* a browser that keeps nothing: a voter as long as the page is open */ }

function keep() {
  try { localStorage.setItem(place, JSON.stringify(votes)); }
  catch (error) { by('state').textContent = 'This browser keeps nothing: save before you leave.'; }
}
function show() {
  const item = data.items[at];
  for (const side of ['picture', 'left', 'right']) by(side).src = item[side];
  by('answer').textContent = item.answer;
  const done = Object.keys(votes).length;
  by('state').textContent = `Picture ${at + 1} of ${data.items.length}; ${done} answered.`;
  for (const answer of ['left', 'neither', 'right'])
    by('vote-' + answer).setAttribute('aria-pressed', String(votes[at] === answer));
}
function vote(answer) {
  votes[at] = answer;
  keep();
  go(at + 1 < data.items.length ? 1 : 0);
}
function go(step) {
  at = Math.min(Math.max(at + step, 0), data.items.length - 1);
  show();
}
function save() {
  const text = JSON.stringify({version: 1, page: data.page, voter: voter, votes: votes}, null, 1);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'votes.json';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
for (const answer of ['left', 'neither', 'right']) by('vote-' + answer).addEventListener('click', () => vote(answer));
by('back').addEventListener('click', () => go(-1));
by('next').addEventListener('click', () => go(1));
by('save').addEventListener('click', save);
const keys = {ArrowLeft: () => vote('left'), ArrowRight: () => vote('right'), ArrowDown: () => vote('neither'),
  Backspace: () => go(-1)};
document.addEventListener('keydown', event => {
  if (keys[event.key] && !event.repeat && !event.ctrlKey && !event.altKey && !event.metaKey) {
    event.preventDefault();
    keys[event.key]();
  }
});
while (at + 1 < data.items.length && at in votes) at += 1;
show();
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which one shows better why?</title>
<style>{style}</style>
</head>
<body>
<h1>Two models answer: <em id="answer"></em>. Which one shows better why?</h1>
<p>Red is where a model found its evidence. Which model would you rather trust? The sides are drawn by lot.</p>
<div class="row">
<figure><img id="left" alt="evidence of the model on the left"><figcaption>left</figcaption></figure>
<figure><img id="picture" alt="the picture"><figcaption>picture</figcaption></figure>
<figure><img id="right" alt="evidence of the model on the right"><figcaption>right</figcaption></figure>
</div>
<nav>
<button id="vote-left" type="button">&larr; left</button>
<button id="vote-neither" type="button">&darr; no difference</button>
<button id="vote-right" type="button">right &rarr;</button>
</nav>
<nav>
<button id="back" type="button">back</button>
<button id="next" type="button">next</button>
<button id="save" type="button">save votes.json</button>
</nav>
<p id="state" role="status"></p>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
