// PackedDot: sixteen signs times sixteen activations, step by step, three ways.
const [N, GROUP, MOST] = [16, 4, 4];
const WAYS = {
  flip: { steps: 16, each: 3, shared: 0 },
  mask: { steps: 17, each: 1, shared: 15 },
  table: { steps: 4, each: 3, shared: 88 },
};
const COLUMNS = Array.from({ length: N }, (_, j) => j);
const X = COLUMNS.map((j) => "x" + j);
const bit = (bits, j) => (bits >> j) & 1;
const signed = (state, j) => (bit(state.bits, j) ? -1 : 1) * state["x" + j];
const sum = (values) => values.reduce((a, b) => a + b, 0);
const done = ({ way, step }) => Math.min(step, WAYS[way].steps);
const seen = (state) => Math.min(N, done(state) * (state.way === "table" ? GROUP : 1));
const index = (bits, c) => (bits >> (GROUP * c)) & 15;
const masked = (state, k) => sum(COLUMNS.slice(0, k).filter((j) => bit(state.bits, j)).map((j) => state["x" + j]));
// The sum of group c under each of the sixteen patterns of four signs.
const table = (state, c) => COLUMNS.map((i) => sum([0, 1, 2, 3].map((j) => (bit(i, j) ? -1 : 1) * state["x" + (GROUP * c + j)])));

function compute(state) {
  const { steps, each, shared } = WAYS[state.way];
  const k = done(state);
  const all = sum(X.map((n) => state[n]));
  let partial = sum(COLUMNS.slice(0, seen(state)).map((j) => signed(state, j)));
  if (state.way === "mask") partial = k > N ? all - 2 * masked(state, k) : masked(state, k);
  return {
    sum: partial,
    result: sum(COLUMNS.map((j) => signed(state, j))),
    operations: each * k,
    bytes: Math.ceil(seen(state) / 8),
    shared,
    per_row: each * steps + shared / state.rows,
  };
}

const one = (v) => fixed(v, 1);
function sentence(state) {
  const [k, { bits, way }] = [done(state), state];
  const all = one(sum(X.map((n) => state[n])));
  const [j, x] = [k - 1, one(state["x" + (k - 1)] ?? 0)];
  if (way === "flip") {
    if (!k) return "Nothing to prepare. Take the first bit.";
    return bit(bits, j) ? `Bit ${j} is 1: flip the sign of ${x}, add ${one(signed(state, j))}, take the next bit.` : `Bit ${j} is 0: keep the sign, add ${x}, take the next bit.`;
  }
  if (way === "mask") {
    if (!k) return `Once for all rows: Σx = ${all}.`;
    if (k > N) return `Σx − 2 · ${one(masked(state, k))} = ${all} − ${one(2 * masked(state, k))} = ${one(compute(state).sum)}`;
    return bit(bits, j) ? `Bit ${j} is 1: add ${x}.` : `Bit ${j} is 0: leave ${x} out.`;
  }
  if (!k) return "Once for all rows: the 16 sums of each four activations.";
  const i = index(bits, j);
  return `The low four bits are entry ${i}: look it up, add ${one(table(state, j)[i])}, shift to the next four.`;
}

const EXAMPLES = [["Flip signs", { way: "flip" }], ["Mask a sum", { way: "mask" }], ["Look up", { way: "table" }]];

