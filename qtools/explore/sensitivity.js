// Sensitivity: bits layer by layer. DATA, all that was measured, stands above this file's text.
const LAYERS = ["conv1", "conv2", "conv3", "fc1", "fc2"];
const BITS = [8, 6, 4, 3, 2];
const SHOWN = [2, 3, 4, 6, 8];
const ALL = Array.from({ length: 3125 }, (_, i) => [625, 125, 25, 5, 1].map((k) => Math.floor(i / k) % 5));
const SIZES = ALL.map((path) => path.reduce((sum, b, i) => sum + DATA.bytes[i][b], 0));
const BY_SIZE = ALL.map((_, i) => i).sort((a, b) => SIZES[a] - SIZES[b] || a - b);
const indexOf = (path) => path.reduce((sum, b) => 5 * sum + b, 0);
const pathOf = (state) => LAYERS.map((name) => BITS.indexOf(state[name]));
const stateOf = (path) => Object.fromEntries(LAYERS.map((name, i) => [name, BITS[path[i]]]));

// Right answers of every combination, and the steps of the front: more right than all that are smaller.
const known = {};
function measured(range) {
  return (known[range] ??= (() => {
    const bytes = Uint8Array.from(atob(DATA.right[range]), (c) => c.charCodeAt(0));
    const right = ALL.map((_, i) => bytes[2 * i] + 256 * bytes[2 * i + 1]);
    const front = [];
    for (const i of BY_SIZE) {
      const last = front.at(-1);
      if (last === undefined || right[i] > right[last]) {
        // Of one size only the best stays.
        if (last !== undefined && SIZES[last] === SIZES[i]) front.pop();
        front.push(i);
      }
    }
    return { right, front };
  })());
}

const percent = (right) => (100 * right) / DATA.images;

// What layer i alone costs at choice b, in points, the others at 8 bits.
function alone(right, i, b) {
  return ((right[0] - right[b * 5 ** (4 - i)]) * 100) / DATA.images;
}

