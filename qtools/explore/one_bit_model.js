// A packed CharGPT in plain JavaScript. DATA, the model, stands above this text.
const { characters: CHARACTERS, width: WIDTH, heads: HEADS, context: CONTEXT } = DATA;
const SIZE = WIDTH / HEADS;
const CELL = 8;
const range = (n, f) => Float64Array.from({ length: n }, (_, i) => f(i));

// A float16 that is finite.
function half(b) {
  const e = (b >> 10) & 31;
  return (b & 32768 ? -1 : 1) * (e ? 2 ** (e - 25) * (1024 + (b & 1023)) : (b & 1023) * 2 ** -24);
}

// The tensors, read at first use: signs, g and h, norms, embedding, head.
let read;
function net() {
  if (read) return read;
  const text = atob(DATA.blob);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  let at = 0;
  let first = 0;
  const numbers = (n, size) => range(n, () => {
    at += size;
    return size === 2 ? half(view.getUint16(at - 2, true)) : view.getFloat32(at - 4, true);
  });
  const matrices = DATA.layers.map(([name, rows, columns, stride, eps]) => {
    const packed = bytes.subarray(at, (at += rows * stride));
    first += rows * columns;
    const bits = packed.slice();
    return { name, rows, columns, stride, eps, packed, bits, words: new Int32Array(bits.buffer), first: first - rows * columns };
  });
  for (const m of matrices) [m.g, m.h] = [numbers(m.columns, 2), numbers(m.rows, 2)];
  const norm = () => ({ w: numbers(WIDTH, DATA.size), b: numbers(WIDTH, DATA.size) });
  const blocks = [];
  for (let i = 0; i < matrices.length; i += 6) {
    const [query, key, value, out, up, down] = matrices.slice(i, i + 6);
    blocks.push({ query, key, value, out, up, down, norm1: norm(), norm2: norm() });
  }
  const last = norm();
  const [embedding, head] = [0, 0].map(() => numbers(CHARACTERS.length * WIDTH, DATA.size));
  // The package's angles are float32.
  const angle = (i) => Math.fround(Math.floor(i / (SIZE / 2)) * Math.fround(10000 ** Math.fround((-2 * (i % (SIZE / 2))) / SIZE)));
  const [cos, sin] = [Math.cos, Math.sin].map((f) => range((CONTEXT * SIZE) / 2, (i) => Math.fround(f(angle(i)))));
  return (read = { matrices, blocks, last, embedding, head, cos, sin, weights: first });
}

// The normal distribution function between -8 and 8: Simpson's rule from node to node, then the
// cubic that has its values and slopes. Off by less than 1e-9.
const NODES = 64;
const bell = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const PHI = new Float64Array(16 * NODES + 1);
const SLOPE = range(PHI.length, (i) => bell(i / NODES - 8) / NODES);
for (let i = 1; i < PHI.length; i++) PHI[i] = PHI[i - 1] + (SLOPE[i - 1] + (4 * bell((i - 0.5) / NODES - 8)) / NODES + SLOPE[i]) / 6;
function gelu(x) {
  if (!(Math.abs(x) < 8)) return x > 0 ? x : 0;
  const place = (x + 8) * NODES;
  const i = Math.floor(place);
  const t = place - i;
  const d = PHI[i + 1] - PHI[i];
  return x * (PHI[i] + t * (SLOPE[i] + t * (3 * d - 2 * SLOPE[i] - SLOPE[i + 1] + t * (SLOPE[i] + SLOPE[i + 1] - 2 * d))));
}

function normalise(x, y, eps, n) {
  let mean = 0;
  let square = 0;
  for (let i = 0; i < x.length; i++) mean += x[i];
  mean /= x.length;
  for (let i = 0; i < x.length; i++) square += (x[i] - mean) * (x[i] - mean);
  const by = 1 / Math.sqrt(square / x.length + eps);
  for (let i = 0; i < x.length; i++) y[i] = n ? (x[i] - mean) * by * n.w[i] + n.b[i] : (x[i] - mean) * by;
}

