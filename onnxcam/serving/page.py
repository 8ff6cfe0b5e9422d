"""The page that shows a live explanation: its frame, style and script. They are constants: data comes as JSON."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 80rem; padding: 1rem; color: #1b1b1b;
  background: #fff; }
img { display: block; width: 100%; max-height: 78vh; object-fit: contain; background: #181818; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0; }
dt { font-size: .8rem; color: #666; }
dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; min-width: 5rem; overflow-wrap: anywhere; }
label { display: block; }
select { font: inherit; padding: .3rem; max-width: 100%; }
select:focus-visible { outline: 3px solid #d97706; }
#trouble { color: #a40000; min-height: 1.5em; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  body { color: #e8e8e8; background: #121212; }
  dt { color: #a0a0a0; }
  #trouble { color: #ff8a80; }
}
"""

SCRIPT = """
'use strict';
const by = name => document.getElementById(name);
const picker = by('target');
let over = false, aimed;

function say(text) { by('trouble').textContent = text; }

function number(value, digits) { return value === null || value === undefined ? '' : value.toFixed(digits); }

async function refresh() {
  try {
    const state = await (await fetch('state')).json();
    if (state.frame !== undefined) show(state);
    setTimeout(refresh, 300);
  } catch (error) {
    over = true;
    picker.disabled = true;
    say('The show is over.');
  }
}

function show(state) {
  const known = state.error === undefined;
  by('class').textContent = known ? (state.label === null ? 'class ' + state.class_index : state.label) : '';
  by('score').textContent = known ? number(state.score, 3) : '';
  by('probability').textContent = known ? number(state.probability, 3) : '';
  by('rate').textContent = state.rate ? number(state.rate, 1) : '';
  by('frame').textContent = state.frame;
  if (state.target !== aimed) point(state.target);
  say(known ? (state.blank ? 'The map is blank: at this layer nothing speaks for the class.' : '') : state.error);
}

function point(target) {  // whoever chose it; what was chosen here stays until the pictures follow
  aimed = target;
  picker.value = target === null ? '' : target;
}

async function choose() {
  const body = JSON.stringify({target: picker.value === '' ? null : picker.value});
  const answer = await fetch('target', {method: 'POST', headers: {'Content-Type': 'application/json'}, body});
  if (answer.ok) return;
  point(aimed);
  say(await answer.text());
}

async function begin() {
  for (const [name, text] of await (await fetch('choices')).json()) {
    const option = document.createElement('option');
    option.value = name;
    option.textContent = text;
    picker.append(option);
  }
  picker.addEventListener('change', () => { if (!over) choose().catch(error => say(String(error))); });
  refresh();
}
begin();
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>onnxcam live</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
</head>
<body>
<img src="stream" alt="the newest frame under its heatmap">
<dl>
<div><dt>class</dt><dd id="class"></dd></div>
<div><dt>score</dt><dd id="score"></dd></div>
<div><dt>probability</dt><dd id="probability"></dd></div>
<div><dt>frames a second</dt><dd id="rate"></dd></div>
<div><dt>frame</dt><dd id="frame"></dd></div>
</dl>
<label>Explain <select id="target"><option value="">the top class</option></select></label>
<p id="trouble" role="status"></p>
<script src="script.js"></script>
</body>
</html>
"""
