// Explain a picture with an exported model in Node.js, by onnxruntime-web (WebAssembly).
//
//     node explain.js MODEL.onnx PICTURE.ppm HEATMAP.pfm [CLASS]

import {readFileSync, writeFileSync} from 'node:fs';
import * as ort from 'onnxruntime-web';

// The model's metadata_props: field 14 of the file's outermost protobuf message, with a key (1) and a value (2) each.
function metadata(bytes) {
  const found = {}, words = new TextDecoder();
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries(fields(value));
    found[words.decode(pair[1])] = words.decode(pair[2] ?? new Uint8Array());
  }
  return found;
}

// The number and the bytes of each field that has a length; others are stepped over.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, unit = 1, byte;
    do { byte = bytes[at++]; value += (byte & 127) * unit; unit *= 128; } while (byte > 127);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint(), kind = tag & 7;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else {
      const length = varint();
      yield [tag >>> 3, bytes.subarray(at, at + length)];
      at += length;
    }
  }
}

// A binary PPM.
function readPpm(path) {
  const bytes = readFileSync(path), head = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.subarray(0, 60).toString('latin1'));
  if (!head) throw new Error(`${path}: a binary PPM of 8 bits is wanted`);
  return {width: Number(head[1]), height: Number(head[2]), pixels: bytes.subarray(head[0].length)};
}

// A PFM; its rows run from the bottom to the top.
function writePfm(path, values, height, width) {
  const rows = Array.from({length: height}, (_, r) => values.slice((height - 1 - r) * width, (height - r) * width));
  const body = rows.map(row => Buffer.from(row.buffer, row.byteOffset, row.byteLength));
  writeFileSync(path, Buffer.concat([Buffer.from(`Pf\n${width} ${height}\n-1.0\n`), ...body]));
}

// What the model was made for: order of colours, scale, mean and deviation, as its metadata say.
function prepare({width, height, pixels}, how, nchw, type) {
  const area = width * height, of = (list, c) => list[list.length === 1 ? 0 : c];
  const x = type === 'uint8' ? new Uint8Array(3 * area) : new Float32Array(3 * area);
  for (let c = 0; c < 3; c++) {
    const from = how.color === 'BGR' ? 2 - c : c;
    for (let i = 0; i < area; i++) {
      x[nchw ? c * area + i : 3 * i + c] = (pixels[3 * i + from] * how.scale - of(how.mean, c)) / of(how.std, c);
    }
  }
  return new ort.Tensor(type, x, nchw ? [1, 3, height, width] : [1, height, width, 3]);
}

async function main(model, picture, heatmap, index = '-1') {
  const bytes = readFileSync(model), meta = metadata(bytes);
  const record = JSON.parse(meta['onnxcam/export']), names = JSON.parse(meta['onnxcam/labels'] ?? '[]');
  const session = await ort.InferenceSession.create(bytes);
  const {shape, type} = session.inputMetadata.find(one => one.name === record.input);
  const feeds = {[record.input]: prepare(readPpm(picture), record.preprocess, shape[1] === 3, type)};
  if (session.inputNames.includes('onnxcam/class')) {
    feeds['onnxcam/class'] = new ort.Tensor('int64', BigInt64Array.of(BigInt(index)), [1]);
  }
  const scores = session.outputNames[0], [map] = Object.keys(record.maps);
  const found = await session.run(feeds, [scores, 'class_index', map]);
  writePfm(heatmap, found[map].data, ...found[map].dims.slice(1));
  const one = Number(found.class_index.data[0]);
  console.log(JSON.stringify({class_index: one, label: names[one] ?? null, score: found[scores].data[one]}));
}

if (process.argv.length < 5) {
  console.error('node explain.js MODEL.onnx PICTURE.ppm HEATMAP.pfm [CLASS]');
  process.exit(1);
}
await main(...process.argv.slice(2));