// y = LayerNorm(S (x * g) * h) with S x = sum of x - 2 (sum of x where the bit is 1). For four
// inputs each of the 16 sums is made once; half a byte of signs then finds its own in the table.
const TABLE = new Float64Array(32 * Math.max(...DATA.layers.map((l) => l[3])));
function times(m, x, y, floats) {
  const { rows, columns, stride, g, h } = m;
  if (floats) timesFloats(m, x, y);
  else {
    const end = 4 * columns;
    let sum = 0;
    for (let j = 0, t = 0; t < end; j += 4, t += 16) {
      const a = x[j] * g[j];
      const b = x[j + 1] * g[j + 1];
      const c = x[j + 2] * g[j + 2];
      const d = x[j + 3] * g[j + 3];
      const ab = a + b;
      const cd = c + d;
      sum += ab + cd;
      TABLE[t + 1] = a; TABLE[t + 2] = b; TABLE[t + 3] = ab; TABLE[t + 4] = c;
      TABLE[t + 5] = a + c; TABLE[t + 6] = b + c; TABLE[t + 7] = ab + c; TABLE[t + 8] = d;
      TABLE[t + 9] = a + d; TABLE[t + 10] = b + d; TABLE[t + 11] = ab + d; TABLE[t + 12] = cd;
      TABLE[t + 13] = a + cd; TABLE[t + 14] = b + cd; TABLE[t + 15] = ab + cd;
    }
    // 32 signs at a time. Those that fill up a row are 0, and so is each table's first sum.
    const words = m.words;
    for (let i = 0, p = 0; i < rows; i++) {
      let a = 0;
      let b = 0;
      let c = 0;
      let d = 0;
      for (let t = 0; t < 32 * stride; t += 128, p++) {
        const w = words[p];
        a += TABLE[t + (w & 15)] + TABLE[t + 64 + ((w >> 16) & 15)];
        b += TABLE[t + 16 + ((w >> 4) & 15)] + TABLE[t + 80 + ((w >> 20) & 15)];
        c += TABLE[t + 32 + ((w >> 8) & 15)] + TABLE[t + 96 + ((w >> 24) & 15)];
        d += TABLE[t + 48 + ((w >> 12) & 15)] + TABLE[t + 112 + (w >>> 28)];
      }
      y[i] = (sum - 2 * (a + b + (c + d))) * h[i];
    }
  }
  if (m.eps) normalise(y, y, m.eps);
}

// The same with a float for each sign: what a network without bits has to do.
const SCALED = new Float64Array(TABLE.length / 4);
function timesFloats(m, x, y) {
  const { rows, columns, stride, g, h } = m;
  if (!m.floats) {
    m.floats = new Float32Array(rows * columns);
    for (let i = 0, p = 0; i < rows; i++)
      for (let j = 0; j < columns; j++, p++) m.floats[p] = 1 - 2 * ((m.bits[i * stride + (j >> 3)] >> (j & 7)) & 1);
  }
  const w = m.floats;
  for (let j = 0; j < columns; j++) SCALED[j] = x[j] * g[j];
  for (let i = 0, p = 0; i < rows; i++) {
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let j = 0; j < columns; j += 4, p += 4) {
      a += w[p] * SCALED[j]; b += w[p + 1] * SCALED[j + 1];
      c += w[p + 2] * SCALED[j + 2]; d += w[p + 3] * SCALED[j + 3];
    }
    y[i] = (a + b + c + d) * h[i];
  }
}

// Keys and values of the characters so far, and what the model thinks of the next.
function session(floats) {
  const { blocks, last, embedding, head, cos, sin } = net();
  const [keys, values] = [0, 0].map(() => blocks.map(() => new Float64Array((CONTEXT + 1) * WIDTH)));
  const [x, normed, q, y] = [0, 0, 0, 0].map(() => new Float64Array(WIDTH));
  const wide = new Float64Array(blocks[0].up.rows);
  const scores = new Float64Array(CONTEXT + 1);
  const rotate = (v, n) => {
    for (let at = 0; at < WIDTH; at += SIZE)
      for (let j = at, r = (n * SIZE) / 2; j < at + SIZE / 2; j++, r++) {
        const a = v[j];
        const b = v[j + SIZE / 2];
        v[j] = a * cos[r] - b * sin[r];
        v[j + SIZE / 2] = a * sin[r] + b * cos[r];
      }
  };
  const attend = (k, v, n) => {
    y.fill(0);
    for (let at = 0; at < WIDTH; at += SIZE) {
      let top = -Infinity;
      for (let t = 0, p = at; t < n; t++, p += WIDTH) {
        let a = 0;
        let b = 0;
        for (let j = 0; j < SIZE; j += 2) {
          a += q[at + j] * k[p + j];
          b += q[at + j + 1] * k[p + j + 1];
        }
        scores[t] = (a + b) / Math.sqrt(SIZE);
        if (scores[t] > top) top = scores[t];
      }
      let sum = 0;
      for (let t = 0; t < n; t++) sum += scores[t] = Math.exp(scores[t] - top);
      for (let t = 0; t < n; t++) scores[t] /= sum;
      scores[n] = 0;
      for (let t = 0, p = at; t < n; t += 2, p += 2 * WIDTH) {
        const a = scores[t];
        const b = scores[t + 1];
        for (let j = 0; j < SIZE; j++) y[at + j] += a * v[p + j] + b * v[p + j + WIDTH];
      }
    }
  };
  const add = (v) => v.forEach((a, i) => (x[i] += a));
  const s = {
    length: 0,
    feed(token) {
      const n = s.length++;
      x.set(embedding.subarray(token * WIDTH, (token + 1) * WIDTH));
      blocks.forEach((b, i) => {
        const [k, v] = [keys, values].map((all) => all[i].subarray(n * WIDTH, (n + 1) * WIDTH));
        normalise(x, normed, DATA.eps, b.norm1);
        times(b.query, normed, q, floats);
        times(b.key, normed, k, floats);
        times(b.value, normed, v, floats);
        rotate(q, n);
        rotate(k, n);
        attend(keys[i], values[i], n + 1);
        times(b.out, y, normed, floats);
        add(normed);
        normalise(x, normed, DATA.eps, b.norm2);
        times(b.up, normed, wide, floats);
        for (let j = 0; j < wide.length; j++) wide[j] = gelu(wide[j]);
        times(b.down, wide, normed, floats);
        add(normed);
      });
      normalise(x, normed, DATA.eps, last);
      return range(CHARACTERS.length, (c) => {
        let sum = 0;
        for (let j = 0; j < WIDTH; j++) sum += normed[j] * head[c * WIDTH + j];
        return sum;
      });
    },
  };
  return s;
}

