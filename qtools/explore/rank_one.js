// RankOne: a row pattern times a column pattern, drawn by hand beside the matrix it is to be.
const MATRICES = {
  positive: [[3, 1, 2, 2, 1], [6, 2, 5, 2, 4], [9, 3, 5, 3, 7], [4, 2, 3, 1, 3]],
  mixed: [[-3, 1, 2, 2, -1], [6, 2, -5, -2, 4], [-9, -3, -5, -3, 7], [-4, 2, 3, -1, -3]],
  pattern: [[3, 1, -2, 2, -1], [-6, -2, 5, -2, 4], [9, 3, -5, 3, -7], [-4, -2, 3, -1, 3]],
  blocks: [[5, 5, 0, 0, 0], [5, 5, 0, 0, 0], [0, 0, 4, 4, 4], [0, 0, 4, 4, 4]],
};
// Room between the bars of a and the product.
const PAD = 8;
const [MOST, STEP, ROWS, COLUMNS] = [4, 0.1, 4, 5];
const list = (n, f) => Array.from({ length: n }, (_, i) => f(i));
const A = list(ROWS, (i) => "a" + (i + 1));
const B = list(COLUMNS, (j) => "b" + (j + 1));
const sum = (values) => values.reduce((x, y) => x + y, 0);
const dot = (x, y) => sum(x.map((v, i) => v * y[i]));
const times = (m, v) => m.map((row) => dot(row, v));
const flip = (m) => m[0].map((_, j) => m.map((row) => row[j]));
const length = (v) => Math.sqrt(dot(v, v));
const map = (m, f) => m.map((row, i) => row.map((x, j) => f(x, i, j)));

const vectors = (state) => [A.map((n) => state[n]), B.map((n) => state[n])];
const target = ({ matrix, magnitude }) => (magnitude ? map(MATRICES[matrix], Math.abs) : MATRICES[matrix]);
function product(state) {
  const [a, b] = vectors(state);
  return map(MATRICES[state.matrix], (w, i, j) => (state.magnitude && w < 0 ? -1 : 1) * a[i] * b[j]);
}

// Both of the same length; the product stays. Entries of a balanced pair stay well inside the range.
function balanced(a, b) {
  const c = Math.sqrt(length(b) / length(a));
  const named = (names, v) => names.map((n, i) => [n, clamp(v[i], -MOST, MOST)]);
  return Object.fromEntries([...named(A, a.map((x) => x * c)), ...named(B, b.map((x) => x / c))]);
}
// The best b for this a, then the best a for that b: least squares twice, a step of the power
// iteration. From nothing, or from an a that W takes to nothing, it starts at ones.
function step(state) {
  const m = target(state);
  const from = (a) => times(flip(m), a);
  let [a] = vectors(state);
  if (length(from(a)) < 1e-9) a = A.map(() => 1);
  if (length(from(a)) < 1e-9) a = A.map((_, i) => (i ? 0 : 1));
  const b = from(a).map((x) => x / dot(a, a));
  return balanced(times(m, b).map((x) => x / dot(b, b)), b);
}
// The end of that iteration. The start is at a right angle to none of the answers.
const found = {};
function best(state) {
  return (found[state.matrix + state.magnitude] ??= (() => {
    let at = { ...state, ...Object.fromEntries([...A, ...B].map((n, i) => [n, 1 + i / 8])) };
    for (let i = 0; i < 800; i++) at = { ...at, ...step(at) };
    return Object.fromEntries([...A, ...B].map((n) => [n, at[n]]));
  })());
}
function relative(state) {
  const [w, p] = [MATRICES[state.matrix], product(state)];
  return sum(w.map((row, i) => sum(row.map((x, j) => (x - p[i][j]) ** 2)))) / sum(w.map((row) => dot(row, row)));
}
function compute(state) {
  const [error, least] = [relative(state), relative({ ...state, ...best(state) })];
  return { error, best: least, above: error - least };
}

const CHOICES = [["Nearly rank one", "positive"], ["Signs mixed", "mixed"], ["Signs of rank one", "pattern"], ["Two blocks", "blocks"]];
const FLAT = Object.fromEntries([...A.map((n) => [n, 1]), ...B.map((n) => [n, 2])]);
const SUB = "₁₂₃₄₅";
const label = (n) => n[0] + SUB[n[1] - 1];

