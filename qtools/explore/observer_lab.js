// Observer laboratory: five observers see the same batches; the range of each, and what it costs.
const [BATCHES, SIZE, BINS] = [20, 1024, 2048];
const STREAMS = [["calm", "Calm"], ["relu", "After ReLU"], ["growing", "Range grows"], ["outliers", "Outliers in batch 6"], ["equal", "All equal"]];
const mix = (colour) => `color-mix(in srgb, ${colour} 78%, currentColor)`;
// Name, what the reader sees, colour, dashes.
const FIVE = [
  ["minmax", "min–max", "var(--red)", "none"],
  ["average", "moving average", mix("#cc79a7"), "8 3"],
  ["percentile", "percentile", "var(--green)", "2 3"],
  ["mse", "histogram, MSE", "var(--blue);stroke-width:3.5", "none"],
  ["kl", "histogram, KL", mix("#e69f00"), "8 3 2 3"],
];
const SHOWN = ["_min", "_max", "_sqnr", "_outside"];
const list = (n, f) => Array.from({ length: n }, (_, i) => f(i));

function value(stream, k, i) {
  if (stream === "equal") return 1.5;
  let x = bell((k - 1) * SIZE + i);
  x += (x * x * x) / 16;
  if (stream === "relu") x = Math.max(x, 0);
  if (stream === "growing") x = (x * (7 + k)) / 8;
  if (stream === "outliers" && k === 6 && i % 171 === 0) x = 16 + 2 * Math.abs(x);
  return Math.floor(x * 1024 + 0.5) / 1024;
}

// Worked out once, kept as long as the page lives.
const kept = {};
const keep = (key, make) => (kept[key] ??= make());
const batch = (stream, k) => keep(stream + k, () => list(SIZE, (i) => value(stream, k, i)));
const extremes = (x) => [Math.min(...x), Math.max(...x)];

// All values of the first n batches. Bin k is [k w, (k + 1) w), w the smallest power of two for
// which BINS bins do. `nonzero` are the counts without exact zeros, `zero` is the bin that 0 is in.
const histogram = (stream, n) =>
  keep(stream + n + "h", () => {
    const x = list(n, (k) => batch(stream, k + 1)).flat();
    const [min, max] = extremes(x);
    const [low, high] = extremes([0, min, max]);
    let w = 2 ** (Math.floor(Math.log2(Math.max(-low, high))) - 11);
    while (Math.floor(high / w) - Math.floor(low / w) >= BINS) w *= 2;
    const zero = -Math.floor(low / w);
    const [counts, nonzero] = list(2, () => Array(BINS).fill(0));
    for (const v of x) {
      const k = Math.floor(v / w) + zero;
      counts[k]++;
      if (v) nonzero[k]++;
    }
    return { x, min, max, low, high, w, zero, counts, nonzero };
  });

// Two percentiles; the i-th smallest value is exact while there are no more values than bins.
function percentiles({ x, counts, w, zero, min, max }, p) {
  const last = x.length - 1;
  const sorted = last < BINS && Float64Array.from(x).sort();
  const order = (i) => {
    if (sorted) return sorted[clamp(i, 0, last)];
    if (i <= 0 || i >= last) return i > 0 ? max : min;
    let [k, before] = [0, 0];
    while (before + counts[k] <= i) before += counts[k++];
    return clamp((k - zero + (i - before + 0.5) / counts[k]) * w, min, max);
  };
  const at = (p / 100) * last;
  const i = Math.floor(at);
  const quantile = (v) => v(i) + (at - i) * (v(i + 1) - v(i));
  return [quantile((j) => order(last - j)), quantile(order)];
}

// K(t) = sum of max(x - t, 0) on one side of 0, values spread evenly over their bins.
function excess(counts, high) {
  const n = Math.floor(high) + 1;
  const edge = (k) => (k === n ? high : k);
  const [half, beyond, over] = list(3, () => new Float64Array(n));
  for (let k = n - 1, sum = 0; k >= 0; k--) {
    const [c, size] = [counts[k] ?? 0, edge(k + 1) - k];
    half[k] = size && c / (2 * size);
    if (!k) break;
    over[k - 1] = over[k] + size * (sum + c / 2);
    beyond[k - 1] = sum += c;
  }
  return (t) => {
    if (t >= high) return 0;
    const k = Math.floor(t);
    const rest = edge(k + 1) - t;
    return (half[k] * rest + beyond[k]) * rest + over[k];
  };
}

