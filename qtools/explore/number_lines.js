// Two number lines: reals above, codes below, x on its way there and back.
const LIMIT = 4;
const STEP = 0.05;
// Heights in the picture: the real line, the pin of x above it, the line of codes.
const [TOP, PIN, BOTTOM] = [112, 84, 246];

function compute({ x_min, x_max, x, bits, signed, symmetric, narrow_range }) {
  const half = 2 ** (bits - 1);
  const qmin = (signed ? -half : 0) + (narrow_range ? 1 : 0);
  const qmax = signed ? half - 1 : 2 * half - 1;
  const low = Math.min(x_min, 0);
  const high = Math.max(x_max, 0);
  const fixed_z = signed ? 0 : half;
  let scale = symmetric ? Math.max(-low, high) / (qmax - fixed_z) : (high - low) / (qmax - qmin);
  // Never below the smallest normal number, and one for a range of no width: as qtools.affine.
  scale = low === 0 && high === 0 ? 1 : Math.max(scale, 2.2250738585072014e-308);
  const zero_point = symmetric ? fixed_z : clamp(qmin - roundHalfEven(low / scale), qmin, qmax);
  const unclipped = roundHalfEven(x * (1 / scale)) + zero_point;
  const code = clamp(unclipped, qmin, qmax);
  const x_hat = scale * (code - zero_point);
  const least = scale * (qmin - zero_point);
  const most = scale * (qmax - zero_point);
  return {
    scale, zero_point, qmin, qmax, code, x_hat,
    error: Math.abs(x - x_hat),
    bound: least <= x && x <= most ? scale / 2 : Math.max(least - x, x - most),
    clipped: code === unclipped ? 0 : 1,
    least, most,
  };
}

// Positions on a grid of nice numbers.
const snap = (v) => Number((Math.round(v / STEP) * STEP).toFixed(2));