const explorable = {
  render({ model, el }) {
    const names = ["matrix", "magnitude", ...A, ...B];
    const state = () => Object.fromEntries(names.map((n) => [n, model.get(n)]));
    const set = (n) => (v) => put(model, { [n]: Math.round(clamp(v, -MOST, MOST) / STEP) / Math.round(1 / STEP) });
    let at = {};
    const handles = [...A, ...B].map((n, k) => {
      const row = k < ROWS;
      const hit = node("rect", { class: "qx-hit", style: row ? "cursor:ew-resize" : "cursor:ns-resize;touch-action:none" });
      const ring = node("circle", { class: "qx-ring", r: 11 });
      const [bar, knob] = [node("rect"), node("circle", { r: 7 })];
      const text = node("text", { class: "qx-bold", "text-anchor": "middle" });
      const h = handle({
        label: `${n}, ${row ? "row" : "column"} ${n[1]}`, name: n, get: () => model.get(n), set: set(n),
        range: () => [-MOST, MOST], step: STEP, page: 1, children: [bar, ring, knob, text, hit],
      });
      drag(h.n, (e) => set(n)(at.value(n, e)));
      return { ...h, name: n, row, k: row ? k : k - ROWS, hit, ring, bar, knob, text };
    });
    const scene = node("g", { "aria-hidden": "true" });
    const svg = node("svg", {}, scene, handles.map((h) => h.n));
    const gauge = node("svg", { width: "100%", height: 56, "aria-hidden": "true" });
    const choices = buttons({ model, label: "Matrix", options: CHOICES.map(([text, matrix]) => [text, { matrix }]) });
    const first = checkbox({ model, name: "magnitude", label: "take |W| first, put the signs back after" });
    const press = (text, changes) => node("button", { type: "button", onclick: () => put(model, changes(state())) }, text);
    const acts = node("div", { class: "qx-buttons" },
      press("One step of power iteration", step), press("Show the best", best), press("Start again", () => FLAT));
    const striped = stripes();
    const rows = node("p", { class: "qx-say" });
    const facts = node(
      "div", { class: "qx-facts qx-three" },
      fact("■ squared error / ‖W‖²", "qx-tb", output("error")), fact("┊ smallest possible", "qx-tg", output("best")), fact("above it", "", output("above")),
    );

    const draw = (now, width) => {
      const r = compute(now);
      choices.sync(now);
      first.sync(now.magnitude);
      rows.textContent = "Rows of W: " + MATRICES[now.matrix].map((row) => row.join(", ")).join("; ");
      at = drawScene(svg, scene, now, width);
      for (const h of handles) place(h, now[h.name], at);
      drawGauge(gauge, r, striped.fill);
      for (const n of ["error", "best", "above"]) show(facts, n, r[n], fixed(r[n], 3));
      return `squared error ${fixed(r.error, 3)} of the squared norm, ${fixed(r.above, 3)} above the smallest possible`;
    };

    return mount({
      model, el, draw, names, label: "Rank one by hand",
      children: [
        node("style", {}, ".qx .qx-tg { color: var(--green); } .qx svg text.ro-small { font-size: 12px; }"),
        choices.row, node("div", { style: "margin:.5rem 0" }, first.row), acts, rows, striped.holder, facts, gauge,
        node("p", { class: "qx-title" }, "Drag the green bars of a and b: cell i, j of the product is aᵢ bⱼ."), svg,
        node("p", { class: "qx-note" }, "A step takes the best b for this a, b = Wᵀa / ‖a‖², then the best a for that b, a = W b / ‖b‖², and gives both the same length."),
      ],
    });
  },
};