// Least squared error: 64 scales an octave, each with its best zero point. A level at s (j + 1)
// takes K(s (j + 1/2)) times 2 s off the error, wherever the other levels are.
function leastSquares({ nonzero, zero, w, min, max }, n) {
  const sides = [excess(nonzero.slice(0, zero).reverse(), -min / w), excess(nonzero.slice(zero), max / w)];
  const earned = list(2, () => new Float64Array(n + 1));
  let [most, ends] = [-1];
  for (let i = -Math.floor(64 * Math.log2(n / (n - 1))); i <= 64 * 11; i++) {
    const s = ((max - min) / w / n) * 2 ** (-i / 64);
    for (let j = 0; j < n; j++) sides.forEach((K, e) => (earned[e][j + 1] = earned[e][j] + K(s * (j + 0.5))));
    for (let b = 0; b <= n; b++) {
      const gain = s * (earned[0][n - b] + earned[1][b]);
      if (gain > most) [most, ends] = [gain, [-s * w * (n - b), s * w * b]];
    }
  }
  return ends;
}

// Least divergence of the clipped histogram P from Q, which knows only the sums of L runs of bins.
function leastDivergence({ nonzero: c, zero, w, min, max }, L) {
  const xLogX = (v) => v * Math.log(Math.max(v, 1));
  const sums = (f, sum = 0) => [0, ...c.map((v) => (sum += f(v)))];
  const [mass, filled, entropy] = [sums((v) => v), sums((v) => v > 0), sums(xLogX)];
  const used = [Math.max(zero - c.findIndex((v) => v), 0), c.findLastIndex((v) => v) + 1 - zero];
  const widest = Math.max(...used);
  let [least, best] = [Infinity, widest];
  for (let m = widest; m > 0; m--) {
    const [first, last] = [zero - Math.min(m, used[0]), zero + Math.min(m, used[1])];
    if (last - first < L) break;
    const outer = [[mass[first], c[first]], [mass[BINS] - mass[last], c[last - 1]]];
    // Q is 0 where values were clipped to an empty bin.
    if (outer.some(([clipped, edge]) => clipped && !edge)) continue;
    let cost = entropy[last] - entropy[first];
    const logQ = [];
    for (let r = 1, a = first; r <= L; r++) {
      const b = first + Math.ceil((r * (last - first)) / L);
      const sum = mass[b] - mass[a];
      logQ[+(r > 1)] = sum && Math.log(sum / ((filled[b] - filled[a]) * (mass[last] - mass[first])));
      cost -= sum * logQ.at(-1);
      a = b;
    }
    outer.forEach(([clipped, edge], e) => (cost += xLogX(edge + clipped) - xLogX(edge) - clipped * logQ[e]));
    if (cost < least) [least, best] = [cost, m];
  }
  return [Math.max(min, -best * w), Math.min(max, best * w)];
}

// The range of every observer after n batches, widened to contain 0.
function ranges({ stream, bits, averaging_constant, percentile }, n) {
  const h = histogram(stream, n);
  const average = list(n, (k) => extremes(batch(stream, k + 1))).reduce((a, b) => a.map((v, e) => v + averaging_constant * (b[e] - v)));
  const all = [h.min, h.max];
  const search = (find, n) => keep([stream, h.x.length, n], () => (h.min === h.max ? all : find(h, n)));
  return [all, average, percentiles(h, percentile), search(leastSquares, 2 ** bits - 1), search(leastDivergence, 2 ** bits)]
    .map((ends) => extremes([0, ...ends]));
}

function compute(state) {
  const { x } = histogram(state.stream, state.batches);
  const signal = x.reduce((sum, v) => sum + v * v, 0);
  const n = 2 ** state.bits - 1;
  return Object.fromEntries(ranges(state, state.batches).flatMap(([low, high], o) => {
    const s = (high - low) / n;
    const z = clamp(-roundHalfEven(low / s), 0, n);
    let [noise, outside] = [0, 0];
    for (const v of x) {
      noise += (v - s * clamp(roundHalfEven(v * (1 / s)), -z, n - z)) ** 2;
      outside += v < low || v > high;
    }
    return [low, high, 10 * Math.log10(signal / noise), outside / x.length].map((v, i) => [FIVE[o][0] + SHOWN[i], v]);
  }));
}