const explorable = {
  render({ model, el }) {
    const svg = node("svg", { class: "qx-lines", role: "group", "aria-label": "Real line above, codes below" });
    const scene = node("g", { "aria-hidden": "true", style: "pointer-events:none" });
    const catcher = node("rect", { class: "qx-hit", y: TOP - 44, height: 60 });
    const get = (name) => () => model.get(name);
    let left = 20;
    let perUnit = 80;
    const real = (v) => left + (v + LIMIT) * perUnit;
    const fromPixels = (e) => (svgX(svg, e) - left) / perUnit - LIMIT;
    // An end of the range stops one step short of the other, so that a range stays a range.
    const limits = {
      x_min: () => [-LIMIT, model.get("x_max") - STEP],
      x_max: () => [model.get("x_min") + STEP, LIMIT],
      x: () => [-LIMIT, LIMIT],
    };
    const set = (name) => (v) => put(model, { [name]: snap(clamp(v, ...limits[name]())) });
    const flag = (name, label, sub) => {
      const number = node("tspan", { dy: -4 });
      const text = node("text", { y: 38, class: "qx-bold", "text-anchor": "middle" }, "x", node("tspan", { dy: 4, class: "qx-sub" }, sub), number);
      const h = handle({
        label, name, get: get(name), set: set(name), range: limits[name], step: STEP, page: 0.5,
        children: [
          node("rect", { class: "qx-hit", x: -24, y: 20, width: 48, height: 46 }),
          node("rect", { class: "qx-ring", x: -14, y: 42, width: 28, height: 24, rx: 5 }),
          text, node("path", { class: "qx-flag", d: "M-9,46H9L0,60Z" }), line(0, 58, 0, TOP + 6, "qx-axis"),
        ],
      });
      drag(h.n, (e) => set(name)(fromPixels(e)));
      return { ...h, text, number };
    };
    const handles = {
      x_min: flag("x_min", "x min, lower end of the range", "min"),
      x_max: flag("x_max", "x max, upper end of the range", "max"),
      x: handle({
        label: "x, the number that is quantized", name: "x", get: get("x"), set: set("x"), range: limits.x, step: STEP, page: 0.5,
        children: [
          node("circle", { class: "qx-hit", r: 20 }), node("circle", { class: "qx-ring", r: 14 }),
          line(0, 0, 0, TOP - PIN, "qx-there"), node("circle", { r: 9, style: "fill:var(--blue)" }),
        ],
      }),
    };
    drag(handles.x.n, (e) => set("x")(fromPixels(e)));
    drag(catcher, (e) => set("x")(fromPixels(e)));
    svg.append(catcher, scene, handles.x_min.n, handles.x_max.n, handles.x.n);

    const controls = {
      bits: slider({ model, name: "bits", label: "Bits", min: 2, max: 8, step: 1, text: (v) => `${v} bits, ${2 ** v} codes` }),
      signed: checkbox({ model, name: "signed", label: "signed" }),
      symmetric: checkbox({ model, name: "symmetric", label: "symmetric" }),
      narrow_range: checkbox({ model, name: "narrow_range", label: "narrow range" }),
    };
    const there = node("span");
    const back = node("span");
    const verdict = node("span");
    const facts = node(
      "div", { class: "qx-facts qx-three" },
      fact("scale s", "", output("scale")),
      fact("zero point z", "", output("zero_point")),
      fact("codes", "", node("span", { class: "qx-big" }, output("qmin"), " … ", output("qmax"))),
    );
    const sums = node(
      "div", { class: "qx-sums" },
      node("p", {}, node("b", { class: "qx-tb" }, "● there "), there, output("code"), " ", output("clipped")),
      node("p", {}, node("b", { class: "qx-tr" }, "◆ back "), back, output("x_hat")),
      node("p", {}, node("b", {}, "error "), "|x − x̂| = ", output("error"), verdict, output("bound")),
    );

    const draw = (state, width) => {
      const r = compute(state);
      left = Math.max(14, width * 0.03);
      perUnit = (width - 2 * left) / (2 * LIMIT);
      resize(svg, width, BOTTOM + 66);
      catcher.setAttribute("width", width);
      scene.replaceChildren(...picture(state, r, width, left, real));
      const centres = apart(real(state.x_min), real(state.x_max), 96, width);
      ["x_min", "x_max"].forEach((name, i) => {
        const h = handles[name];
        h.n.setAttribute("transform", `translate(${real(state[name])},0)`);
        h.text.setAttribute("x", centres[i] - real(state[name]));
        h.number.textContent = " = " + fixed(state[name], 2);
        h.sync(state[name], fixed(state[name], 2));
      });
      handles.x.n.setAttribute("transform", `translate(${real(state.x)},${PIN})`);
      handles.x.sync(state.x, `${fixed(state.x, 2)}, code ${r.code}, back as ${tidy(r.x_hat)}`);
      for (const [name, c] of Object.entries(controls)) c.sync(state[name]);

      const z = r.zero_point;
      const minus = z < 0 ? ` + ${-z}` : ` − ${z}`;
      const plus = z < 0 ? ` − ${-z}` : ` + ${z}`;
      there.textContent = `q = clip(round(${fixed(state.x, 2)} / ${tidy(r.scale)})${plus}) = `;
      back.textContent = `x̂ = ${tidy(r.scale)} × (${tidy(r.code)}${minus}) = `;
      const inside = r.least <= state.x && state.x <= r.most;
      verdict.textContent = inside ? ", at most s/2 = " : "; x is outside, the edge is this far: ";
      show(facts, "scale", r.scale, tidy(r.scale, 4));
      show(facts, "zero_point", z, tidy(z));
      show(facts, "qmin", r.qmin, tidy(r.qmin));
      show(facts, "qmax", r.qmax, tidy(r.qmax));
      show(sums, "code", r.code, tidy(r.code));
      show(sums, "x_hat", r.x_hat, tidy(r.x_hat, 4));
      show(sums, "error", r.error, tidy(r.error));
      show(sums, "bound", r.bound, tidy(r.bound));
      show(sums, "clipped", r.clipped, r.clipped ? "✂ clipped" : "");
      return `code ${r.code}, comes back as ${tidy(r.x_hat)}, error ${tidy(r.error)}${r.clipped ? ", clipped" : ""}`;
    };

    return mount({
      model, el, draw, names: ["x_min", "x_max", "x", ...Object.keys(controls)],
      label: "Two number lines: real numbers and their integer codes",
      children: [
        node("div", { class: "qx-controls" }, controls.bits.row,
          node("div", { class: "qx-checks" }, controls.signed.row, controls.symmetric.row, controls.narrow_range.row)),
        svg, sums, facts,
      ],
    });
  },
};