// A text as the model can read it: printed quotes, no characters that it does not know.
function legible(text) {
  const printed = text.replace(/'/g, "’").replace(/(^|[\s(—])"/g, "$1“").replace(/"/g, "”");
  return [...printed].filter((c) => CHARACTERS.includes(c)).join("");
}
const encode = (text) => [...legible(text)].map((c) => CHARACTERS.indexOf(c));

// The same numbers as one_bit_writer.py: bit i is flipped if its hash is below the share.
function mixed(x) {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0xd35a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}
const uniform = (seed, i) => mixed((Math.imul(seed, 0x9e3779b9) + i) | 0) / 2 ** 32;
const inside = (name, where) => !where || (name + ".").startsWith(where + ".");

// Put the bits as the state says; return how many differ from the file's.
function flip({ where, share, hand }) {
  const limit = (share / 100) * 2 ** 32;
  let flips = 0;
  for (const m of net().matrices) {
    m.bits.set(m.packed);
    m.floats = null;
    if (share && inside(m.name, where))
      for (let i = 0, k = m.first; i < m.rows; i++)
        for (let j = 0; j < m.columns; j++, k++)
          if (mixed(k) < limit) m.bits[i * m.stride + (j >> 3)] ^= 1 << (j & 7);
    const across = m.columns / CELL;
    for (const cell of hand) {
      const c = cell - m.first / CELL ** 2;
      if (c < 0 || c >= (m.rows / CELL) * across) continue;
      for (let i = 0; i < CELL; i++) m.bits[(Math.floor(c / across) * CELL + i) * m.stride + (c % across)] ^= 255;
    }
    for (let p = 0; p < m.bits.length; p++)
      for (let d = m.bits[p] ^ m.packed[p]; d; d &= d - 1) flips++;
  }
  return flips;
}

// The likeliest, or the first whose cumulated softmax is above u.
function choose(logits, temperature, u) {
  const top = Math.max(...logits);
  if (!temperature) return logits.indexOf(top);
  const weights = logits.map((v) => Math.exp((v - top) / temperature));
  const aim = u * weights.reduce((a, b) => a + b);
  let sum = 0;
  const i = weights.findIndex((w) => (sum += w) > aim);
  return i < 0 ? weights.length - 1 : i;
}

// Write on, a step of the model at a time: "" while it reads.
function* story({ prompt, temperature, seed }, length, floats) {
  const tokens = encode(prompt);
  if (!tokens.length) tokens.push(CHARACTERS.indexOf("\n"));
  const s = session(floats);
  let fresh = tokens.slice(-CONTEXT);
  for (let i = 0; i < length; i++) {
    let logits;
    if (s.length + fresh.length > CONTEXT) {
      s.length = 0;
      fresh = tokens.slice(-(CONTEXT >> 1));
    }
    for (const t of fresh) {
      if (logits) yield "";
      logits = s.feed(t);
    }
    fresh = [choose(logits, temperature, uniform(seed, i))];
    tokens.push(fresh[0]);
    yield CHARACTERS[fresh[0]];
  }
}

// Nats of each character of a text after its first.
function* surprises(text) {
  const tokens = encode(text);
  const s = session();
  for (let i = 1; i < tokens.length; i++) {
    const logits = s.feed(tokens[i - 1]);
    const top = Math.max(...logits);
    yield top - logits[tokens[i]] + Math.log(logits.reduce((sum, v) => sum + Math.exp(v - top), 0));
  }
}
