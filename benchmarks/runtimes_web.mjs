// onnxruntime-web (WASM) over the cells: `node runtimes_web.mjs NODE_MODULES FOLDER RUNTIME`. The protocol is that of
// runtimes_adapters.py; the browser's page imports `run` from here.
const TYPES = {
  float16: Uint16Array,
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
};

/** A half-precision number from its 16 bits. */
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

/** A tensor's values as float32; nothing for maps and labels. */
function floats(tensor) {
  if (!tensor || tensor.type === "string") return new Float32Array();
  return Float32Array.from(tensor.data, tensor.data instanceof Uint16Array ? half : Number);
}

/** Load a model and run it once: [outputs as Float32Array, seconds to load, seconds to run]. */
export async function run(ort, bytes, feeds, outputs) {
  const started = performance.now();
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const loaded = performance.now();
  const given = {};
  for (const { name, dtype, shape, data } of feeds) {
    given[name] = new ort.Tensor(dtype, new TYPES[dtype](data), shape);
  }
  const found = await session.run(given);
  const done = performance.now();
  await session.release();
  const flat = outputs.map((name) => floats(found[name]));
  return [flat, (loaded - started) / 1e3, (done - loaded) / 1e3];
}

async function main(modules, folder, runtime) {
  const { readFileSync, rmSync, writeFileSync } = await import("node:fs");
  const { createRequire } = await import("node:module");
  const ort = createRequire(`${modules}/`)("onnxruntime-web");
  ort.env.wasm.numThreads = 1;
  const buffer = (file) => new Uint8Array(readFileSync(`${folder}/${file}`)).buffer;
  const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
  const { version } = JSON.parse(readFileSync(`${modules}/onnxruntime-web/package.json`));
  say({ version: `onnxruntime-web ${version}, Node ${process.versions.node}` });
  const todo = new Set(JSON.parse(readFileSync(`${folder}/${runtime}/todo.json`)));
  for (const cell of JSON.parse(readFileSync(`${folder}/cells.json`))) {
    const name = cell.file.slice(0, -5);
    if (!todo.has(name)) continue;
    say({ start: name });
    cell.outputs.forEach((_, k) => rmSync(`${folder}/${runtime}/${name}.${k}.bin`, { force: true }));
    try {
      const feeds = cell.feeds.map((f) => ({ ...f, data: buffer(f.file) }));
      const [flat, load_s, run_s] = await run(ort, new Uint8Array(buffer(cell.file)), feeds, cell.outputs);
      flat.forEach((a, k) => writeFileSync(`${folder}/${runtime}/${name}.${k}.bin`, new Uint8Array(a.buffer)));
      say({ name, load_s, run_s });
    } catch (error) {
      say({ name, error: String(error.message ?? error).slice(0, 500) });
    }
  }
}

if (typeof process !== "undefined" && process.argv?.[1]?.endsWith("runtimes_web.mjs")) {
  await main(...process.argv.slice(2));
}
