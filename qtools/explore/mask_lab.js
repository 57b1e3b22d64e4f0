// MaskLab: a block of fc1 under every mask. DATA, its weights and their Gram matrix, stands above.
const [ROWS, COLS] = [24, 48];
const numbers = (text, bits) =>
  Array.from(new Int16Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer), (v) => v / 2 ** bits);
const WEIGHT = numbers(DATA.weight, DATA.weightBits);
const LOWER = numbers(DATA.gram, DATA.gramBits);
const gram = (i, j) => LOWER[(Math.max(i, j) * (Math.max(i, j) + 1)) / 2 + Math.min(i, j)];
const GRAM = Array.from({ length: COLS }, (_, i) => Array.from({ length: COLS }, (_, j) => gram(i, j)));

const MASKS = [
  ["single", "single weights", "Nothing: a dense product multiplies zeros as well. Store and compute sparsely to gain."],
  ["n_m", "N of every 4", "GPUs with sparse tensor cores, at 2 of 4. On a processor nothing."],
  ["block", "4 × 4 blocks", "Only a kernel for blocks. A dense product gains nothing."],
  ["column", "columns", "All of it, everywhere: a smaller dense matrix."],
  ["row", "rows", "All of it, everywhere: a smaller dense matrix."],
];
const unit = {
  single: (i) => i,
  row: (i) => Math.floor(i / COLS),
  column: (i) => i % COLS,
  block: (i) => Math.floor(i / COLS / 4) * (COLS / 4) + Math.floor((i % COLS) / 4),
};
const kept4 = (percent) => Math.max(1, roundHalfEven(4 * (1 - percent / 100)));

// True where a weight stays. Ties go the way of a stable sort: the first is dropped first.
function maskOf(kind, squares, percent) {
  const mask = squares.map(() => true);
  const drop = (keys, of, count) => {
    const order = keys.map((_, k) => k).sort((a, b) => keys[a] - keys[b] || a - b);
    const gone = new Set(order.slice(0, count));
    squares.forEach((_, i) => gone.has(of(i)) && (mask[i] = false));
  };
  if (kind === "n_m") {
    for (let g = 0; g < squares.length; g += 4) drop(squares.slice(g, g + 4), (i) => i - g, 4 - kept4(percent));
  } else {
    const sums = [];
    squares.forEach((s, i) => (sums[unit[kind](i)] = (sums[unit[kind](i)] ?? 0) + s));
    drop(sums, unit[kind], roundHalfEven((percent / 100) * sums.length));
  }
  return mask;
}

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const TARGET = WEIGHT.map((_, i) => dot(GRAM[i % COLS], WEIGHT.slice(i - (i % COLS), i - (i % COLS) + COLS)));

// The kept weights of least output error: solve H_KK v = (H w)_K row by row, by Cholesky.
function compensate(mask) {
  const out = WEIGHT.map(() => 0);
  for (let r = 0; r < ROWS; r++) {
    const K = [];
    for (let c = 0; c < COLS; c++) if (mask[r * COLS + c]) K.push(c);
    const L = K.map(() => []);
    const v = [];
    K.forEach((c, i) => {
      for (let j = 0; j <= i; j++) {
        let sum = GRAM[c][K[j]];
        for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
        L[i][j] = i === j ? Math.sqrt(sum) : sum / L[j][j];
      }
      v.push((TARGET[r * COLS + c] - dot(v, L[i])) / L[i][i]);
    });
    for (let i = K.length - 1; i >= 0; i--) {
      for (let k = i + 1; k < K.length; k++) v[i] -= L[k][i] * v[k];
      v[i] /= L[i][i];
      out[r * COLS + K[i]] = v[i];
    }
  }
  return out;
}

// tr((W - V) H (W - V)ᵀ): the squared error of the outputs, mean over the inputs.
function outputError(v) {
  const e = WEIGHT.map((w, i) => w - v[i]);
  let sum = 0;
  for (let r = 0; r < e.length; r += COLS) {
    const row = e.slice(r, r + COLS);
    row.forEach((x, i) => x && (sum += x * dot(GRAM[i], row)));
  }
  return sum;
}

const WHOLE = outputError(WEIGHT.map(() => 0));
const square = (v) => dot(v, v);
const masked = (mask) => WEIGHT.map((w, i) => (mask[i] ? w : 0));
const known = {};
function tried(kind, score, percent) {
  return (known[[kind, score, kind === "n_m" ? kept4(percent) : percent]] ??= (() => {
    const squares = WEIGHT.map((w, i) => w * w * (score === "wanda" ? GRAM[i % COLS][i % COLS] : 1));
    const mask = maskOf(kind, squares, percent);
    const [bare, moved] = [masked(mask), compensate(mask)];
    return {
      mask, bare, moved, kept: mask.filter(Boolean).length,
      plain: (100 * outputError(bare)) / WHOLE, compensated: (100 * outputError(moved)) / WHOLE,
    };
  })());
}

