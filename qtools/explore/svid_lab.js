// SVIDLab: a matrix whose rows, columns and single weights spread, and four approximations of it.
const [ROWS, COLUMNS] = [24, 36];
const LINE = 1 - 2 / Math.PI;
// Name, what the reader sees, what is stored.
const METHODS = [
  ["scale", "One scale", "signs, 1 number"],
  ["row", "Row scales", "signs, 24 numbers"],
  ["rank_one", "Rank one", "60 numbers, no signs"],
  ["svid", "SVID", "signs, 60 numbers"],
];
const list = (n, f) => Array.from({ length: n }, (_, i) => f(i));
const sum = (values) => values.reduce((a, b) => a + b, 0);
const square = (matrix) => sum(matrix.map((row) => dot(row, row)));

// Two hashes of a counter make a normal number (Box and Muller).
const uniform = (counter) => ((hash(counter) >>> 0) + 0.5) / 2 ** 32;
const normal = (seed, stream, count) =>
  list(count, (i) => {
    const at = seed * 32768 + stream * 4096 + 2 * i;
    return Math.sqrt(-2 * Math.log(uniform(at))) * Math.cos(2 * Math.PI * uniform(at + 1));
  });
function standard(values) {
  const mean = sum(values) / values.length;
  const centred = values.map((v) => v - mean);
  const spread = Math.sqrt(dot(centred, centred) / values.length);
  return centred.map((v) => v / spread);
}

function weight({ rows, columns, tail, pattern, seed }) {
  const [z, own] = [0, 1].map((stream) => normal(seed, stream, ROWS * COLUMNS));
  const [rho, gamma] = [standard(normal(seed, 2, ROWS)), standard(normal(seed, 3, COLUMNS))];
  const [d, e] = [normal(seed, 4, ROWS), normal(seed, 5, COLUMNS)];
  return list(ROWS, (i) => list(COLUMNS, (j) => {
    const k = i * COLUMNS + j;
    const signed = pattern ? Math.abs(z[k]) * Math.sign(d[i] * e[j]) : z[k];
    return signed * Math.exp(rows * rho[i] + columns * gamma[j] + tail * own[k]);
  }));
}

// The nearest matrix of rank one, (W v) vᵀ: the longest of the turned rows is sigma_1 v_1.
function rankOne(matrix) {
  const rows = jacobi(matrix.map((row) => Float64Array.from(row)));
  const v = rows.reduce((a, b) => (dot(b, b) > dot(a, a) ? b : a));
  const norm = dot(v, v);
  return matrix.map((row) => {
    const along = dot(row, v) / norm;
    return Array.from(v, (x) => along * x);
  });
}

const absolute = (w) => w.map((row) => row.map(Math.abs));
const signed = (w, magnitude) => w.map((row, i) => row.map((x, j) => Math.sign(x) * magnitude(i, j)));
function approximate(w, method) {
  const m = absolute(w);
  if (method === "rank_one") return rankOne(w);
  if (method === "svid") {
    const near = rankOne(m);
    return signed(w, (i, j) => near[i][j]);
  }
  const means = m.map((row) => sum(row) / COLUMNS);
  const all = sum(means) / ROWS;
  return signed(w, (i) => (method === "row" ? means[i] : all));
}
const minus = (a, b) => a.map((row, i) => row.map((x, j) => x - b[i][j]));

// Matrices and errors of one setting; the method only chooses what is drawn.
let last = {};
function solve({ rows, columns, tail, pattern, seed }) {
  const key = [rows, columns, tail, pattern, seed].join();
  if (last.key === key) return last;
  const w = weight({ rows, columns, tail, pattern, seed });
  const near = Object.fromEntries(METHODS.map(([name]) => [name, approximate(w, name)]));
  const errors = Object.fromEntries(METHODS.map(([name]) => [name, square(minus(w, near[name])) / square(w)]));
  return (last = { key, w, near, errors });
}
const compute = (state) => solve(state).errors;

// What the same recipe loses on an endless matrix. Rank one keeps nothing there, unless the signs
// are of rank one: then it is SVID.
function endless({ rows, columns, tail, pattern }) {
  const lost = (s) => 1 - (1 - LINE) * Math.exp(-s);
  const [r, c, t] = [rows, columns, tail].map((s) => s * s);
  return { scale: lost(r + c + t), row: lost(c + t), svid: lost(t), rank_one: pattern ? lost(t) : 1 };
}

