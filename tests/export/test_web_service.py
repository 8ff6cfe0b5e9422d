"""The page's service worker, in Node: what it keeps, and when it hands that out."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from onnxcam.web.library import PAGE

NODE = shutil.which("node")
pytestmark = [
    pytest.mark.anyruntime,
    pytest.mark.skipif(NODE is None, reason="Node.js is not installed: apt-get install nodejs"),
]

WORLD = """
import {readFileSync} from 'node:fs';
const HERE = 'http://localhost:8000/', told = {skipped: false};
const stores = new Map(), heard = {};
let network = new Map();
const path = asked => new URL(asked.url ?? asked, HERE).pathname;
const response = ([status, body]) => status
  ? new Response(body, {status, headers: {'X-From': 'network'}}) : {status, type: 'opaqueredirect', body: null};
const fetch = async asked => {
  if (!network) throw new TypeError('Failed to fetch');
  return response(network.get(path(asked)) ?? [404, 'gone']);
};
const caches = {
  keys: async () => [...stores.keys()],
  delete: async name => stores.delete(name),
  open: async name => {
    if (!stores.has(name)) stores.set(name, new Map());
    const held = stores.get(name);
    return {
      addAll: async all => { for (const asked of all) held.set(path(asked), await (await fetch(asked)).text()); },
      match: async asked => held.has(path(asked)) ? new Response(held.get(path(asked))) : undefined,
    };
  },
};
const self = {
  registration: {scope: HERE}, location: new URL(HERE), clients: {claim: async () => {}},
  skipWaiting: async () => { told.skipped = true; },
  addEventListener: (name, does) => { heard[name] = does; },
};
globalThis.Request = class { constructor(given) { this.url = new URL(given.url ?? given, HERE).href; } };
function start(version) {
  const source = readFileSync(new URL('PAGE/sw.js'), 'utf8');
  const site = {version, files: ['./', 'app.js']};
  new Function('self', 'caches', 'fetch', 'SITE', source)(self, caches, fetch, site);
}
async function on(name, event = {}) {
  let waited;
  heard[name]({...event, waitUntil: p => { waited = p; }, respondWith: p => { waited = p; }});
  return waited;
}
async function visit(name, mode = 'no-cors') {
  const found = await on('fetch', {request: {method: 'GET', mode, url: new URL(name, HERE).href}});
  const isolated = found.headers?.get('Cross-Origin-Embedder-Policy') ?? null;
  return [found.status, found.body ? await found.text() : null, isolated];
}
network = new Map([['/', [200, 'page']], ['/app.js', [200, 'app']]]);
start('one');
await on('install');
await on('activate');
"""


def world(script):
    """What a script says that runs where the page has been visited once; `network` is what the server has then."""
    text = f"{WORLD.replace('PAGE', PAGE.as_uri())}\n{script}"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", text], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_a_network_the_page_is_the_kept_one():
    script = "network = null; console.log(JSON.stringify([await visit('./', 'navigate'), await visit('app.js')]))"
    assert world(script) == [[200, "page", "require-corp"], [200, "app", "require-corp"]]


def test_what_is_not_kept_fails_without_a_network():
    assert "fetch" in world(
        "network = null; console.log(JSON.stringify(await visit('more').catch(error => error.message)))"
    )


def test_a_redirection_is_handed_on():
    """It has the status 0, of which no response can be made."""
    script = "network = new Map([['/', [0]]]); console.log(JSON.stringify(await visit('./', 'navigate')))"
    assert world(script) == [0, None, None]


def test_another_page_at_the_address_is_seen():
    """Its files, too: many a page has an app.js."""
    script = (
        "network = new Map([['/', [200, 'other']], ['/app.js', [200, 'other app']]]);"
        "const both = [await visit('./', 'navigate'), await visit('app.js')];"
        "network = new Map(); console.log(JSON.stringify([...both, await visit('./', 'navigate')]))"
    )
    assert [found[:2] for found in world(script)] == [[200, "other"], [200, "other app"], [404, "gone"]]


def test_a_new_version_does_not_take_the_files_of_an_open_page():
    script = (
        "start('two'); await on('install'); const waits = [told.skipped, stores.size];"
        "await on('activate'); console.log(JSON.stringify([...waits, stores.size]))"
    )
    assert world(script) == [False, 2, 1]