// The 95 % Wilson interval, as qtools.metrics.wilson.
function wilson(right, n) {
  const [z, p] = [1.959963984540054, right / n];
  const centre = (p + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  return [100 * (centre - half), 100 * (centre + half)];
}

function compute(state) {
  const { right, front } = measured(state.weight_range);
  const path = pathOf(state);
  const now = indexOf(path);
  const best = front.findLast((i) => SIZES[i] <= SIZES[now]);
  const [low, high] = wilson(right[now], DATA.images);
  const single = path.map((b, i) => alone(right, i, b));
  return {
    accuracy: percent(right[now]), low, high, bytes: SIZES[now],
    smaller: (4 * DATA.weights) / SIZES[now], lost: ((right[0] - right[now]) * 100) / DATA.images,
    ...Object.fromEntries(LAYERS.map((name, i) => ["alone_" + name, single[i]])),
    predicted: single.reduce((a, b) => a + b, 0),
    best_accuracy: percent(right[best]), best_bytes: SIZES[best],
  };
}

const EXAMPLES = BITS.map((b, i) => [`all ${b}`, stateOf([i, i, i, i, i])]);
const points = (v) => fixed(v, 2);
const kilobytes = (v) => fixed(v / 1000, 1) + " kB";

const explorable = {
  render({ model, el }) {
    const range = choice({ model, name: "weight_range", label: "Scale of a channel", options: [["minmax", "from its largest weight"], ["mse", "of least squared error"]] });
    const examples = buttons({ model, label: "All layers alike", options: EXAMPLES });
    const toBest = () => {
      const state = Object.fromEntries(["weight_range", ...LAYERS].map((n) => [n, model.get(n)]));
      const { front } = measured(state.weight_range);
      const size = SIZES[indexOf(pathOf(state))];
      put(model, stateOf(ALL[front.findLast((i) => SIZES[i] <= size)]));
    };
    const go = node("button", { type: "button", onclick: toBest }, "Best at this size");

    // One marker a layer, moved along its row: 0 to 4 in the order shown.
    const grid = node("svg", { role: "group", "aria-label": "Bits of each layer" });
    const [cells, cloud, bars] = ["g", "svg", "svg"].map((tag) => node(tag, { "aria-hidden": "true" }));
    const place = (name) => SHOWN.indexOf(model.get(name));
    const set = (name, p) => put(model, { [name]: SHOWN[clamp(Math.round(p), 0, 4)] });
    const marks = LAYERS.map((name) => handle({
      label: `${name}, bits`, name, get: () => place(name), set: (p) => set(name, p), range: () => [0, 4], step: 1, page: 2,
      children: [node("rect", { class: "qx-hit" }), node("rect", { class: "qx-ring", rx: 5 }), node("rect", { class: "se-mark", rx: 3, style: "fill:none;stroke:currentColor;stroke-width:3" })],
    }));
    let layout;
    let row;
    grid.append(cells, ...marks.map((m) => m.n));
    grid.style.cursor = "pointer";
    drag(grid, (e) => {
      const box = grid.getBoundingClientRect();
      // The row under the press keeps the pointer until it is let go.
      if (e.type === "pointerdown") {
        row = clamp(Math.floor((e.clientY - box.top - layout.top) / layout.high), 0, 4);
        marks[row].n.focus({ preventScroll: true });
      }
      set(LAYERS[row], Math.floor((e.clientX - box.left - layout.left) / layout.wide));
    });
    const facts = node(
      "div", { class: "qx-facts" },
      fact("● accuracy, measured", "qx-tb", output("accuracy"), node("span", {}, "95 %: ", output("low"), " to ", output("high"))),
      fact("weights", "", output("bytes"), node("span", {}, output("smaller"), " smaller than float")),
      fact("◇ best at this size", "qx-tg", output("best_accuracy"), node("span", {}, output("best_bytes"))),
    );
    const sums = node(
      "p", { class: "qx-note" },
      LAYERS.map((name, i) => [i ? " + " : "", name + " ", output("alone_" + name)]),
      " = ", node("b", {}, output("predicted")), " points if losses added up. Measured: ", node("b", {}, output("lost")), ".",
    );
    const panel = (title, svg, ...more) => node("div", { class: "qx-panel" }, node("p", { class: "qx-title" }, title, ...more), svg);

    const draw = (state, width) => {
      const r = compute(state);
      const { right, front } = measured(state.weight_range);
      range.sync(state.weight_range);
      examples.sync(state);
      const half = width < 560 ? width : (width - 28) / 2;
      layout = drawGrid(grid, cells, right, Math.min(half, 420));
      LAYERS.forEach((name, i) => {
        const p = place(name);
        const [x, y] = [layout.left + p * layout.wide, layout.top + i * layout.high];
        marks[i].n.querySelectorAll("rect").forEach((n, k) => {
          const grow = [0, 2.5, -1.5][k];
          for (const [key, v] of Object.entries({ x: x - grow, y: y - grow, width: layout.wide + 2 * grow, height: layout.high + 2 * grow })) n.setAttribute(key, v);
        });
        marks[i].sync(p, `${state[name]} bits, alone ${tidy(r["alone_" + name])} points lost`);
      });
      drawCloud(cloud, right, front, r, half);
      drawBars(bars, r, width);
      for (const name of ["accuracy", "low", "high", "best_accuracy"]) show(facts, name, r[name], fixed(r[name], name === "low" || name === "high" ? 1 : 2) + " %");
      for (const name of ["bytes", "best_bytes"]) show(facts, name, r[name], kilobytes(r[name]));
      show(facts, "smaller", r.smaller, tidy(r.smaller) + "×");
      for (const name of ["predicted", "lost", ...LAYERS.map((n) => "alone_" + n)]) show(sums, name, r[name], points(r[name]));
      return `accuracy ${fixed(r.accuracy, 2)} percent in ${kilobytes(r.bytes)}, best at this size ${fixed(r.best_accuracy, 2)}`;
    };

    return mount({
      model, el, draw, names: ["weight_range", ...LAYERS],
      label: "Sensitivity: bits layer by layer",
      children: [
        node("style", {}, ".qx .qx-tg { color: var(--green); }"),
        node("div", { class: "qx-controls" }, examples.row, range.row),
        node("div", { class: "qx-two" },
          panel("Points lost by one layer alone: pick its bits", grid),
          panel("All 3125 combinations", cloud, go)),
        facts,
        node("div", { style: "margin-top:.9rem" }, panel("Do the losses add up?", bars)), sums,
        node("p", { class: "qx-note" }, "SmallCNN, 10,000 test images, activations 8 bits; simulated. Every combination was run. Losses are against all layers at 8 bits. The best are picked on the test images themselves, which flatters them a little."),
      ],
    });
  },
};

// Nothing lost is clear, 30 points and more are full colour; the numbers say it too.
function drawGrid(svg, cells, right, width) {
  const [left, top, high] = [52, 24, 40];
  const wide = (width - left - 4) / 5;
  resize(svg, width, top + 5 * high + 8);
  const out = SHOWN.map((b, p) => words(left + (p + 0.5) * wide, 15, p ? String(b) : `${b} bits`, "qx-small"));
  LAYERS.forEach((name, i) => {
    const y = top + i * high;
    out.push(words(0, y + high / 2 + 5, name, "qx-bold", "start"));
    SHOWN.forEach((b, p) => {
      const loss = alone(right, i, BITS.indexOf(b));
      const tint = Math.round(clamp(Math.asinh(Math.max(0, loss) / 0.5) / Math.asinh(60), 0, 1) * 62);
      out.push(
        node("rect", { x: left + p * wide + 1, y: y + 1, width: wide - 2, height: high - 2, rx: 3, style: `fill:color-mix(in srgb, #d55e00 ${tint}%, var(--wash))` }),
        words(left + (p + 0.5) * wide, y + high / 2 + 5, fixed(loss, loss < 9.995 ? 2 : 1), ""),
      );
    });
  });
  cells.replaceChildren(...out);
  return { left, top, wide, high };
}

// Size across, accuracy up, stretched near the float network's: there the choices are made.
function drawCloud(svg, right, front, r, width) {
  const [left, top, bottom, height] = [40, 14, 206, 232];
  resize(svg, width, height);
  const [small, large] = [SIZES[BY_SIZE[0]], SIZES[BY_SIZE.at(-1)]];
  const x = (bytes) => left + 10 + ((bytes - small) / (large - small)) * (width - left - 24);
  const float = percent(DATA.inFloat);
  const stretch = (v) => Math.asinh((float - v) / 0.5);
  const [above, below] = [stretch(float + 0.4), stretch(8)];
  const y = (v) => top + ((stretch(v) - above) / (below - above)) * (bottom - top);
  const out = [];
  for (const v of [93, 92, 90, 80, 50, 10]) out.push(line(left, y(v), width, y(v), "qx-grid"), words(left - 5, y(v) + 4, v === 10 ? "10 %" : String(v), "qx-small", "end"));
  // All points are one path: a dot each, with the text's colour thinned.
  const dots = right.map((v, i) => `M${x(SIZES[i]).toFixed(1)},${y(percent(v)).toFixed(1)}h0`).join("");
  const steps = front.flatMap((i, k) => [...(k ? [[x(SIZES[i]), y(percent(right[front[k - 1]]))]] : []), [x(SIZES[i]), y(percent(right[i]))]]);
  out.push(
    node("path", { d: dots, style: "fill:none;stroke:var(--soft);stroke-width:2.4;stroke-linecap:round;opacity:.32" }),
    line(left, y(float), width, y(float), "qx-zero"), words(width - 2, y(float) - 6, `float ${fixed(float, 2)} %`, "qx-bold qx-g", "end"),
    path([...steps, [width, y(percent(right[front.at(-1)]))]], "qx-curve qx-total"),
    words(left + 2, y(float) - 6, "━ best of each size", "qx-bold", "start"),
    line(left, bottom, width, bottom, "qx-axis"),
  );
  for (const kb of [40, 60, 80, 100]) if (kb * 1000 <= large * 1.02) out.push(line(x(kb * 1000), bottom, x(kb * 1000), bottom + 4, "qx-axis"), words(Math.min(x(kb * 1000), width - 26), bottom + 18, kb + " kB", "qx-small"));
  const [px, py, bx, by] = [x(r.bytes), y(r.accuracy), x(r.best_bytes), y(r.best_accuracy)];
  out.push(
    line(px, y(r.low), px, y(r.high), "qx-there"),
    node("path", { d: `M${bx},${by - 9}l8,9l-8,9l-8,-9z`, class: "qx-best" }),
    node("circle", { cx: px, cy: py, r: 7, class: "qx-now" }),
    words(clamp(px, left + 54, width - 54), py + (py > bottom - 30 ? -14 : 24), `yours ${fixed(r.accuracy, 1)} %`, "qx-bold qx-b"),
  );
  svg.replaceChildren(...out);
}

// Two bars on one scale: the single losses end to end, and what was lost together.
function drawBars(svg, r, width) {
  const [left, bar, gap] = [74, 20, 28];
  resize(svg, width, 2 * gap + 4);
  const most = Math.max(r.predicted, r.lost, 1) * 1.02;
  const length = (v) => (Math.max(0, v) / most) * (width - left - 60);
  const out = [words(0, 15, "sum", "", "start"), words(0, gap + 15, "measured", "", "start")];
  let at = left;
  LAYERS.forEach((name, i) => {
    const w = length(r["alone_" + name]);
    out.push(node("rect", { x: at, y: 1, width: Math.max(0, w - 1), height: bar, style: `fill:color-mix(in srgb, #d55e00 ${i % 2 ? 34 : 52}%, var(--wash))` }));
    if (w > 44) out.push(words(at + w / 2, 16, name, ""));
    at += w;
  });
  out.push(
    words(at + 6, 16, points(r.predicted), "qx-bold", "start"),
    node("rect", { x: left, y: gap + 1, width: Math.max(1, length(r.lost)), height: bar, style: "fill:var(--blue)" }),
    words(left + length(r.lost) + 7, gap + 16, points(r.lost), "qx-bold qx-b", "start"),
  );
  svg.replaceChildren(...out);
}
