// A model and its exported form in onnxruntime-web (WASM, one thread), in turn: `node export_web.mjs NODE_MODULES FOLDER`
// prints the milliseconds of each run, as one JSON object.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const TYPES = { float16: Uint16Array, float32: Float32Array, int64: BigInt64Array, uint8: Uint8Array };
const SECONDS = 5, MOST = 100, LEAST = 10;
const [modules, folder] = process.argv.slice(2);
const ort = createRequire(`${modules}/`)("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const read = (file) => new Uint8Array(readFileSync(`${folder}/${file}`));

/** A session, and its feeds. */
async function opened(file) {
  const session = await ort.InferenceSession.create(read(file), { executionProviders: ["wasm"] });
  const feeds = {};
  for (const { name, dtype, shape, file: data } of JSON.parse(readFileSync(`${folder}/feeds.json`))) {
    if (session.inputNames.includes(name)) {
      feeds[name] = new ort.Tensor(dtype, new TYPES[dtype](read(data).buffer), shape);
    }
  }
  return { session, feeds };
}

async function timed({ session, feeds }) {
  const start = performance.now();
  await session.run(feeds);
  return performance.now() - start;
}

try {
  const plain = await opened("plain.onnx"), explained = await opened("explained.onnx");
  for (let k = 0; k < 3; k++) await timed(plain), await timed(explained);
  const rounds = Math.min(MOST, Math.max(LEAST, (SECONDS * 1e3) / (await timed(plain))));
  const found = { plain: [], explained: [] };
  for (let k = 0; k < rounds; k++) {
    found.plain.push(await timed(plain));
    found.explained.push(await timed(explained));
  }
  console.log(JSON.stringify(found));
} catch (error) {
  console.log(JSON.stringify({ error: String(error.message ?? error).slice(0, 200) }));
}
