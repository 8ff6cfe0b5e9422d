// The model, away from the page's own thread: pictures come in as RGBA bytes, answers go back.

import * as ort from './ort/ort.wasm.bundle.min.mjs';
import {numbers, place, resizeMap, toPlanes, toTensor} from './pixels.js';

const ARRAYS = {float32: Float32Array, float16: Uint16Array, uint8: Uint8Array, int8: Int8Array, int32: Int32Array};
let site, session, table;

async function open(found) {
  site = found;
  ort.env.wasm.wasmPaths = {wasm: new URL('./ort/ort-wasm-simd-threaded.wasm', import.meta.url).href};
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = 'error';
  const bytes = Uint8Array.from(atob(site.levels), c => c.charCodeAt(0));
  table = new ARRAYS[site.input.dtype](bytes.buffer);
  const answer = await fetch('./model.onnx');
  if (!answer.ok) throw new Error(`model.onnx: ${answer.status} ${answer.statusText}`);
  const model = new Uint8Array(await answer.arrayBuffer());
  session = await ort.InferenceSession.create(model, {executionProviders: ['wasm']});
  return {threads: ort.env.wasm.numThreads};
}

async function explain({width, height, rgba, choice}) {
  const {input, how} = site, batch = input.batch ?? 1;
  const where = place([height, width], input, how);
  const values = toTensor(toPlanes(new Uint8ClampedArray(rgba), where, how), table, input, how.reversed);
  const sides = input.layout === 'NCHW' ? [input.channels, ...where.size] : [...where.size, input.channels];
  const feeds = {[input.name]: new ort.Tensor(input.dtype, values, [batch, ...sides])};
  if (site.classes.input) {
    feeds[site.classes.input] = new ort.Tensor('int64', new BigInt64Array(batch).fill(BigInt(choice)), [batch]);
  }
  const started = performance.now();
  const found = await session.run(feeds, wanted());
  return {where, ms: performance.now() - started, ...answers(found, where)};
}

const wanted = () => [...site.maps.map(m => m.output), site.index, site.scores].filter(Boolean);

// Of the first sample.
function answers(found, where) {
  const maps = site.maps.map(({output}) => {
    const {dims, data} = found[output], [h, w] = dims.slice(1);
    return resizeMap(Float32Array.from(data.subarray(0, h * w)), [h, w], where.size);
  });
  const scores = site.scores ? numbers(found[site.scores].type, found[site.scores].data).slice(0, site.classes.count) : null;
  const index = site.index ? Number(found[site.index].data[0]) : null;
  return {maps, scores, index};
}

const ACTIONS = {open, explain};

self.onmessage = async ({data: {id, action, body}}) => {
  try {
    self.postMessage({id, body: await ACTIONS[action](body)});
  } catch (error) {
    self.postMessage({id, error: String(error?.message ?? error)});
  }
};
