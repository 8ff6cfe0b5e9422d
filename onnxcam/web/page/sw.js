// Keeps the whole site for use without a network. SITE, its files and their common hash, stands on top of this file.

const NAME = `onnxcam ${self.registration.scope} ${SITE.version}`;
const ISOLATED = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

// It waits until the page is closed everywhere: the one before it keeps the files of a page that is open.
async function keep() {
  const cache = await caches.open(NAME);
  await cache.addAll(SITE.files.map(name => new Request(name, {cache: 'no-cache'})));
}

async function tidy() {
  const ours = (await caches.keys()).filter(name => name.startsWith(`onnxcam ${self.registration.scope} `));
  const old = ours.filter(name => name !== NAME);
  await Promise.all(old.map(name => caches.delete(name)));
  await self.clients.claim();
}

// The network's answer, whatever it is, so that the page and its files are of one version, and another page that has
// come to this address is seen; without a network what is kept.
async function newest(request) {
  try {
    return await fetch(request, {cache: 'no-cache'});
  } catch (error) {
    const found = await (await caches.open(NAME)).match(request, {ignoreSearch: true});
    if (!found) throw error;
    return found;
  }
}

async function answer(request) {
  const found = await newest(request);
  if (found.status === 0) return found; // a redirection: the browser follows it, and no script may look into it
  const headers = new Headers(found.headers);
  Object.entries(ISOLATED).forEach(pair => headers.set(...pair));
  return new Response(found.body, {status: found.status, statusText: found.statusText, headers});
}

self.addEventListener('install', event => event.waitUntil(keep()));
self.addEventListener('activate', event => event.waitUntil(tidy()));
self.addEventListener('fetch', event => {
  const {method, url} = event.request;
  if (method === 'GET' && new URL(url).origin === self.location.origin) event.respondWith(answer(event.request));
});
