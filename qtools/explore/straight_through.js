// StraightThrough: a latent weight on the staircase of its rounded value, one step after another.
const [STEPS, LATELY] = [120, 40];
const GRADIENTS = [
  ["true", "the true one: 0"],
  ["unmasked", "straight through: 1"],
  ["masked", "straight through, clip mask"],
];
const range = (bits) => [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
const rounded = (w, [low, high]) => clamp(roundHalfEven(w), low, high) + 0;

function trajectory({ gradient, bits, target, rate, start, steps }) {
  const ends = range(bits);
  const rows = [];
  for (let [k, w] = [0, start]; k <= steps; k++) {
    const value = rounded(w, ends);
    const passes = gradient === "unmasked" || (gradient === "masked" && value === roundHalfEven(w));
    const slope = passes ? value - target : 0;
    rows.push({ w, value, slope });
    w -= rate * slope;
  }
  return rows;
}

function compute(state) {
  const rows = trajectory(state);
  const { w, value, slope } = rows.at(-1);
  const lately = rows.slice(0, -1).slice(-LATELY);
  if (!lately.length) lately.push(rows[0]);
  return {
    latent: w, value, loss: ((value - state.target) * (value - state.target)) / 2, slope,
    flips: rows.filter((r, i) => i && r.value !== rows[i - 1].value).length,
    mean: lately.reduce((sum, r) => sum + r.value, 0) / lately.length,
  };
}

const BASE = { bits: 2, rate: 0.1, steps: 0 };
const EXAMPLES = [
  ["Nothing moves", { ...BASE, gradient: "true", target: 0.3, start: -1.7 }],
  ["It oscillates", { ...BASE, gradient: "masked", target: 0.3, start: -1.7 }],
  ["Stuck outside", { ...BASE, gradient: "masked", target: 0, start: 3 }],
  ["Comes back", { ...BASE, gradient: "unmasked", target: 0, start: 3 }],
];

const explorable = {
  render({ model, el }) {
    const two = (v) => Math.round(v * 100) / 100;
    const inSteps = (v) => tidy(v, 3) + " s";
    const controls = {
      gradient: choice({ model, name: "gradient", label: "Derivative of ŵ", options: GRADIENTS }),
      target: slider({ model, name: "target", label: "Target t", min: -8, max: 8, step: 0.1, to: two, text: inSteps }),
      start: slider({ model, name: "start", label: "Start of w", min: -10, max: 10, step: 0.1, to: two, text: inSteps }),
      rate: slider({ model, name: "rate", label: "Learning rate η", min: 0.01, max: 1, step: 0.01, to: two, text: (v) => tidy(v, 3) }),
      bits: slider({ model, name: "bits", label: "Bits", min: 2, max: 5, step: 1, text: (v) => `${v} bits: ${range(v).join(" … ").replace("-", "−")}` }),
      steps: slider({ model, name: "steps", label: "Steps taken", min: 0, max: STEPS, step: 1, text: (v) => `${v} of ${STEPS}` }),
    };
    controls.gradient.row.querySelector("select").style.width = "100%";
    const examples = buttons({ model, label: "Examples", options: EXAMPLES });
    const go = (n) => put(model, { steps: Math.min(STEPS, model.get("steps") + n) });
    // Who asked for less motion gets ten steps at once.
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    let timer;
    const stop = () => {
      clearInterval(timer);
      timer = undefined;
      play.textContent = calm.matches ? "Ten steps" : "Play";
    };
    const tick = () => {
      go(1);
      if (model.get("steps") >= STEPS) stop();
    };
    const button = (text, onclick) => node("button", { type: "button", onclick }, text);
    const play = button("", () => {
      if (calm.matches) return go(10);
      if (timer) return stop();
      timer = setInterval(tick, 120);
      play.textContent = "Pause";
    });
    const hand = node("div", { class: "qx-buttons", style: "margin:.6rem 0" },
      button("Step", () => go(1)), play, button("Start again", () => { stop(); put(model, { steps: 0 }); }));
    stop();
    const [stairs, strip] = [0, 1].map(() => node("svg", { "aria-hidden": "true" }));
    const facts = node(
      "div", { class: "qx-facts" },
      fact("● latent w", "qx-tb", output("latent"), node("span", {}, "next step: −η × ", output("slope"))),
      fact("■ rounded ŵ", "qx-tr", output("value"), node("span", {}, "loss ", output("loss"))),
      fact("mean of ŵ lately", "", output("mean"), node("span", {}, "the last 40 steps")),
      fact("changes of ŵ", "", output("flips")),
    );
    const panel = (title, svg) => node("div", { class: "qx-panel" }, node("p", { class: "qx-title" }, title), svg);

    const draw = (state, width) => {
      const [r, rows] = [compute(state), trajectory(state)];
      for (const [name, c] of Object.entries(controls)) c.sync(state[name]);
      examples.sync({ ...state, steps: 0 });
      drawStairs(stairs, state, r, width);
      drawStrip(strip, state, rows, width);
      for (const name of ["latent", "value", "slope", "loss", "mean"]) show(facts, name, r[name], tidy(r[name], 4));
      show(facts, "flips", r.flips, String(r.flips));
      return `after ${state.steps} steps: latent ${tidy(r.latent)}, rounded ${tidy(r.value)}, mean lately ${tidy(r.mean)}`;
    };

    const done = mount({
      model, el, draw, names: Object.keys(controls),
      label: "Straight through: a latent weight on a staircase",
      children: [
        examples.row, hand,
        panel("The staircase: latent weight w across, rounded ŵ up, in units of the scale s", stairs),
        panel("Step by step", strip),
        facts,
        node("div", { class: "qx-controls qx-three", style: "margin-top:.9rem" }, Object.values(controls).map((c) => c.row)),
      ],
    });
    return () => {
      stop();
      done();
    };
  },
};

function drawStairs(svg, { bits, target, start }, { latent, value, slope }, width) {
  const [height, top, bottom] = [210, 16, 38];
  resize(svg, width, height);
  const [low, high] = range(bits);
  const left = Math.min(low - 2, start, latent, target) - 0.3;
  const right = Math.max(high + 2, start, latent, target) + 0.3;
  const [floor, roof] = [Math.min(low, target) - 0.4, Math.max(high, target) + 0.4];
  const x = (v) => 30 + ((v - left) / (right - left)) * (width - 40);
  const y = (v) => height - bottom - ((v - floor) / (roof - floor)) * (height - top - bottom);
  const out = [];
  // Outside the range the code is clipped.
  for (const [a, b] of [[left, low - 0.5], [high + 0.5, right]])
    out.push(node("rect", { x: x(a), y: top, width: Math.max(0, x(b) - x(a)), height: height - top - bottom, style: "fill:var(--wash)" }));
  out.push(words(x(left) + 4, top + 11, "clipped", "qx-small", "start"), words(x(right) - 4, height - bottom - 6, "clipped", "qx-small", "end"));
  const points = [[x(left), y(low)]];
  for (let k = low; k < high; k++) {
    points.push([x(k + 0.5), y(k)], [x(k + 0.5), y(k + 1)]);
    out.push(line(x(k + 0.5), height - bottom - 5, x(k + 0.5), height - bottom + 5, "qx-cut"));
  }
  points.push([x(right), y(high)]);
  out.push(line(x(left), height - bottom, x(right), height - bottom, "qx-axis"), path(points, "qx-curve"));
  const every = Math.ceil((right - left) / (width / 34));
  for (let k = Math.ceil(left); k <= right; k++)
    if (k % every === 0) out.push(words(x(k), height - bottom + 18, tidy(k), "qx-small"));
  for (let k = low; k <= high; k++) if (k % 2 ** Math.max(0, bits - 3) === 0) out.push(words(24, y(k) + 4, tidy(k), "qx-small", "end"));
  out.push(line(x(left), y(target), x(right), y(target), "qx-zero"), words(x(right) - 4, y(target) - 6, "target", "qx-small qx-g", "end"));
  // The point is on the staircase, its latent weight below it on the axis.
  out.push(
    line(x(latent), y(value), x(latent), height - bottom, "qx-dots"),
    node("rect", { x: x(latent) - 5.5, y: y(value) - 5.5, width: 11, height: 11, style: "fill:var(--red)" }),
    node("circle", { cx: x(latent), cy: height - bottom, r: 6, class: "qx-now" }),
    words(clamp(x(latent), 80, width - 80), height - 4, slope ? `● w, pushed to the ${slope > 0 ? "left" : "right"}` : "● w, not pushed", "qx-bold qx-b"),
  );
  svg.replaceChildren(...out);
}

function drawStrip(svg, { bits, target }, rows, width) {
  const [height, bottom] = [150, 22];
  resize(svg, width, height);
  const all = rows.map((r) => r.w).concat(target, range(bits));
  const [low, high] = [Math.min(...all) - 0.3, Math.max(...all) + 0.3];
  const x = (k) => 30 + (k / STEPS) * (width - 40);
  const y = (v) => 6 + ((high - v) / (high - low)) * (height - bottom - 6);
  const out = [line(30, height - bottom, width - 10, height - bottom, "qx-axis")];
  for (let k = 0; k <= STEPS; k += 20) out.push(words(x(k), height - 5, k === 0 ? "step 0" : String(k), "qx-small"));
  for (let k = Math.ceil(low); k <= high; k++)
    if (k % 2 ** Math.max(0, bits - 3) === 0) out.push(line(30, y(k), width - 10, y(k), "qx-grid"), words(24, y(k) + 4, tidy(k), "qx-small", "end"));
  out.push(line(30, y(target), width - 10, y(target), "qx-zero"));
  const stairs = rows.flatMap((r, k) => [[x(k), y(r.value)], [x(Math.min(STEPS, k + (k < rows.length - 1))), y(r.value)]]);
  const now = rows.length - 1;
  const latent = path(rows.map((r, k) => [x(k), y(r.w)]));
  latent.setAttribute("style", "fill:none;stroke:var(--blue);stroke-width:2.5");
  out.push(
    path(stairs, "qx-curve qx-cr"), latent,
    node("rect", { x: x(now) - 4, y: y(rows[now].value) - 4, width: 8, height: 8, style: "fill:var(--red)" }),
    node("circle", { cx: x(now), cy: y(rows[now].w), r: 4.5, class: "qx-now" }),
  );
  svg.replaceChildren(...out);
}
