// Error laboratory: the mean squared error of a clipped uniform grid, split into its two causes.
const DENSITY = {
  gaussian: (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI),
  laplace: (x) => Math.exp(-Math.SQRT2 * Math.abs(x)) / Math.SQRT2,
  student_t: (x) => 2 / (Math.PI * (1 + x * x) ** 2),
  uniform: (x) => (Math.abs(x) <= Math.sqrt(3) ? 1 / (2 * Math.sqrt(3)) : 0),
};
const [CLIP_MIN, CLIP_MAX] = [0.3, 40];
const CLIPS = Array.from({ length: 200 }, (_, i) => CLIP_MIN * (CLIP_MAX / CLIP_MIN) ** (i / 199));

// Gauss-Legendre nodes and weights on (0, 1), by Newton's method on the Legendre polynomial.
function gauss(n) {
  return Array.from({ length: n }, (_, i) => {
    let x = Math.cos((Math.PI * (i + 0.75)) / (n + 0.5));
    let slope = 1;
    for (let turn = 0; turn < 100; turn++) {
      let [p, before] = [1, 0];
      for (let k = 1; k <= n; k++) [p, before] = [((2 * k - 1) * x * p - (k - 1) * before) / k, p];
      slope = (n * (x * p - before)) / (x * x - 1);
      const dx = p / slope;
      x -= dx;
      if (Math.abs(dx) < 1e-15) break;
    }
    return [(1 - x) / 2, 1 / ((1 - x * x) * slope * slope)];
  });
}
const CELL = gauss(8);
const TAIL = gauss(64);

// By symmetry only x >= 0: half cells of width s/2, each with its level at one of its two ends, and
// cut into pieces of at most half a standard deviation, or the nodes would miss the density.
function expectedMse(distribution, clip, bits) {
  const f = DENSITY[distribution];
  const edge = distribution === "uniform" ? Math.sqrt(3) : Infinity;
  const Q = 2 ** (bits - 1) - 1;
  const s = clip / Q;
  const cuts = Math.ceil(s);
  const piece = s / 2 / cuts;
  let rounding = 0;
  for (let i = 0; i < 2 * Q * cuts; i++) {
    const low = i * piece;
    const width = Math.min((i + 1) * piece, edge) - low;
    if (width <= 0) break;
    const level = s * Math.floor((Math.floor(i / cuts) + 1) / 2);
    for (const [t, w] of CELL) {
      const x = low + t * width;
      rounding += w * width * (x - level) ** 2 * f(x);
    }
  }
  let clipping = 0;
  for (const [t, w] of clip < edge ? TAIL : []) {
    const past = edge < Infinity ? t * (edge - clip) : t / (1 - t);
    const stretch = edge < Infinity ? edge - clip : 1 / (1 - t) ** 2;
    clipping += w * past * past * f(clip + past) * stretch;
  }
  return { rounding: 2 * rounding, clipping: 2 * clipping, total: 2 * rounding + 2 * clipping };
}

// A scan brackets the minimum, golden section narrows it, as in qtools.error.optimal_clip. Below
// 1e-7 rounding noise would decide: the minimum is flat.
function optimalClip(distribution, bits) {
  const cost = (c) => expectedMse(distribution, c, bits).total;
  const errors = CLIPS.map(cost);
  const best = errors.indexOf(Math.min(...errors));
  let low = CLIPS[Math.max(best - 1, 0)];
  let high = CLIPS[Math.min(best + 1, CLIPS.length - 1)];
  const golden = (Math.sqrt(5) - 1) / 2;
  while (high - low > 1e-7) {
    const left = high - golden * (high - low);
    const right = low + golden * (high - low);
    if (cost(left) <= cost(right)) high = right;
    else low = left;
  }
  return (low + high) / 2;
}

// What depends on the distribution and the bits alone: the best clip and the curves.
const known = {};
function landscape(distribution, bits) {
  return (known[distribution + bits] ??= (() => {
    const clip = optimalClip(distribution, bits);
    return {
      clip, total: expectedMse(distribution, clip, bits).total,
      curves: CLIPS.map((c) => [c, expectedMse(distribution, c, bits)]),
    };
  })());
}

const decibel = (mse) => -10 * Math.log10(mse);