const STYLE = `
.ob { display: grid; grid-template-columns: minmax(0, 1fr) 54px 62px; gap: 0 4px; align-items: end; border-top: 1px solid var(--line); padding: 2px 0; }
.ob-head { border: 0; line-height: 1.2; }
.ob > :nth-child(n+3) { text-align: right; white-space: nowrap; }
.ob > svg { grid-row: 2; grid-column: 1 / -1; }
.ob-head > svg { grid-row: 1; }
.ob small { color: var(--soft); font-size: .75rem; white-space: nowrap; }
.qx [aria-disabled=true] { opacity: .5; }
`;
const dB = (v) => (v < Infinity ? fixed(v, 1) : "∞");
const tick = (x, base, text, dy = 18) => [line(x, base, x, base + 4, "qx-axis"), words(x, base + dy, text, "qx-small")];
const svgNode = () => node("svg", { "aria-hidden": "true" });
const ink = ([colour, dash]) => `fill:none;stroke-width:2.2;stroke-dasharray:${dash};stroke:${colour}`;

const explorable = {
  render({ model, el }) {
    const names = ["stream", "bits", "averaging_constant", "percentile", "batches"];
    const scale = (name, label, min, max, step, unit) => slider({ model, name, label, min, max, step, text: (v) => v + unit });
    const controls = [
      choice({ model, name: "stream", label: "Batches", options: STREAMS }),
      scale("bits", "Bits", 2, 8, 1, " bits"),
      scale(names[2], "Moving average, c", 0.01, 1, 0.01, ""),
      scale(names[3], "Percentile, p", 98, 100, 0.01, " %"),
    ];
    const go = (n) => put(model, { batches: clamp(n, 1, BATCHES) });
    const button = (text, to, style) => node("button", { type: "button", style, onclick: () => go(to()) }, text);
    const feed = button("Feed the next batch", () => model.get("batches") + 1, "background:#0072b2;color:#fff");
    const count = node("span");
    const bars = svgNode();
    const brackets = FIVE.map(svgNode);
    const rows = FIVE.map(([name, text], o) => {
      const [low, high, sqnr, outside] = SHOWN.map((what) => output(name + what));
      return node("div", { class: "ob" }, node("div", {}, node("b", {}, text), " ", node("small", {}, low, " to ", high)), brackets[o], sqnr, outside);
    });
    const picture = node("g", { "aria-hidden": "true" });
    const box = (c) => node("rect", { class: c, x: -12, width: 24, height: BASE + 16 });
    const children = [line(0, 4, 0, BASE, "qx-axis"), node("path", { class: "qx-flag", d: `M0,${BASE}l7,12h-14z` }), box("qx-ring"), box("qx-hit")];
    const knob = handle({ label: "Batches fed", name: "batches", get: () => model.get("batches"), set: go, range: () => [1, BATCHES], step: 1, page: 5, children });
    const strip = node("svg", {}, picture, knob.n);
    let back;
    drag(strip, (e) => go(back(svgX(strip, e))));
    const body = node("div", {},
      node("style", {}, STYLE),
      node("div", { class: "qx-controls" }, controls.map((c) => c.row)),
      node("div", { class: "qx-buttons", style: "align-items:center" }, feed, button("Start again", () => 1), count),
      node("div", { class: "ob ob-head" },
        node("small", {}, "log scale, █ newest, ░ all so far"), bars, node("small", {}, "signal to", node("br"), "noise, dB"), node("small", {}, "values", node("br"), "outside")),
      rows,
      node("p", { class: "qx-title", style: "margin-top:.9rem" }, "Upper end of each range, ● batch maximum"), strip);

    const redraw = (state, width) => {
      const r = compute(state);
      controls.forEach((c, i) => c.sync(state[names[i]]));
      feed.setAttribute("aria-disabled", state.batches === BATCHES);
      const now = (count.textContent = `batch ${state.batches} of ${BATCHES}`);
      const x = drawBars(bars, state, width);
      const best = Math.max(...FIVE.map(([name]) => r[name + "_sqnr"]));
      let winner;
      FIVE.forEach(([name, text, ...look], o) => {
        const values = SHOWN.map((what) => r[name + what]);
        const [a, b] = values.map(x);
        const star = values[2] === best ? "★ " : "";
        const texts = [fixed(values[0], 2), fixed(values[1], 2), star + dB(values[2]), fixed(100 * values[3], 2) + " %"];
        texts.forEach((shown, i) => show(body, name + SHOWN[i], values[i], shown));
        if (star) winner = text;
        resize(brackets[o], width, 22);
        brackets[o].replaceChildren(line(x(0), 0, x(0), 22, "qx-grid"), node("path", { d: `M${a},3V19M${a},11H${b}M${b},3V19`, style: ink(look) }));
      });
      back = drawStrip(strip, picture, knob.n, state, width);
      knob.sync(state.batches, now);
      return `${now}, best: ${winner}, ${dB(best)} decibel`;
    };
    return mount({ model, el, names, draw: redraw, label: "Observer laboratory: five ranges for the same batches", children: [body] });
  },
};