const explorable = {
  render({ model, el }) {
    const names = ["way", "bits", "step", "rows", ...X];
    const set = (j) => (v) => put(model, { ["x" + j]: Math.round(2 * clamp(v, -MOST, MOST)) / 2 });
    let at = {};
    const columns = COLUMNS.map((j) => {
      const hit = node("rect", { class: "qx-hit", style: "cursor:ns-resize;touch-action:none" });
      const [ring, bar, knob] = [node("circle", { class: "qx-ring", r: 11 }), node("rect"), node("circle", { r: 6 })];
      const value = node("text", { class: "qx-bold", "text-anchor": "middle" });
      const h = handle({ label: `x${j}`, name: "x" + j, get: () => model.get("x" + j), set: set(j), range: () => [-MOST, MOST], step: 0.5, page: 1, children: [bar, ring, knob, value, hit] });
      drag(h.n, (e) => set(j)(at.value(j, e)));
      const turn = () => put(model, { bits: model.get("bits") ^ (1 << j) });
      const [cell, digit] = [node("rect", { rx: 4 }), node("text", { class: "qx-bold", "text-anchor": "middle" })];
      const key = node("g", { role: "switch", tabindex: 0, "aria-label": `bit ${j}`, class: "pd-bit", onclick: turn }, cell, digit);
      key.addEventListener("keydown", (e) => {
        if (e.key !== " " && e.key !== "Enter") return;
        e.preventDefault();
        turn();
      });
      return { ...h, hit, ring, bar, knob, value, key, cell, digit };
    });
    const scene = node("g", { "aria-hidden": "true" });
    const svg = node("svg", {}, scene, columns.map((c) => [c.n, c.key]));
    const entries = node("svg", { "aria-hidden": "true" });
    const ways = buttons({ model, label: "Way", options: EXAMPLES });
    const step = slider({ model, name: "step", label: "Steps done", min: 0, max: 17, step: 1, text: (k) => `${k} of ${WAYS[model.get("way")].steps}` });
    const rows = slider({ model, name: "rows", label: "Rows that share what is prepared", min: 0, max: 12, step: 1, to: (p) => 2 ** p, from: (v) => Math.round(Math.log2(v)), text: (v) => v.toLocaleString("en") });
    const go = (text, to) => node("button", { type: "button", onclick: () => put(model, { step: clamp(to(done({ way: model.get("way"), step: model.get("step") })), 0, WAYS[model.get("way")].steps) }) }, text);
    const acts = node("div", { class: "qx-buttons" }, go("◀ Back", (k) => k - 1), go("Step ▶", (k) => k + 1), go("To the end", () => N + 1), go("Start again", () => 0));
    const says = node("p", { class: "pd-now" });
    const label = node("span", { class: "qx-tb" });
    const facts = node("div", { class: "qx-facts" },
      node("div", { class: "qx-fact" }, label, output("sum")), fact("S x, the answer", "", output("result")),
      fact("operations, this row", "", output("operations")), fact("bytes of weights read", "", output("bytes")),
      fact("prepared for all rows", "", output("shared")), fact("operations a row, with its share", "", output("per_row")));

    const draw = (state, width) => {
      const r = compute(state);
      const { steps } = WAYS[state.way];
      ways.sync(state);
      step.row.querySelector("input").max = steps;
      step.sync(done(state));
      rows.sync(state.rows);
      at = drawScene(svg, scene, columns, state, width);
      drawTable(entries, state, width);
      facts.style.gridTemplateColumns = `repeat(${width < 560 ? 2 : 3}, minmax(0, 1fr))`;
      says.textContent = sentence(state);
      label.textContent = state.way === "mask" && done(state) <= N ? "sum under the 1-bits" : "running sum";
      const texts = { sum: one(r.sum), result: one(r.result), operations: String(r.operations), bytes: `${r.bytes} of 2 (float32: ${4 * seen(state)} of 64)`, shared: `${r.shared} operations`, per_row: tidy(r.per_row) };
      for (const [n, text] of Object.entries(texts)) show(facts, n, r[n], text);
      return `${says.textContent} ${label.textContent} ${one(r.sum)}, ${r.operations} operations.`;
    };

    return mount({
      model, el, draw, names, label: "A packed dot product, step by step",
      children: [
        node("style", {}, ".qx .pd-now { margin: .5rem 0; min-height: 2.8em; font-weight: 600; } .qx .pd-bit { cursor: pointer; outline: none; } .qx .pd-bit:focus-visible rect { stroke: var(--blue); stroke-width: 3; } .qx .qx-fact > output { white-space: normal; font-size: 1rem; }"),
        ways.row, says, acts,
        node("div", { class: "qx-controls", style: "margin-top:.6rem" }, step.row, rows.row),
        svg, entries, facts,
        node("p", { class: "qx-note" }, "Drag an activation up or down; press a bit to turn it. Bit 1 means −1, and column j is bit j % 8 of byte ⌊j / 8⌋. Operations are those of one lane: a vector instruction does the same for 8 or 16 rows at once."),
      ],
    });
  },
};

const setAll = (n, attributes) => Object.entries(attributes).forEach(([k, v]) => n.setAttribute(k, v));