function compute({ distribution, bits, clip }) {
  const step = clip / (2 ** (bits - 1) - 1);
  const mse = expectedMse(distribution, clip, bits);
  const best = landscape(distribution, bits);
  return {
    step, ...mse, model: step ** 2 / 12, sqnr: decibel(mse.total),
    best_clip: best.clip, best_total: best.total, best_sqnr: decibel(best.total),
  };
}

const explorable = {
  render({ model, el }) {
    const names = ["distribution", "bits", "clip"];
    const round3 = (v) => clamp(Number(v.toPrecision(3)), CLIP_MIN, CLIP_MAX);
    const controls = {
      distribution: choice({ model, name: "distribution", label: "Data", options: [["gaussian", "Gaussian"], ["laplace", "Laplace"], ["student_t", "Student t, ν = 3"], ["uniform", "Uniform"]] }),
      bits: slider({ model, name: "bits", label: "Bits", min: 2, max: 8, step: 1, text: (v) => `${v} bits, ${2 ** v - 1} levels` }),
      clip: slider({ model, name: "clip", label: "Clip", min: Math.log(CLIP_MIN), max: Math.log(CLIP_MAX), step: 0.01, to: (u) => round3(Math.exp(u)), from: Math.log, text: (v) => `±${tidy(v)} σ`, say: (v) => `plus or minus ${tidy(v)} standard deviations` }),
    };
    const go = node("button", { type: "button", onclick: () => put(model, { clip: landscape(model.get("distribution"), model.get("bits")).clip }) }, "Go to the best clip");
    const svgs = [0, 1, 2].map(() => node("svg", { "aria-hidden": "true" }));
    const [data, error, curve] = svgs;
    const hatch = stripes();
    let curveX;
    curve.classList.add("qx-grab");
    drag(curve, (e) => put(model, { clip: round3(curveX.back(svgX(curve, e))) }));
    const figure = (title, svg) => node("div", { class: "qx-panel" }, node("p", { class: "qx-title" }, title), svg);
    const facts = node(
      "div", { class: "qx-facts" },
      fact("● rounding error", "qx-tb", output("rounding"), node("span", {}, "model s²/12: ", output("model"))),
      fact("◆ clipping error", "qx-tr", output("clipping"), node("span", {}, "step s = ", output("step"))),
      fact("total error", "", output("total"), node("span", {}, "at the best clip ", output("best_total"))),
      fact("signal to noise", "", output("sqnr"), node("span", {}, "best ", output("best_sqnr"), " at ±", output("best_clip"))),
    );

    const draw = (state, width) => {
      const r = compute(state);
      for (const name of names) controls[name].sync(state[name]);
      const half = width < 560 ? width : (width - 24) / 2;
      drawData(data, state, r, half, hatch.fill);
      drawError(error, state, r, half, hatch.fill);
      curveX = drawCurve(curve, state, r, width, hatch.fill);
      for (const name of ["rounding", "clipping", "total", "model", "best_total", "step"]) show(facts, name, r[name], tidy(r[name]));
      show(facts, "sqnr", r.sqnr, fixed(r.sqnr, 2) + " dB");
      show(facts, "best_sqnr", r.best_sqnr, fixed(r.best_sqnr, 2) + " dB");
      show(facts, "best_clip", r.best_clip, tidy(r.best_clip));
      return `signal to noise ${fixed(r.sqnr, 1)} decibel, ${r.rounding > r.clipping ? "rounding" : "clipping"} error dominates`;
    };

    return mount({
      model, el, draw, names,
      label: "Error laboratory: rounding against clipping",
      children: [
        hatch.holder,
        node("div", { class: "qx-controls qx-three" }, controls.distribution.row, controls.bits.row, controls.clip.row),
        node("div", { class: "qx-two" }, figure("The data and the levels", data), figure("The error of one number, log scale", error)),
        node("div", { class: "qx-panel" }, node("p", { class: "qx-title" }, "Mean squared error against the clip: drag it", go), curve),
        facts,
      ],
    });
  },
};

const area = (points, base, style) =>
  node("path", { style, d: "M" + [[points[0][0], base], ...points, [points.at(-1)[0], base]].map(([x, y]) => x.toFixed(1) + "," + y.toFixed(1)).join("L") + "Z" });