const PRESETS = [
  ["Gaussian", { rows: 0, columns: 0, tail: 0, pattern: false }],
  ["Rows differ", { rows: 0.6, columns: 0, tail: 0, pattern: false }],
  ["Rows and columns differ", { rows: 0.6, columns: 0.6, tail: 0, pattern: false }],
  ["Heavy tail", { rows: 0, columns: 0, tail: 0.7, pattern: false }],
  ["Signs of rank one", { rows: 0.6, columns: 0.6, tail: 0, pattern: true }],
];
const percent = (v) => (100 * v).toFixed(2) + "%";

const explorable = {
  render({ model, el }) {
    const spread = (name, label, none) => slider({
      model, name, label, min: 0, max: 10, step: 1, to: (v) => v / 10, from: (v) => Math.round(10 * v),
      text: (v) => (v ? `× or ÷ ${fixed(Math.exp(v), 1)}` : none),
    });
    const controls = {
      rows: spread("rows", "Rows differ", "no"), columns: spread("columns", "Columns differ", "no"),
      tail: spread("tail", "Tail of the weights", "Gaussian"),
      pattern: checkbox({ model, name: "pattern", label: "signs of rank one" }),
    };
    const presets = buttons({ model, label: "Matrices", options: PRESETS });
    const again = node("button", { type: "button", onclick: () => put(model, { seed: (model.get("seed") % 99) + 1 }) }, "Draw another");
    const bars = METHODS.map(([name, text, stored]) => {
      const svg = node("svg", { width: "100%", height: 30, "aria-hidden": "true" });
      const key = node("button", { type: "button", class: "sv-row", onclick: () => put(model, { method: name }) },
        node("span", { class: "sv-name" }, node("b", {}, text), node("span", { class: "qx-key" }, stored)), output(name), svg);
      return { name, key, svg };
    });
    const lineLabel = node("span", { class: "sv-label qx-tg" }, "1 − 2/π: one scale, Gaussian");
    const panel = node("div", { class: "sv-bars", role: "group", "aria-label": "Approximations: what is lost, and which one is drawn" },
      node("div", { class: "sv-row sv-head", "aria-hidden": "true" }, node("span", {}), node("span", {}), node("div", {}, lineLabel)), bars.map((b) => b.key));
    const maps = node("svg", { "aria-hidden": "true" });
    const note = node("p", {}, "One square a weight: ", node("span", { class: "qx-tb" }, "■ positive"), ", ", node("span", { class: "qx-tr" }, "◫ negative"), ", stronger is larger. Most bars stop short of ┃: with only 864 weights, the numbers also fit chance.");

    const draw = (state, width) => {
      const { w, near, errors } = solve(state);
      const limits = endless(state);
      presets.sync(state);
      for (const [name, c] of Object.entries(controls)) c.sync(state[name]);
      for (const { name, key, svg } of bars) {
        key.setAttribute("aria-pressed", name === state.method);
        show(key, name, errors[name], fixed(errors[name], 3));
        svg.replaceChildren(...bar(errors[name], limits[name], name === state.method));
      }
      const text = METHODS.find(([name]) => name === state.method)[1];
      const room = drawMaps(maps, width, [["W", w], [text, near[state.method]], ["Error", minus(w, near[state.method])]]);
      // On a phone the words stand where a fourth map would be.
      note.style = room ? `margin:${-room}px 0 0 calc(50% + 8px);min-height:${room}px` : "margin:.5rem 0 0";
      return "Lost of the squared norm: " + METHODS.map(([name, t]) => `${t} ${fixed(errors[name], 3)}`).join(", ");
    };

    return mount({
      model, el, draw, names: ["rows", "columns", "tail", "pattern", "method", "seed"],
      label: "SVID laboratory: four approximations of a matrix",
      children: [
        node("style", {}, STYLE),
        presets.row,
        node("div", { class: "qx-controls qx-three", style: "margin-top:.7rem" }, controls.rows.row, controls.columns.row, controls.tail.row),
        node("div", { class: "qx-checks", style: "justify-content:space-between" }, controls.pattern.row, again),
        node("p", { class: "qx-title", style: "margin-top:.6rem" }, "Share of ‖W‖² lost: shorter is better. Press one to draw it.", node("span", { class: "qx-key", style: "font-weight:400" }, "┃ same recipe, endless matrix")),
        panel, maps,
        note,
      ],
    });
  },
};