// Multiples of a power of two, at most seven.
function ticks(low, high) {
  const step = 2 ** Math.ceil(Math.log2((high - low) / 6));
  const first = Math.ceil(low / step);
  return list(Math.floor(high / step) - first + 1, (k) => (first + k) * step);
}

// All counts so far, and the newest batch in front. Bars join a power of two of bins.
function drawBars(svg, { stream, batches }, width) {
  const base = 128;
  resize(svg, width, 150);
  const { x: values, low, high, w } = histogram(stream, batches);
  const unit = (width - 44) / (high - low);
  const x = (v) => 22 + (v - low) * unit;
  const wide = w * 2 ** Math.max(0, Math.ceil(Math.log2(5 / (w * unit))));
  const tally = (some) => {
    const t = {};
    for (const v of some) t[Math.floor(v / wide)] = (t[Math.floor(v / wide)] ?? 0) + 1;
    return Object.entries(t);
  };
  const all = tally(values);
  // log 2.5 n: one value alone has a bar too.
  const most = Math.log(2.5 * Math.max(...all.map(([, n]) => n)));
  const y = (c) => base - (114 * Math.log(2.5 * c)) / most;
  const bar = (style) => ([k, c]) => node("rect", { x: x(k * wide), y: y(c), width: wide * unit - 1, height: base - y(c), style });
  svg.replaceChildren(
    ...[1, 10, 100, 1000, 10000].filter((c) => y(c) > 13).flatMap((c) => [line(0, y(c), width, y(c), "qx-grid"), words(0, y(c) - 2, c, "qx-small qx-sub", "start")]),
    ...all.map(bar("fill:var(--line)")), ...tally(batch(stream, batches)).map(bar("fill:var(--soft)")),
    line(0, base, width, base, "qx-axis"),
    ...ticks(low, high).flatMap((v) => tick(x(v), base, tidy(v))),
  );
  return x;
}

const BASE = 168;
function drawStrip(svg, picture, knob, state, width) {
  resize(svg, width, 204);
  const { stream, batches } = state;
  const gap = (width - 154) / (BATCHES - 1);
  const x = (k) => 30 + (k - 1) * gap;
  const tops = list(batches, (k) => extremes(batch(stream, k + 1))[1]);
  const most = 1.06 * Math.max(...tops);
  const y = (v) => BASE - (v / most) * (BASE - 12);
  const ends = list(batches, (k) => ranges(state, k + 1).map(([, high]) => y(high)));
  const at = x(batches);
  // Names at the ends of the lines, 14 apart.
  const labels = FIVE.map(([, text, colour], o) => [ends.at(-1)[o], text.split(", ").at(-1), colour]).sort((a, b) => a[0] - b[0]);
  let below = 0;
  picture.replaceChildren(
    ...ticks(0, most).flatMap((v) => [line(30, y(v), x(BATCHES), y(v), "qx-grid"), words(24, y(v) + 4, tidy(v), "qx-small", "end")]),
    line(30, BASE, x(BATCHES), BASE, "qx-axis"),
    ...[1, 5, 10, 15, 20].flatMap((k) => tick(x(k), BASE, k === 1 ? "batch 1" : k, 28)),
    ...tops.map((v, k) => node("circle", { cx: x(k + 1), cy: y(v), r: 3, style: "fill:var(--soft)" })),
    ...FIVE.map(([, , ...look], o) => node("path", { style: ink(look), d: "M" + ends.map((e, k) => `${x(k + 1)},${e[o]}`).join("L") + "h5" })),
    ...labels.map(([end, text, colour], i) => {
      below = Math.min(Math.max(end, below + 14), BASE - 14 * (4 - i));
      return node("text", { x: at + 14, y: below + 4, class: "qx-small", style: "font-weight:600;fill:" + colour }, text);
    }),
  );
  knob.setAttribute("transform", `translate(${at})`);
  return (px) => Math.round(1 + (px - 30) / gap);
}
