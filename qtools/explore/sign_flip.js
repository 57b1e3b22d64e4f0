// SignFlip: one latent weight under four stand-ins for the derivative of sign.
const [STEPS, GRAIN] = [2000, 2 ** 26];
// Name, what the reader sees, its formula, d(w), colour, dashes in the figure of d.
const FOUR = [
  ["tanh", "tanh′", "1 − tanh² w", (w) => 1 - Math.tanh(w) * Math.tanh(w), "var(--blue)", "none"],
  ["released", "released code", "1.001 − tanh² w", (w) => 1 + 0.001 - Math.tanh(w) * Math.tanh(w), "var(--green)", "7 4"],
  ["clipped", "clipped identity", "1 if |w| ≤ 1, else 0", (w) => Number(Math.abs(w) <= 1), "var(--red)", "2 3"],
  ["identity", "identity", "1 everywhere", () => 1, "color-mix(in srgb, #cc79a7 62%, currentColor)", "none"],
];
const signOf = (w) => (w < 0 ? -1 : 1);

const DRAWS = Array.from({ length: STEPS }, (_, k) => bell(k));

function latentPath({ optimizer, start, target, rate, noise }, d) {
  const ws = [start];
  let [w, mean, square, left1, left2] = [start, 0, 0, 1, 1];
  for (const z of DRAWS) {
    let g = (signOf(w) - target + noise * z) * (roundHalfEven(d(w) * GRAIN) / GRAIN);
    if (optimizer === "adam") {
      mean = 0.9 * mean + (1 - 0.9) * g;
      square = 0.98 * square + (1 - 0.98) * g * g;
      [left1, left2] = [0.9 * left1, 0.98 * left2];
      g = mean / (1 - left1) / (Math.sqrt(square / (1 - left2)) + 1e-8);
    }
    w = w - rate * g;
    ws.push(w);
  }
  return ws;
}

// Kept until another setting than the step changes.
let kept = {};
function paths(state) {
  const key = JSON.stringify({ ...state, step: 0 });
  if (kept.key !== key) kept = { key, all: FOUR.map(([, , , d]) => latentPath(state, d)) };
  return kept.all;
}

function compute(state) {
  const r = {};
  paths(state).forEach((ws, i) => {
    const [name, , , d] = FOUR[i];
    const flips = ws.map((_, k) => k).filter((k) => k && signOf(ws[k]) !== signOf(ws[k - 1]));
    r[name + "_first"] = flips[0] ?? Infinity;
    r[name + "_flips"] = flips.length;
    r[name + "_w"] = ws[state.step];
    r[name + "_d"] = d(ws[state.step]);
  });
  return r;
}

// Twenty positions of a slider are a factor of ten.
const toValue = (position) => Number((10 ** (position / 20)).toPrecision(2));
const toPosition = (v) => Math.round(20 * Math.log10(v));
// Stops of the step: each once, denser at the start.
const STOPS = [...new Set(Array.from({ length: 121 }, (_, i) => Number(Math.round((STEPS + 1) ** (i / 120) - 1).toPrecision(2))))];
const nearest = (k) => STOPS.reduce((best, s, i) => (Math.abs(s - k) < Math.abs(STOPS[best] - k) ? i : best), 0);
const count = (k) => k.toLocaleString("en");

const PULL = { optimizer: "sgd", target: -1, noise: 0 };
const EXAMPLES = [
  ["Far: 5", { ...PULL, start: 5, rate: 0.25 }],
  ["Beyond the clip: 2", { ...PULL, start: 2, rate: 0.1 }],
  ["A trained weight: 0.05", { ...PULL, start: 0.05, rate: 0.001, noise: 3 }],
  ["Released start: 0.01", { ...PULL, start: 0.01, rate: 0.001, noise: 3 }],
  ["Far, with Adam", { ...PULL, optimizer: "adam", start: 5, rate: 0.01 }],
];