const STYLE = `.qx .sv-row { display: grid; grid-template-columns: 9.5rem 3.2rem 1fr; gap: 0 .6rem; align-items: center; width: 100%; text-align: left; border: 1px solid transparent; padding: 0 .5rem; margin: 0; }
.qx .sv-row[aria-pressed=true] { background: var(--wash); border-color: var(--line); color: inherit; }
.qx .sv-name { display: flex; flex-direction: column; line-height: 1.2; padding: .25rem 0; } .qx .sv-name .qx-key { font-size: .8rem; }
.qx .sv-row output { font-weight: 650; font-size: 1.05rem; text-align: right; }
.qx .sv-head > :last-child { position: relative; height: 1.3rem; }
.qx .sv-label { position: absolute; left: ${percent(LINE)}; padding-left: 5px; font-size: .82rem; white-space: nowrap; color: var(--green); font-weight: 600; }
@media (max-width: 600px) { .qx .sv-row { grid-template-columns: 1fr auto; } .qx .sv-row > :last-child { grid-column: 1 / -1; } .qx .sv-head span:empty { display: none; } .qx .sv-row svg { overflow: hidden; } .qx .sv-label { padding: 0; transform: translateX(-36%); } }`;

function bar(value, limit, on) {
  const rect = (width, height, y, style) => node("rect", { width, height, y, style });
  return [
    rect("100%", 18, 6, "fill:var(--wash)"),
    rect(percent(value), 18, 6, `fill:var(--blue);opacity:${on ? 0.75 : 0.5}`),
    node("line", { x1: percent(limit), x2: percent(limit), y1: 3, y2: 27, style: "stroke:currentColor;stroke-width:2" }),
    node("line", { x1: percent(LINE), x2: percent(LINE), y1: -8, y2: 38, class: "qx-zero" }),
  ];
}

// Three maps beside each other, or two and one below. A negative weight has a slit in its square.
function drawMaps(svg, width, maps) {
  const across = width < 560 ? 2 : 3;
  const cell = (width - 16 * (across - 1)) / across / COLUMNS;
  const high = 24 + cell * ROWS;
  resize(svg, width, high * Math.ceil(3 / across) + 4);
  const rms = Math.sqrt(square(maps[0][1]) / (ROWS * COLUMNS));
  const STEPS = 12;
  const out = [];
  maps.forEach(([title, values], k) => {
    const [left, top] = [(k % across) * (cell * COLUMNS + 16), Math.floor(k / across) * high + 22];
    out.push(words(left, top - 6, title, "qx-bold", "start"));
    const shades = list(2 * STEPS, () => "");
    values.forEach((row, i) => row.forEach((v, j) => {
      const step = Math.min(STEPS - 1, Math.floor(STEPS * Math.sqrt(Math.abs(v) / (3 * rms))));
      const [x, y, s] = [left + j * cell, top + i * cell, cell - 0.5];
      let d = `M${x.toFixed(2)},${y.toFixed(2)}h${s.toFixed(2)}v${s.toFixed(2)}h-${s.toFixed(2)}z`;
      if (v < 0) d += `M${(x + s * 0.2).toFixed(2)},${(y + s * 0.4).toFixed(2)}v${(s * 0.2).toFixed(2)}h${(s * 0.6).toFixed(2)}v-${(s * 0.2).toFixed(2)}z`;
      shades[2 * step + (v < 0)] += d;
    }));
    shades.forEach((d, n) => d && out.push(node("path", { d, style: `fill:var(--${n % 2 ? "red" : "blue"});opacity:${((n >> 1) + 0.5) / STEPS}` })));
    out.push(node("rect", { x: left - 0.5, y: top - 0.5, width: cell * COLUMNS + 0.5, height: cell * ROWS + 0.5, style: "fill:none;stroke:var(--line)" }));
  });
  svg.replaceChildren(...out);
  return across < 3 && high - 16;
}
