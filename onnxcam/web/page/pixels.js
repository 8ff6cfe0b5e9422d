// Pictures to tensors, and heatmaps back onto pictures: the same arithmetic as onnxcam's Python, without a DOM.

const KERNELS = {
  bilinear: [x => Math.max(0, 1 - Math.abs(x)), 1],
  bicubic: [cubic, 2],
};

// Keys (1981), a = -0.5.
function cubic(x) {
  const t = Math.abs(x);
  if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
  return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
}

// Halves go to the even neighbour, as Python rounds.
function round(x) {
  const low = Math.floor(x), rest = x - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}

const clip = (x, low, high) => Math.min(Math.max(x, low), high);

// Output i of an axis is the sum over t of weights[i * many + t] * in[inputs[i * many + t]].
export function findTaps(nIn, nOut, kind, antialias, [start, stop] = [0, nIn], [from, to] = [0, nOut]) {
  const centre = i => clip(start + (i + 0.5) * (stop - start) / nOut, 0, nIn);
  const [kernel, support] = KERNELS[kind] ?? [() => 1, 0];
  const width = antialias ? Math.max((stop - start) / nOut, 1) : 1;
  const reach = support * width;
  const many = kind === 'nearest' ? 1 : Math.ceil(2 * reach) + 1;
  const count = to - from, inputs = new Int32Array(count * many), weights = new Float64Array(count * many);
  for (let i = 0; i < count; i++) {
    const c = centre(from + i), first = Math.floor(c - reach);
    let sum = 0;
    for (let t = 0, at = i * many; t < many; t++, at++) {
      const inside = clip(first + t, 0, nIn - 1);
      const beyond = inside !== first + t && antialias && kind !== 'nearest';
      inputs[at] = inside;
      weights[at] = beyond ? 0 : kernel((first + t + 0.5 - c) / width);
      sum += weights[at];
    }
    for (let at = i * many; at < (i + 1) * many; at++) weights[at] /= sum;
  }
  return {count, many, inputs, weights};
}

// Where a picture lies in the model's input: resized as a whole, then cut or padded. Pairs are (vertical, horizontal).
export function place(source, input, how) {
  const size = how.size ?? freeSize(source, input);
  if (how.fit === 'stretch' || (!how.size && (input.height === null || input.width === null))) {
    return {source, resized: size, offset: [0, 0], size};
  }
  if (how.fit === 'letterbox') {
    const resized = scaled(source, size, false), share = how.align === 'center' ? 2 : Math.max(...size) + 1;
    return {source, resized, offset: [0, 1].map(k => -Math.floor((size[k] - resized[k]) / share)), size};
  }
  const whole = size.map(n => round(n / how.crop_ratio));
  const resized = how.fit === 'crop' ? scaled(source, whole, true) : whole;
  return {source, resized, offset: [0, 1].map(k => round((resized[k] - size[k]) / 2)), size};
}

function freeSize([h, w], {height, width}) {
  const tall = height ?? (width === null ? h : round(width * h / w));
  const wide = width ?? (height === null ? w : round(height * w / h));
  return [Math.max(tall, 1), Math.max(wide, 1)];
}

// Keeps the aspect ratio: covers the target, or lies within it.
function scaled([h, w], [height, width], cover) {
  const other = (long, side, short) => cover
    ? Math.floor(long * side / short)
    : Math.max(1, Math.floor((2 * long * side + short) / (2 * short)));
  return (height * w >= width * h) === cover ? [height, other(w, height, h)] : [other(h, width, w), width];
}

// RGBA bytes of a picture to planes of grey levels at the model's size: resized, cut, padded.
export function toPlanes(rgba, where, how) {
  const planes = how.grey ? [greyPlane(rgba)] : [0, 1, 2].map(c => plane(rgba, c));
  const {source, resized, offset, size} = where;
  const window = [0, 1].map(k => [Math.max(0, offset[k]), Math.min(resized[k], offset[k] + size[k])]);
  const axes = [0, 1].map(k => pixelTaps(source[k], resized[k], how.interpolation, how.antialias, window[k]));
  return planes.map(plane => {
    const canvas = new Uint8Array(size[0] * size[1]).fill(how.fill);
    const small = resizePlane(plane, source, axes), [rows, columns] = [axes[0].count, axes[1].count];
    const [y, x] = [0, 1].map(k => window[k][0] - offset[k]);
    for (let r = 0; r < rows; r++) canvas.set(small.subarray(r * columns, (r + 1) * columns), (y + r) * size[1] + x);
    return canvas;
  });
}

function plane(rgba, channel) {
  const found = new Uint8Array(rgba.length / 4);
  for (let i = 0, at = channel; i < found.length; i++, at += 4) found[i] = rgba[at];
  return found;
}

// Rec. 601 luma in 16-bit fixed point.
function greyPlane(rgba) {
  const plane = new Uint8Array(rgba.length / 4);
  for (let i = 0, at = 0; i < plane.length; i++, at += 4) {
    plane[i] = (19595 * rgba[at] + 38470 * rgba[at + 1] + 7471 * rgba[at + 2] + 0x8000) >> 16;
  }
  return plane;
}

// What a camera asks for again with every frame.
function kept(make, most = 16) {
  const known = new Map();
  return (...given) => {
    const key = JSON.stringify(given);
    if (!known.has(key)) {
      if (known.size >= most) known.clear();
      known.set(key, make(...given));
    }
    return known.get(key);
  };
}