// A byte's eight columns side by side; both bytes in a line where there is room.
function drawScene(svg, scene, columns, state, width) {
  const per = width < 560 ? 8 : 16;
  const [size, head, reach, block] = [width / per, 20, 44, 190];
  const k = seen(state);
  const place = (j) => [(j % per) * size + size / 2, Math.floor(j / per) * block];
  resize(svg, width, block * (N / per));
  const out = [];
  const active = (j) => (state.way === "table" ? Math.floor(j / GROUP) === done(state) - 1 : j === done(state) - 1);
  for (const j of COLUMNS) {
    const [x, y] = place(j);
    const base = y + head + reach;
    const v = state["x" + j];
    const [c, on] = [columns[j], bit(state.bits, j)];
    if (j < k) out.push(node("rect", { x: x - size / 2, y: y + head - 16, width: size, height: block - 10, style: `fill:${active(j) ? "color-mix(in srgb, #0072b2 22%, transparent)" : "var(--wash)"}` }));
    out.push(line(x - size / 2 + 2, base, x + size / 2 - 2, base, "qx-axis"), words(x, y + 14, String(j), "qx-small"));
    if (j < k && state.way !== "table") out.push(words(x, y + 172, state.way === "flip" ? one(signed(state, j)) : on ? one(v) : "·", "qx-b"));
    const end = base - (v / MOST) * (reach - 8);
    setAll(c.hit, { x: x - size / 2, y: y + head, width: size, height: 2 * reach });
    setAll(c.bar, { x: x - 5, y: Math.min(base, end), width: 10, height: Math.abs(end - base), style: "fill:var(--green)" });
    for (const n of [c.knob, c.ring]) setAll(n, { cx: x, cy: end });
    c.knob.setAttribute("style", "fill:var(--green)");
    setAll(c.value, { x, y: base + (v < 0 ? -7 : 17) });
    c.value.textContent = one(v);
    c.sync(v, `x${j} = ${one(v)}`);
    setAll(c.cell, { x: x - Math.min(size - 4, 34) / 2, y: y + 120, width: Math.min(size - 4, 34), height: 32, style: `fill:${on ? "color-mix(in srgb, #d55e00 30%, transparent)" : "transparent"};stroke:var(--soft)` });
    setAll(c.digit, { x, y: y + 141 });
    c.digit.textContent = on;
    c.key.setAttribute("aria-checked", Boolean(on));
  }
  if (state.way === "table")
    for (let g = 0; g < N / GROUP; g++) {
      const [[x, y], i] = [place(GROUP * g), index(state.bits, g)];
      out.push(line(x - size / 2 + 4, y + 157, x + 3.5 * size - 4, y + 157, "qx-axis"));
      if (g < done(state)) out.push(words(x + 1.5 * size, y + 173, `entry ${i}: ${one(table(state, g)[i])}`, "qx-b"));
    }
  scene.replaceChildren(...out);
  return { value: (j, e) => ((place(j)[1] + head + reach - e.clientY + svg.getBoundingClientRect().top) / (reach - 8)) * MOST };
}

// The sixteen sums of the group whose turn it is, the entry of its bits marked.
function drawTable(svg, state, width) {
  const shown = state.way === "table";
  const g = Math.max(0, done(state) - 1);
  const per = width < 560 ? 4 : 8;
  const size = width / per;
  resize(svg, width, shown ? 26 + (16 / per) * 44 : 0);
  if (!shown) return svg.replaceChildren();
  const chosen = done(state) ? index(state.bits, g) : -1;
  const out = [words(0, 16, `Table of columns ${GROUP * g} to ${GROUP * g + 3}`, "qx-bold", "start")];
  table(state, g).forEach((v, i) => {
    const [x, y] = [(i % per) * size, 26 + Math.floor(i / per) * 44];
    const signs = [0, 1, 2, 3].map((j) => (bit(i, j) ? "−" : "+")).join("");
    out.push(
      node("rect", { x: x + 1, y, width: size - 2, height: 40, rx: 4, style: `fill:${i === chosen ? "color-mix(in srgb, #0072b2 30%, transparent)" : "transparent"};stroke:${i === chosen ? "var(--blue)" : "var(--line)"}` }),
      words(x + size / 2, y + 15, `${i}: ${signs}`, "qx-small"), words(x + size / 2, y + 33, one(v), "qx-bold"));
  });
  svg.replaceChildren(...out);
}