function picture(state, r, width, left, real) {
  const count = r.qmax - r.qmin;
  const gap = (width - 2 * left) / count;
  const code = (q) => left + gap * (q - r.qmin);
  const codes = Array.from({ length: count + 1 }, (_, i) => r.qmin + i);
  const value = (q) => r.scale * (q - r.zero_point);
  const seen = (v) => Math.abs(v) <= LIMIT * 1.01;
  // Lines and labels every so many codes, so that neither run into each other.
  const every = (pixels) => 2 ** Math.max(0, Math.ceil(Math.log2(pixels / gap)));
  const named = (q) => q === r.qmin || q === r.qmax ||
    (q % every(26) === 0 && Math.min(q - r.qmin, r.qmax - q) * gap > 30);
  const [zAt, qAt] = apart(code(r.zero_point), code(r.code), 66, width);
  const tick = (pixels) => "qx-axis" + (pixels < 4 ? " qx-thin" : "");
  const off = Math.abs(real(state.x) - real(r.x_hat));
  // The words beside x go to its right, unless an end of the range or the border is in the way.
  const taken = (from, to) => [state.x_min, state.x_max].some((v) => real(v) > from && real(v) < to);
  const at = real(state.x);
  const xRight = at < 100 || (at < width - 90 && (!taken(at + 10, at + 90) || taken(at - 90, at - 10)));
  const back = real(r.x_hat);
  const out = [
    words(0, 13, "real numbers: drag x and the ends of the range", "qx-small", "start"),
    words(real(-LIMIT), TOP - 10, tidy(-LIMIT), "qx-small"),
    words(real(LIMIT), TOP - 10, tidy(LIMIT), "qx-small"),
    words(real(0) - 5, TOP - 10, "0", "qx-small qx-g", "end"),
    r.clipped && off > 76 ? words((real(state.x) + back) / 2, TOP + 20, `error ${tidy(r.error)}`, "qx-bold qx-r") : [],
    words(0, BOTTOM + 60, "integer codes", "qx-small", "start"),
    // The fan: which real number each code stands for.
    codes.filter((q) => (q - r.zero_point) % every(9) === 0 && seen(value(q)))
      .map((q) => line(real(value(q)), TOP, code(q), BOTTOM, "qx-grid")),
    line(real(-LIMIT), TOP, real(LIMIT), TOP, "qx-dots"),
    line(Math.max(real(r.least), real(-LIMIT)), TOP, Math.min(real(r.most), real(LIMIT)), TOP, "qx-axis"),
    codes.filter((q) => seen(value(q))).map((q) => line(real(value(q)), TOP - 5, real(value(q)), TOP + 5, tick(r.scale * (real(1) - real(0))))),
    line(real(0), TOP - 5, real(0), TOP, "qx-zero"),
    line(real(0), TOP, code(r.zero_point), BOTTOM, "qx-zero"),
    line(left, BOTTOM, width - left, BOTTOM, "qx-axis"),
    codes.map((q) => line(code(q), BOTTOM - 5, code(q), BOTTOM + 5, tick(gap))),
    codes.filter(named).map((q) => words(code(q), BOTTOM + 21, tidy(q), "qx-small")),
    node("rect", { x: Math.min(real(state.x), back), y: TOP - 4, height: 8, width: off, style: "fill:var(--red)" }),
    line(real(state.x), TOP, code(r.code), BOTTOM, "qx-there"),
    line(code(r.code), BOTTOM, back, TOP, "qx-back"),
    arrow(real(state.x), TOP, code(r.code), BOTTOM, 0.72, "blue"),
    arrow(code(r.code), BOTTOM, back, TOP, 0.6, "red"),
    node("circle", { cx: code(r.code), cy: BOTTOM, r: 6, style: "fill:var(--blue)" }),
    node("path", { d: `M${back},${TOP - 8}l8,8l-8,8l-8,-8Z`, style: "fill:var(--red)" }),
    words(real(state.x) + (xRight ? 15 : -15), PIN + 2, `x = ${fixed(state.x, 2)}`, "qx-bold qx-b", xRight ? "start" : "end"),
    words(zAt, BOTTOM + 42, `z = ${tidy(r.zero_point)}`, "qx-bold qx-g"),
    words(qAt, BOTTOM + 42, `q = ${tidy(r.code)}`, "qx-bold qx-b"),
  ];
  return out.flat();
}

// A head at some fraction of the way from one point to another.
function arrow(x1, y1, x2, y2, part, colour) {
  const turn = (Math.atan2(y2 - y1, x2 - x1) * 180) / Math.PI;
  const place = `translate(${x1 + part * (x2 - x1)},${y1 + part * (y2 - y1)}) rotate(${turn})`;
  return node("path", { d: "M7,0L-6,-6V6Z", transform: place, style: `fill:var(--${colour})` });
}