function compute({ mask, sparsity, score, compensate }) {
  const t = tried(mask, score, sparsity);
  const size = ROWS * COLS;
  const own = { single: size / 8, n_m: t.kept / 4, block: size / 128, column: 0, row: 0 }[mask];
  const errors = MASKS.map(([kind]) => {
    const other = tried(kind, score, sparsity);
    return ["error_" + kind, compensate ? other.compensated : other.plain];
  });
  return {
    kept: t.kept, norm: (100 * square(t.bare)) / square(WEIGHT),
    plain: t.plain, compensated: t.compensated,
    dense: 4 * size, bitmap: 4 * t.kept + size / 8, csr: 6 * t.kept + 4 * (ROWS + 1), own: 4 * t.kept + own,
    products: mask === "row" || mask === "column" ? t.kept : size,
    ...Object.fromEntries(errors),
  };
}

const percent = (v) => (v > 0 && v < 9.95 ? fixed(v, v < 0.995 ? 2 : 1) : fixed(v, 0)) + " %";
const OWN = { single: "nothing better", n_m: "2 bits of place a value", block: "a bit a block", column: "smaller, dense", row: "smaller, dense" };

const explorable = {
  render({ model, el }) {
    const kinds = buttons({ model, label: "Mask", options: MASKS.map(([mask, text]) => [text, { mask }]) });
    const amount = slider({ model, name: "sparsity", label: "Sparsity", min: 0, max: 95, step: 1, text: (v) => `${v} % dropped` });
    const score = choice({ model, name: "score", label: "Dropped first", options: [["magnitude", "small weights"], ["wanda", "small weights × their inputs"]] });
    const moved = checkbox({ model, name: "compensate", label: "kept weights make up for it" });
    const matrix = node("svg", { "aria-hidden": "true" });
    const facts = node(
      "div", { class: "qx-facts" },
      fact("weights kept", "", output("kept"), node("span", {}, "of " + ROWS * COLS)),
      fact("squared norm kept", "", output("norm")),
      fact("output error", "qx-tr", output("plain"), node("span", {}, "compensated: ", output("compensated"))),
      fact("multiplications", "", output("products"), node("span", {}, `of ${ROWS * COLS}, dense loop`)),
    );
    const bar = () => node("span", { class: "ml-bar" });
    const rows = MASKS.map(([kind, text, gain]) => {
      const b = bar();
      const n = node("div", { class: "ml-row" }, node("b", {}, text), output("error_" + kind), node("span", { class: "ml-track" }, b), node("span", { class: "ml-gain" }, gain));
      return { kind, n, b, label: n.firstChild };
    });
    const FORMS = [["dense", "dense"], ["bitmap", "bitmap"], ["csr", "CSR"], ["own", ""]];
    const forms = FORMS.map(([name, text]) => {
      const [b, label] = [bar(), node("b", {}, text)];
      return { name, b, label, n: node("div", { class: "ml-row ml-form" }, label, output(name), node("span", { class: "ml-track" }, b)) };
    });
    const panel = (title, ...children) => node("div", { class: "qx-panel", style: "margin-top:.9rem" }, node("p", { class: "qx-title" }, title), children);

    const draw = (state, width) => {
      const r = compute(state);
      const t = tried(state.mask, state.score, state.sparsity);
      kinds.sync(state);
      amount.sync(state.sparsity);
      score.sync(state.score);
      moved.sync(state.compensate);
      drawMatrix(matrix, state.mask, t.mask, state.compensate ? t.moved : t.bare, width);
      for (const name of ["kept", "products"]) show(facts, name, r[name], String(r[name]));
      for (const name of ["norm", "plain", "compensated"]) show(facts, name, r[name], percent(r[name]));
      const most = Math.max(...rows.map(({ kind }) => r["error_" + kind]), 1e-9);
      for (const { kind, n, b } of rows) {
        const v = r["error_" + kind];
        show(n, "error_" + kind, v, percent(v));
        b.style.width = (100 * v) / most + "%";
        n.classList.toggle("ml-now", kind === state.mask);
      }
      rows[1].label.textContent = `${kept4(state.sparsity)} of every 4`;
      forms[3].label.textContent = OWN[state.mask];
      for (const { name, n, b } of forms) {
        show(n, name, r[name], `${fixed(r[name], 0)} bytes`);
        b.style.width = (100 * r[name]) / (2 * r.dense) + "%";
        n.classList.toggle("ml-now", r[name] < r.dense);
      }
      return `${r.kept} weights kept, output error ${percent(r.plain)}, compensated ${percent(r.compensated)}, bitmap ${fixed(r.bitmap, 0)} bytes of ${r.dense}`;
    };

    return mount({
      model, el, draw, names: ["mask", "sparsity", "score", "compensate"],
      label: "Mask lab: a block of fc1 under every mask",
      children: [
        node("style", {}, STYLE),
        kinds.row,
        node("div", { class: "qx-controls", style: "margin-top:.6rem" }, amount.row, node("div", { class: "qx-part" }, score.row, moved.row)),
        matrix,
        node("p", { style: "margin:.2rem 0 0" }, "One square a weight, larger is larger: ", node("span", { class: "qx-tb" }, "■ positive"), ", ", node("span", { class: "qx-tr" }, "▪ negative"), ", empty: dropped. A row makes one output, a column reads one input."),
        facts,
        panel("Output error of every mask at this sparsity, and who gains from it", rows.map((r) => r.n)),
        panel("Bytes of this block in float32", forms.map((f) => f.n)),
        node("p", { class: "qx-note" }, "Rows 33 to 56 and columns 97 to 144 of SmallCNN's fc1; inputs of 2048 training images. N of every 4 stands at the nearest of 1, 2, 3, 4. The error is a share of the squared output."),
      ],
    });
  },
};