const explorable = {
  render({ model, el }) {
    const log = (name, label, low, high) => slider({ model, name, label, min: toPosition(low), max: toPosition(high), step: 1, to: toValue, from: toPosition, text: (v) => tidy(v) });
    const plain = (name, label, min, max) => slider({ model, name, label, min, max, step: 0.1, to: (v) => Math.round(v * 10) / 10, text: (v) => tidy(v) });
    const controls = {
      start: log("start", "Start of w", 0.001, 8),
      rate: log("rate", "Learning rate η", 0.0001, 0.25),
      target: plain("target", "The loss wants t", -3, 1),
      noise: plain("noise", "Noise σ of the gradient", 0, 8),
      optimizer: choice({ model, name: "optimizer", label: "Optimizer", options: [["sgd", "plain gradient descent"], ["adam", "Adam"]] }),
      step: slider({ model, name: "step", label: "Look at step", min: 0, max: STOPS.length - 1, step: 1, to: (i) => STOPS[i], from: nearest, text: count }),
    };
    const examples = buttons({ model, label: "Examples", options: EXAMPLES });
    const cards = FOUR.map(([name, title, formula, , colour]) => {
      const svg = node("svg", { "aria-hidden": "true", class: "qx-grab" });
      drag(svg, (e) => put(model, { step: STOPS[nearest((STEPS + 1) ** clamp(svgX(svg, e) / svg.clientWidth, 0, 1) - 1)] }));
      const box = node("div", { class: "qx-panel" },
        node("p", { class: "qx-title", style: `color:${colour}` }, title), node("span", { class: "qx-key" }, formula), svg,
        node("div", { class: "qx-big" }, output(name + "_first")),
        node("div", {}, output(name + "_flips")),
        node("div", { class: "qx-key" }, "w ", output(name + "_w"), ", d ", output(name + "_d")));
      return { svg, box };
    });
    const curves = node("svg", { "aria-hidden": "true", class: "qx-grab" });
    drag(curves, (e) => put(model, { start: toValue(toPosition(clamp(Math.abs(curves.toW(svgX(curves, e))), 0.001, 7.9))) }));
    const title = node("p", { class: "qx-title" });
    const grid = node("div", { class: "sf-four" }, cards.map((c) => c.box));

    const draw = (state, width) => {
      const [r, all] = [compute(state), paths(state)];
      for (const [name, c] of Object.entries(controls)) c.sync(state[name]);
      examples.sync(state);
      const columns = width < 560 ? 2 : 4;
      grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
      const size = (width - 16 * (columns - 1)) / columns;
      FOUR.forEach(([name], i) => {
        drawPath(cards[i].svg, state, all[i], r[name + "_first"], FOUR[i][4], size);
        const [first, flips] = [r[name + "_first"], r[name + "_flips"]];
        show(grid, name + "_first", first, first < Infinity ? "flips at step " + count(first) : "never flips");
        show(grid, name + "_flips", flips, flips > 1 ? `${count(flips)} flips in all` : flips ? "and stays there" : `in ${count(STEPS)} steps`);
        for (const x of ["_w", "_d"]) show(grid, name + x, r[name + x], tidy(r[name + x]));
      });
      title.textContent = `What stands in for the derivative: d at every w, ● at the w of step ${count(state.step)}`;
      drawCurves(curves, state, r, width);
      return FOUR.map(([name, title]) => `${title}: ${grid.querySelector(`[data-name=${name}_first]`).textContent}`).join("; ");
    };

    return mount({
      model, el, draw, names: Object.keys(controls),
      label: "Sign flips: a latent weight under four stand-ins for the derivative",
      children: [
        node("style", {}, ".qx .sf-four { display: grid; gap: 1rem 16px; margin: .8rem 0; } .qx .sf-four .qx-big { white-space: normal; font-size: 1rem; }"),
        examples.row, grid,
        title,
        curves,
        node("p", { class: "qx-note" }, "w ← w − η g d(w) with g = sign(w) − t + σ z: the gradient of (sign(w) − t)²/2, and noise that is the same for all four. Adam, β = 0.9 and 0.98, divides g d(w) by its running root mean square."),
        node("div", { class: "qx-controls qx-three", style: "margin-top:.9rem" }, Object.values(controls).map((c) => c.row)),
      ],
    });
  },
};