const tint = "fill:color-mix(in srgb, var(--blue) 25%, transparent)";
const range = (a, b, n) => Array.from({ length: n + 1 }, (_, i) => a + ((b - a) * i) / n);

// The density, the levels under it, and what lies beyond the clip.
function drawData(svg, { distribution, bits, clip }, r, width, hatch) {
  const [height, base] = [150, 122];
  resize(svg, width, height);
  const f = DENSITY[distribution];
  const span = Math.max(4.5, clip * 1.08);
  const x = (v) => width / 2 + (v / span) * (width / 2 - 4);
  const y = (p) => base - (p / f(0)) * (base - 22);
  const part = (a, b) => range(a, b, 160).map((v) => [x(v), y(f(v))]);
  const Q = 2 ** (bits - 1) - 1;
  // Levels too close to tell apart are marks under the axis only.
  const dense = x(r.step) - x(0) < 5;
  const levels = range(-Q, Q, 2 * Q).map((k) => k * r.step);
  const out = [
    area(part(-clip, clip), base, dense ? tint : "fill:var(--wash)"),
    [[-span, -clip], [clip, span]].map(([a, b]) => area(part(a, b), base, hatch)),
    levels.map((v) => line(x(v), dense ? base : y(f(v)), x(v), base + 5, dense ? "qx-level qx-thin" : "qx-level")),
    path(range(-span, span, 240).map((v) => [x(v), y(f(v))]), "qx-curve"),
    line(4, base, width - 4, base, "qx-axis"),
    [-clip, clip].map((v) => line(x(v), 18, x(v), base + 5, "qx-cut")),
    words(x(clip) + (clip > span * 0.7 ? -5 : 5), 16, `clip ${tidy(clip)}`, "qx-bold qx-r", clip > span * 0.7 ? "end" : "start"),
    [-span, 0, span].map((v, i) => words(x(v), base + 20, i === 1 ? "0" : tidy(v, 2) + " σ", "qx-small", ["start", "middle", "end"][i])),
  ];
  svg.replaceChildren(...out.flat());
}

// The density of the error x - x̂: every cell folded onto one, and the tails beside it.
function drawError(svg, { distribution, bits, clip }, r, width, hatch) {
  const [height, base] = [150, 122];
  resize(svg, width, height);
  const f = DENSITY[distribution];
  const Q = 2 ** (bits - 1) - 1;
  const s = r.step;
  // Past s/2 only numbers beyond the clip are left: x = clip + |e|.
  const tail = (e) => f(clip + Math.abs(e));
  const inside = (e) => {
    let sum = 0;
    for (let k = -Q; k <= Q; k++) sum += f(k * s + e);
    return sum;
  };
  const span = Math.max(s, 0.62 * s + 3 * Math.sqrt(r.clipping));
  const x = (v) => width / 2 + (v / span) * (width / 2 - 4);
  const wide = x(s / 2) - x(0) > 62;
  const body = range(-s / 2, s / 2, 100).map((e) => [e, inside(e)]);
  const peak = Math.max(1 / s, ...body.map(([, p]) => p));
  // Four decades: on a linear axis the tails that make up most of the error cannot be seen.
  const y = (p) => base - (base - 30) * Math.max(0, 1 + Math.log10(p / peak) / 4);
  const at = ([e, p]) => [x(e), y(p)];
  const wing = (a, b) => range(a, b, 60).map((e) => at([e, tail(e)]));
  const out = [
    area(body.map(at), base, tint),
    [[-span, -s / 2], [s / 2, span]].map(([a, b]) => area(wing(a, b), base, hatch)),
    path([...wing(-span, -s / 2), ...body.map(at), ...wing(s / 2, span)], "qx-curve"),
    path([[x(-s / 2), base], [x(-s / 2), y(1 / s)], [x(s / 2), y(1 / s)], [x(s / 2), base]], "qx-model"),
    line(4, base, width - 4, base, "qx-axis"),
    words(x(0), 16, "rounding: at most s/2", "qx-bold qx-b"),
    wide && words(x(0), base - 8, "- - uniform model", "qx-small qx-g"),
    base - y(tail(0)) > 4 && x(span) - x(s / 2) > 62 && words(x(span), 44, "clipping", "qx-bold qx-r", "end"),
    (wide ? [["−s/2", -s / 2], ["s/2", s / 2]] : [[tidy(-span, 2) + " σ", -span], [tidy(span, 2) + " σ", span]]).concat([["0", 0]])
      .map(([t, v]) => words(x(v), base + 20, t, "qx-small", v === -span ? "start" : v === span ? "end" : "middle")),
  ];
  svg.replaceChildren(...out.flat().filter(Boolean));
}