const STYLE = `.qx .ml-row { display: grid; grid-template-columns: 8.2rem 3.4rem minmax(5rem, 1fr) minmax(0, 1.5fr); gap: 0 .7rem; align-items: center; margin: .2rem 0; }
.qx .ml-row.ml-form { grid-template-columns: 11.6rem 6rem minmax(5rem, 1fr); }
.qx .ml-row b { font-weight: 400; } .qx .ml-now b, .qx .ml-now output { font-weight: 650; }
.qx .ml-row output { text-align: right; white-space: nowrap; }
.qx .ml-track { height: 14px; background: var(--wash); }
.qx .ml-bar { display: block; height: 100%; background: var(--line); }
.qx .ml-now .ml-bar { background: var(--blue); }
.qx .ml-gain { color: var(--soft); font-size: .82rem; line-height: 1.25; }
@media (max-width: 600px) { .qx .ml-row, .qx .ml-row.ml-form { grid-template-columns: 1fr auto; } .qx .ml-track, .qx .ml-gain { grid-column: 1 / -1; } .qx .ml-row { margin: .45rem 0; } }`;

// Area shows magnitude, so that the eye adds up what is kept. One path a sign.
function drawMatrix(svg, kind, mask, values, width) {
  const cell = width / COLS;
  resize(svg, width, ROWS * cell + 2);
  const most = Math.max(...WEIGHT.map(Math.abs));
  const squares = (sign) => values.map((v, i) => {
    if (!mask[i] || sign * v <= 0) return "";
    const side = Math.max(1, cell * Math.min(1.15, Math.sqrt(Math.abs(v) / most)));
    const [x, y] = [(i % COLS + 0.5) * cell - side / 2, (Math.floor(i / COLS) + 0.5) * cell - side / 2 + 1];
    return `M${x.toFixed(1)},${y.toFixed(1)}h${side.toFixed(1)}v${side.toFixed(1)}h-${side.toFixed(1)}z`;
  }).join("");
  // The ground of a weight that is gone is gone too.
  const ground = mask.map((k, i) => (k ? `M${((i % COLS) * cell).toFixed(2)},${(Math.floor(i / COLS) * cell + 1).toFixed(2)}h${cell.toFixed(2)}v${cell.toFixed(2)}h-${cell.toFixed(2)}z` : "")).join("");
  const out = [node("path", { d: ground || "M0,0", style: "fill:var(--wash)" })];
  if (kind === "n_m" || kind === "block") for (let c = 0; c <= COLS; c += 4) out.push(line(c * cell, 1, c * cell, ROWS * cell + 1, "qx-grid"));
  if (kind === "block") for (let r = 0; r <= ROWS; r += 4) out.push(line(0, r * cell + 1, width, r * cell + 1, "qx-grid"));
  out.push(
    node("path", { d: squares(1) || "M0,0", style: "fill:var(--blue)" }),
    node("path", { d: squares(-1) || "M0,0", style: "fill:var(--red)" }),
  );
  svg.replaceChildren(...out);
}