// Steps across, each factor of ten as wide as the last; w up, from start to its mirror image.
function drawPath(svg, { start, step }, ws, first, colour, width) {
  const [height, top, bottom] = [150, 6, 18];
  resize(svg, width, height);
  const x = (k) => (Math.log(k + 1) / Math.log(STEPS + 1)) * width;
  const middle = (top + height - bottom) / 2;
  const y = (w) => clamp(middle - (w / (1.45 * start)) * (middle - top), top, height - bottom);
  // Of the steps that share a pixel, the lowest and the highest.
  const points = [];
  for (let k = 0; k <= STEPS; ) {
    const [column, here] = [Math.round(x(k)), []];
    for (; k <= STEPS && Math.round(x(k)) === column; k++) here.push(y(ws[k]));
    points.push([column, here[0]], [column, Math.min(...here)], [column, Math.max(...here)], [column, here.at(-1)]);
  }
  const line_ = path(points);
  line_.setAttribute("style", `fill:none;stroke:${colour};stroke-width:2.5;stroke-linejoin:round`);
  const out = [
    node("rect", { x: 0, y: middle, width, height: height - bottom - middle, style: "fill:var(--wash)" }),
    line(0, middle, width, middle, "qx-axis"),
    words(width - 4, top + 12, "sign +1", "qx-small", "end"),
    words(4, height - bottom - 6, "sign −1", "qx-small", "start"),
  ];
  for (const k of [1, 10, 100, 1000]) out.push(line(x(k), height - bottom, x(k), height - bottom + 4, "qx-axis"), words(clamp(x(k), 19, width - 17), height - 2, k === 1 ? "step 1" : count(k), "qx-small"));
  out.push(line(x(step), top, x(step), height - bottom, "qx-dots"), line_);
  if (first < Infinity) out.push(node("circle", { cx: x(first), cy: middle, r: 9, style: "fill:none;stroke:currentColor;stroke-width:2" }));
  out.push(node("circle", { cx: x(step), cy: y(ws[step]), r: 5, style: `fill:${colour}` }));
  svg.replaceChildren(...out);
}

// d up, each factor of ten as high as the last, and 0 below them all.
function drawCurves(svg, { start }, r, width) {
  const [height, left, right, top, bottom, low] = [220, 44, 12, 22, 36, -8];
  resize(svg, width, height);
  const reach = Math.max(4, 1.2 * start);
  const x = (w) => left + ((w + reach) / (2 * reach)) * (width - left - right);
  svg.toW = (at) => ((at - left) / (width - left - right)) * 2 * reach - reach;
  const zero = height - bottom - 6;
  const y = (d) => (d < 10 ** low ? zero : top + (Math.log10(Math.min(d, 1.001)) / low) * (zero - 20 - top));
  const out = [];
  for (const [d, text] of [[1, "1"], [0.1, "0.1"], [0.01, "0.01"], [0.001, "0.001"], [1e-4, "10⁻⁴"], [1e-6, "10⁻⁶"], [1e-8, "10⁻⁸"], [0, "0"]])
    out.push(line(left, y(d), width - right, y(d), "qx-grid"), words(left - 6, y(d) + 4, text, "qx-small", "end"));
  out.push(line(left, height - bottom, width - right, height - bottom, "qx-axis"));
  for (let w = Math.ceil(-reach); w <= reach; w++) if (w % Math.ceil(reach / 4) === 0) out.push(words(x(w), height - bottom + 16, w ? tidy(w) : "w = 0", "qx-small"));
  FOUR.forEach(([, , , d, colour, dashes]) => {
    const ws = Array.from({ length: 401 }, (_, i) => -reach + (i * reach) / 200);
    const p = path(ws.map((w) => [x(w), y(d(w))]));
    p.setAttribute("style", `fill:none;stroke:${colour};stroke-width:2.5;stroke-dasharray:${dashes}`);
    out.push(p);
  });
  const label = (i, text, w, dx, dy) => {
    const t = words(x(w) + dx, y(FOUR[i][3](w)) + dy, text, "qx-bold", "start");
    t.setAttribute("style", "fill:" + FOUR[i][4]);
    out.push(t);
  };
  label(0, "tanh′", -0.6 * reach, 6, 16);
  label(1, "released", -reach, 2, width < 560 ? -22 : -14);
  label(2, "clipped", -reach, 2, -6);
  label(3, "identity", -reach, 2, -7);
  [...FOUR].reverse().forEach(([name, , , , colour], i) =>
    out.push(node("circle", { cx: x(clamp(r[name + "_w"], -reach, reach)), cy: y(r[name + "_d"]), r: 10 - 2 * i, style: `fill:${colour}` })));
  svg.replaceChildren(...out);
}