// Both errors and their sum against the clip, on logarithmic axes.
function drawCurve(svg, { distribution, bits, clip }, r, width, hatch) {
  const { curves } = landscape(distribution, bits);
  const [height, top, bottom, left] = [230, 14, 196, 44];
  resize(svg, width, height);
  const right = width - 10;
  const unit = (right - left) / Math.log(CLIP_MAX / CLIP_MIN);
  const x = (c) => left + unit * Math.log(c / CLIP_MIN);
  const back = (px) => CLIP_MIN * Math.exp((px - left) / unit);
  const high = Math.log10(Math.max(...curves.map(([, m]) => m.total))) + 0.3;
  const low = Math.log10(r.best_total) - 0.9;
  const y = (v) => bottom - ((bottom - top) * (Math.log10(v) - low)) / (high - low);
  const points = (of) => curves.map(([c, m]) => [x(c), Math.min(y(of(m, c)), bottom + 50)]);
  const Q = 2 ** (bits - 1) - 1;
  const modelTop = Q * Math.sqrt(12 * 10 ** high);
  const bestX = x(r.best_clip);
  const side = clip > r.best_clip ? -1 : 1;
  const clipId = (svg.dataset.clip ??= freshId());
  const ticks = range(Math.ceil(low), Math.floor(high), Math.floor(high) - Math.ceil(low)).filter((e) => Number.isInteger(e));
  const name = (e) => (e >= -2 ? tidy(10 ** e) : "10" + superscript(e));
  const out = [
    node("defs", {}, node("clipPath", { id: clipId }, node("rect", { x: left, y: 0, width: right - left, height: bottom }))),
    ticks.map((e) => [line(left, y(10 ** e), right, y(10 ** e), "qx-grid"), words(left - 6, y(10 ** e) + 4, name(e), "qx-small", "end")]),
    line(left, bottom, right, bottom, "qx-axis"),
    [0.5, 1, 2, 5, 10, 20, 40].map((c) => [line(x(c), bottom, x(c), bottom + 4, "qx-axis"), words(x(c) + (c === 40 ? 8 : 0), bottom + 18, c === 40 ? "40 σ" : String(c), "qx-small", c === 40 ? "end" : "middle")]),
    node("g", { "clip-path": `url(#${clipId})` },
      area(points((m) => m.rounding), bottom + 50, tint),
      area(points((m) => m.clipping), bottom + 50, hatch + ";opacity:.3"),
      path(points((m) => m.rounding), "qx-curve qx-cb"), path(points((m) => m.clipping), "qx-curve qx-cr"),
      path(points((m, c) => (c / Q) ** 2 / 12), "qx-model"), path(points((m) => m.total), "qx-curve qx-total")),
    line(bestX, top + 6, bestX, y(r.best_total) - 6, "qx-zero"),
    words(bestX + side * 6, top + 14, `best ±${tidy(r.best_clip)} σ`, "qx-bold qx-g", side > 0 ? "start" : "end"),
    line(x(clip), top, x(clip), bottom, "qx-cut"),
    bestX - left > 190 && words(left + 8, y(curves[0][1].total) - 8, "total", "qx-bold", "start"),
    words(Math.min(x(modelTop), right) - 12, modelTop < CLIP_MAX ? top : y((CLIP_MAX / Q) ** 2 / 12) - 10, "s²/12", "qx-small qx-g", "end"),
    words(left + 8, bottom - 10, "clipping", "qx-bold qx-r", "start"),
    words(right - 6, bottom - 10, "rounding", "qx-bold qx-b", "end"),
    node("circle", { cx: bestX, cy: y(r.best_total), r: 6, class: "qx-best" }),
    node("circle", { cx: x(clip), cy: y(r.total), r: 10, class: "qx-now" }),
  ];
  svg.replaceChildren(...out.flat(3).filter(Boolean));
  return { back };
}