// W, then the product with a at its left and b above it, then what is missing. On a phone the
// product comes first.
function drawScene(svg, scene, now, width) {
  const wide = width >= 560;
  const strip = 80;
  const gap = 18;
  const cell = Math.min(wide ? (width - strip - PAD - 2 * gap) / 15 : (width - strip - PAD) / COLUMNS, 46);
  const small = wide ? cell : (width - gap) / 10;
  const head = 26;
  const top = head + strip;
  const [grid, side] = [cell * COLUMNS, small * COLUMNS];
  const below = wide ? top : top + cell * ROWS + 44;
  const left = wide ? side + gap + strip + PAD : strip + PAD + Math.max(0, (width - strip - PAD - grid) / 2);
  const axis = left - PAD - strip / 2;
  resize(svg, width, below + small * ROWS + 6);
  const [w, p] = [MATRICES[now.matrix], product(now)];
  const out = [];
  const matrix = (x, y, size, title, values, digits) => {
    out.push(words(x, y - 8, title, "qx-bold", "start"));
    values.forEach((row, i) => row.forEach((v, j) => {
      const strength = Math.min(0.6, 0.6 * Math.abs(v) / 9);
      out.push(
        node("rect", { x: x + j * size, y: y + i * size, width: size - 1.5, height: size - 1.5, style: `fill:var(--${v < 0 ? "red" : "blue"});fill-opacity:${strength};stroke:var(--line)` }),
        words(x + (j + 0.5) * size - 1, y + (i + 0.5) * size + 4, fixed(v, Math.abs(v) < 9.95 ? digits : 0), size < 36 ? "ro-small" : ""),
      );
    }));
  };
  matrix(0, below, small, "W, the goal", w, 0);
  matrix(left, top, cell, "", p, 1);
  out.push(words(left, 13, now.magnitude ? "a bᵀ with the signs of W" : "a bᵀ", "qx-bold", "start"));
  matrix(wide ? left + grid + gap : side + gap, below, small, "Error: W − product", map(w, (v, i, j) => v - p[i][j]), 1);
  out.push(words(axis, top - 8, "a", "qx-bold qx-g"), words(left - 10, head + strip / 2, "b", "qx-bold qx-g", "end"));
  const y = head + strip / 2;
  out.push(line(axis, top, axis, top + cell * ROWS, "qx-axis"), line(left, y, left + grid, y, "qx-axis"));
  scene.replaceChildren(...out);
  const perUnit = (strip / 2 - 10) / MOST;
  return {
    left, axis, top, cell, strip, head, perUnit,
    value: (n, e) => {
      const box = svg.getBoundingClientRect();
      return n[0] === "a" ? (e.clientX - box.left - axis) / perUnit : (head + strip / 2 - e.clientY + box.top) / perUnit;
    },
  };
}

const setAll = (n, attributes) => Object.entries(attributes).forEach(([k, v]) => n.setAttribute(k, v));

function place(h, v, { left, axis: zero, top, cell, strip, head, perUnit }) {
  const size = Math.abs(v) * perUnit;
  const end = v * perUnit;
  if (h.row) {
    const y = top + h.k * cell;
    setAll(h.hit, { x: zero - strip / 2, y, width: strip, height: cell });
    setAll(h.bar, { x: Math.min(zero, zero + end), y: y + cell / 2, width: size, height: 12 });
    setAll(h.knob, { cx: zero + end, cy: y + cell / 2 + 6 });
    setAll(h.text, { x: zero + (v < 0 ? 25 : -25), y: y + cell / 2 + 10 });
  } else {
    const [base, x] = [head + strip / 2, left + h.k * cell];
    setAll(h.hit, { x, y: head - 20, width: cell, height: strip + 18 });
    setAll(h.bar, { x: x + cell / 2 - 6, y: Math.min(base, base - end), width: 12, height: size });
    setAll(h.knob, { cx: x + cell / 2, cy: base - end });
    setAll(h.text, { x: x + cell / 2, y: base + (v < 0 ? -6 : 16) });
  }
  setAll(h.ring, { cx: h.knob.getAttribute("cx"), cy: h.knob.getAttribute("cy") });
  for (const n of [h.bar, h.knob]) n.setAttribute("style", "fill:var(--green)");
  h.text.textContent = fixed(v, 1);
  h.sync(v, `${label(h.name)} = ${fixed(v, 1)}`);
}

// From nothing lost to all of W lost; past that, red stripes.
function drawGauge(svg, { error, best }, striped) {
  const percent = (v) => (100 * clamp(v, 0, 1)).toFixed(2) + "%";
  const rect = (width, style) => node("rect", { width, height: 18, y: 14, style });
  svg.replaceChildren(
    rect("100%", "fill:var(--wash)"), rect(percent(error), "fill:var(--blue);opacity:.65"),
    ...(error > 1 ? [rect("100%", striped)] : []),
    node("line", { x1: percent(best), x2: percent(best), y1: 6, y2: 40, class: "qx-zero" }),
    words("100%", 48, error > 1 ? "above 1: worse than a = 0" : "1: as with a = 0", "qx-small", "end"),
  );
}