// Weights of 22 bits: sums of grey levels are exact, so they come out as Pillow's.
const pixelTaps = kept((nIn, nOut, kind, antialias, window) => {
  const taps = findTaps(nIn, nOut, kind, antialias, undefined, window);
  return {...taps, weights: taps.weights.map(w => Math.floor(w * 2 ** 22 + 0.5) / 2 ** 22)};
});

const level = x => Math.floor(clip(x + 0.5, 0, 255.5));

// First across, rounded, then down.
function resizePlane(plane, [, w], [down, across]) {
  let top = Infinity, bottom = 0;
  for (const r of down.inputs) { top = Math.min(top, r); bottom = Math.max(bottom, r + 1); }
  const wide = new Uint8Array((bottom - top) * across.count);
  for (let r = top; r < bottom; r++) {
    for (let i = 0, at = 0; i < across.count; i++) {
      let sum = 0;
      for (let t = 0; t < across.many; t++, at++) sum += across.weights[at] * plane[r * w + across.inputs[at]];
      wide[(r - top) * across.count + i] = level(sum);
    }
  }
  const out = new Uint8Array(down.count * across.count);
  for (let i = 0; i < down.count; i++) {
    for (let c = 0; c < across.count; c++) {
      let sum = 0;
      for (let t = 0, at = i * down.many; t < down.many; t++, at++) {
        sum += down.weights[at] * wide[(down.inputs[at] - top) * across.count + c];
      }
      out[i * across.count + c] = level(sum);
    }
  }
  return out;
}

// Planes to the tensor's values: a table says what becomes of each grey level in each channel.
export function toTensor(planes, table, input, reversed) {
  const ordered = reversed ? [...planes].reverse() : planes;
  const area = planes[0].length, {channels, layout} = input, batch = input.batch ?? 1, one = channels * area;
  const values = new table.constructor(batch * one);
  for (let c = 0; c < channels; c++) {
    const plane = ordered[c % ordered.length];
    for (let i = 0; i < area; i++) {
      values[layout === 'NCHW' ? c * area + i : i * channels + c] = table[c * 256 + plane[i]];
    }
  }
  for (let n = 1; n < batch; n++) values.copyWithin(n * one, 0, one);
  return values;
}

// A heatmap at the model's input size back onto the picture, drawn at (height, width); 0 where the model did not look.
export function toPicture(heat, where, [height, width]) {
  const axes = [height, width].map((n, k) => back(n, where.resized[k], where.offset[k], where.size[k]));
  return product(heat, where.size[1], axes);
}

const back = kept((count, resized, offset, size) => {
  const lo = Math.max(0, -offset), hi = Math.min(size, resized - offset);
  const taps = findTaps(hi - lo, count, 'bilinear', true, [-offset - lo, resized - offset - lo]);
  for (let i = 0; i < count; i++) {
    const centre = (i + 0.5) * resized / count - offset, seen = centre >= 0 && centre < size;
    for (let at = i * taps.many; at < (i + 1) * taps.many; at++) {
      taps.inputs[at] += lo;
      if (!seen) taps.weights[at] = 0;
    }
  }
  return taps;
});

// A map of another size, brought to (height, width).
export function resizeMap(map, from, to) {
  if (from[0] === to[0] && from[1] === to[1]) return map;
  return product(map, from[1], [0, 1].map(k => findTaps(from[k], to[k], 'bilinear', true)));
}

function product(map, w, [down, across]) {
  const h = map.length / w, wide = new Float32Array(h * across.count);
  for (let r = 0; r < h; r++) {
    for (let i = 0, at = 0; i < across.count; i++) {
      let sum = 0;
      for (let t = 0; t < across.many; t++, at++) sum += across.weights[at] * map[r * w + across.inputs[at]];
      wide[r * across.count + i] = sum;
    }
  }
  const out = new Float32Array(down.count * across.count);
  for (let i = 0, at = 0; i < down.count; i++) {
    for (let t = 0; t < down.many; t++, at++) {
      const weight = down.weights[at], row = down.inputs[at] * across.count;
      if (weight) for (let c = 0; c < across.count; c++) out[i * across.count + c] += weight * wide[row + c];
    }
  }
  return out;
}

// Lays a heatmap over RGBA bytes of its size; signed maps are scaled by their largest absolute value.
export function blend(rgba, heat, share, colors, signed) {
  const top = signed ? heat.reduce((m, v) => Math.max(m, Math.abs(v)), 0) || 1 : 1;
  for (let i = 0, at = 0; i < heat.length; i++, at += 4) {
    const value = signed ? (heat[i] / top + 1) / 2 : heat[i], color = 3 * Math.round(255 * clip(value, 0, 1));
    for (let c = 0; c < 3; c++) rgba[at + c] = Math.round((1 - share) * rgba[at + c] + share * colors[color + c]);
  }
  return rgba;
}

// An answer's values; those of float16 come as their bits where the browser has no Float16Array.
export function numbers(type, data) {
  return Array.from(data, type === 'float16' && data instanceof Uint16Array ? half : Number);
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, rest = bits & 1023;
  if (exponent === 31) return rest ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + rest) * 2 ** (exponent - 25) : rest * 2 ** -24);
}
