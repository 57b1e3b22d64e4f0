// Temperature: softened answers of a teacher and the student's gradient. DATA, the real logits
// and pictures, stands above this file's text.
const [LOWEST, HIGHEST] = [-8, 56];
// Eight positions of the slider double the temperature; three digits are enough to say.
const toT = (position) => Number((2 ** (position / 8)).toPrecision(3));
const toPosition = (t) => clamp(Math.round(8 * Math.log2(t)), LOWEST, HIGHEST);

const sum = (values) => values.reduce((a, b) => a + b, 0);
const length = (values) => Math.sqrt(sum(values.map((v) => v * v)));
const centred = (values) => values.map((v) => v - sum(values) / values.length);

function logSoftmax(logits, t) {
  const top = Math.max(...logits);
  const below = logits.map((v) => (v - top) / t);
  const rest = Math.log(sum(below.map(Math.exp)));
  return below.map((v) => v - rest);
}

function logitsOf({ image, student }) {
  const v = DATA.teacher[image];
  return [v, student === "blank" ? v.map(() => 0) : DATA.student[image]];
}

// T (q − p), the gradient with the factor T²; without it, this over T².
function gradient(state, t) {
  const [p, q] = logitsOf(state).map((logits) => logSoftmax(logits, t).map(Math.exp));
  return q.map((x, i) => t * (x - p[i]));
}

function limit(state) {
  const [v, z] = logitsOf(state).map(centred);
  return z.map((x, i) => (x - v[i]) / z.length);
}

function compute(state) {
  const t = state.temperature;
  const logP = logSoftmax(DATA.teacher[state.image], t);
  const p = logP.map(Math.exp);
  const entropy = -sum(p.map((x, i) => x * logP[i]));
  const [g, far] = [gradient(state, t), limit(state)];
  const numbered = (name, values) => Object.fromEntries(values.map((x, i) => [name + i, x]));
  return {
    ...numbered("p_", p), ...numbered("g_", g), entropy, classes: Math.exp(entropy),
    plain: length(g) / (t * t), scaled: length(g), limit: length(far),
    cosine: sum(g.map((x, i) => x * far[i])) / (length(g) * length(far)),
  };
}

const percent = (x) => (x >= 0.9995 ? "100 %" : x < 5e-5 ? "0 %" : tidy(100 * x, x < 0.001 ? 1 : 3) + " %");
const TEMPERATURES = [1, 4, 16, 128].map((t) => [`T = ${t}`, { temperature: t }]);

const explorable = {
  render({ model, el }) {
    const controls = {
      image: choice({ model, name: "image", label: "Image", options: DATA.examples.map((text, i) => [i, text]) }),
      student: choice({ model, name: "student", label: "Student", options: [["trained", "small, trained"], ["blank", "all logits 0"]] }),
      temperature: slider({ model, name: "temperature", label: "Temperature T", min: LOWEST, max: HIGHEST, step: 1, to: toT, from: toPosition, text: (v) => tidy(v) }),
    };
    const stops = buttons({ model, label: "Temperatures", options: TEMPERATURES });
    const [picture, bars, curve] = [0, 1, 2].map(() => node("svg", { "aria-hidden": "true" }));
    const label = node("span", { class: "qx-key" });
    const facts = node(
      "div", { class: "qx-facts" },
      fact("entropy of the answer", "qx-tb", output("entropy"), node("span", {}, "as many as ", output("classes"), " equal classes")),
      fact("gradient, without T²", "qx-tr", output("plain"), node("span", {}, "its length")),
      fact("gradient, times T²", "qx-tg", output("scaled"), node("span", {}, "cosine to the limit ", output("cosine"))),
      fact("limit for high T", "", output("limit"), node("span", {}, "difference of centred logits / 10")),
    );
    // The numbers of each class, for those who cannot see the bars.
    const table = node("div", { class: "qx-say" }, DATA.classes.map((name, i) =>
      node("p", {}, name + ": ", output("p_" + i), ", gradient ", output("g_" + i))));
    const panel = (title, ...svg) => node("div", { class: "qx-panel" }, node("p", { class: "qx-title" }, title), svg);

    const draw = (state, width) => {
      const r = compute(state);
      for (const [name, c] of Object.entries(controls)) c.sync(state[name]);
      stops.sync(state);
      drawPicture(picture, state.image);
      label.textContent = "label: " + DATA.classes[DATA.labels[state.image]];
      drawBars(bars, state, r, width);
      drawCurve(curve, state, r, width);
      for (const name of ["entropy", "classes", "plain", "scaled", "limit", "cosine"]) show(facts, name, r[name], tidy(r[name], 3) + (name === "entropy" ? " nats" : ""));
      DATA.classes.forEach((_, i) => {
        show(table, "p_" + i, r["p_" + i], percent(r["p_" + i]));
        show(table, "g_" + i, r["g_" + i], tidy(r["g_" + i]));
      });
      const best = DATA.classes.map((_, i) => i).sort((a, b) => r["p_" + b] - r["p_" + a]).slice(0, 2);
      return `T ${tidy(state.temperature)}: ${best.map((i) => `${DATA.classes[i]} ${percent(r["p_" + i])}`).join(", ")}; entropy ${tidy(r.entropy)} nats; gradient ${tidy(r.plain)}, times T² ${tidy(r.scaled)}`;
    };

    return mount({
      model, el, draw, names: Object.keys(controls),
      label: "Temperature: softened answers and their gradient",
      children: [
        node("style", {}, ".qx .qx-tg { color: var(--green); } .qx .te-top { display: flex; gap: 1rem; align-items: flex-start; margin-bottom: .7rem; } .qx .te-top > :last-child { flex: 1; min-width: 0; margin: 0; } .qx .te-image { width: 84px; text-align: center; } .qx .te-top .qx-choice { grid-template-columns: auto minmax(0, 1fr); } .qx .te-top select { width: 100%; }"),
        node("div", { class: "te-top" },
          node("div", { class: "te-image" }, picture, label),
          node("div", { class: "qx-controls" }, node("div", { class: "qx-part" }, controls.image.row, controls.student.row), node("div", { class: "qx-part" }, controls.temperature.row, stops.row))),
        panel("Each class: the teacher's softened answer; the student's gradient times T² (┊ its limit)", bars),
        panel("Length of the gradient at every temperature", curve),
        facts, table,
      ],
    });
  },
};

// 28 × 28 pixels in 16 shades, two to a byte. White on black, as the data set is.
function drawPicture(svg, image) {
  const bytes = Uint8Array.from(atob(DATA.pixels[image]), (c) => c.charCodeAt(0));
  const size = 3;
  resize(svg, 28 * size, 28 * size);
  const rows = Array.from({ length: 15 }, () => "");
  for (let i = 0; i < 784; i++) {
    const shade = (bytes[i >> 1] >> (4 * (i % 2))) & 15;
    if (shade) rows[shade - 1] += `M${(i % 28) * size},${Math.floor(i / 28) * size}h${size}v${size}h-${size}z`;
  }
  const fills = rows.map((d, k) => node("path", { d, style: `fill:rgb(${[0, 0, 0].map(() => 17 * (k + 1))})` }));
  svg.replaceChildren(node("rect", { width: 28 * size, height: 28 * size, style: "fill:#000" }), ...fills);
}

// Left of the names the probabilities, right of them the gradient about its zero.
function drawBars(svg, state, r, width) {
  const [high, top] = [24, 24];
  const names = 82;
  const left = (width - names) * 0.46;
  resize(svg, width, top + 10 * high + 6);
  const right = left + names;
  const [g, far] = [DATA.classes.map((_, i) => r["g_" + i]), limit(state)];
  const most = Math.max(...g.map(Math.abs), ...far.map(Math.abs), 1e-9);
  const half = (width - right - 10) / 2;
  const zero = right + half + 4;
  const x = (v) => zero + (v / most) * half;
  const out = [
    words(left - 2, 13, "softened p", "qx-small qx-b", "end"),
    words(zero - 6, 13, width < 420 ? "← up" : "← raised", "qx-small qx-g", "end"),
    words(zero + 6, 13, width < 420 ? "down →" : "lowered →", "qx-small qx-g", "start"),
  ];
  DATA.classes.forEach((name, i) => {
    const y = top + i * high;
    const p = r["p_" + i];
    const isLabel = DATA.labels[state.image] === i;
    const w = Math.max(0.5, p * (left - 58));
    out.push(
      node("rect", { x: left - w, y: y + 4, width: w, height: high - 8, style: "fill:var(--blue)" }),
      words(left - w - 5, y + 16, percent(p), "", "end"),
      words(left + names / 2, y + 16, name, isLabel ? "qx-bold" : ""),
      node("rect", { x: Math.min(zero, x(g[i])), y: y + 4, width: Math.max(0.5, Math.abs(x(g[i]) - zero)), height: high - 8, style: "fill:var(--green)" }),
      node("line", { x1: x(far[i]), y1: y + 1, x2: x(far[i]), y2: y + high - 1, style: "stroke:currentColor;stroke-width:2;stroke-dasharray:3 2" }),
    );
    if (isLabel) out.push(node("rect", { x: left + 2, y: y + 1, width: names - 4, height: high - 2, rx: 4, style: "fill:none;stroke:currentColor;stroke-width:1.5" }));
  });
  out.push(line(zero, 3, zero, top + 10 * high + 2, "qx-axis"));
  svg.replaceChildren(...out);
}

// Both axes count powers: without T² the length falls as 1/T².
function drawCurve(svg, state, r, width) {
  const [left, right, top, bottom, height] = [44, 12, 12, 182, 208];
  resize(svg, width, height);
  const x = (t) => left + ((Math.log2(t) + 1) / 8) * (width - left - right);
  const positions = Array.from({ length: HIGHEST - LOWEST + 1 }, (_, i) => 2 ** ((LOWEST + i) / 8));
  const scaled = positions.map((t) => length(gradient(state, t)));
  const plain = scaled.map((v, i) => v / positions[i] ** 2);
  const high = Math.ceil(Math.log10(Math.max(...scaled, ...plain, r.limit)) + 0.1);
  const low = Math.min(high - 1, Math.floor(Math.log10(Math.min(...plain.filter((v) => v > 0), r.limit))));
  const y = (v) => top + ((high - Math.log10(Math.max(v, 10 ** low))) / (high - low)) * (bottom - top);
  const out = [];
  for (let k = low; k <= high; k++) {
    out.push(line(left, y(10 ** k), width - right, y(10 ** k), "qx-grid"));
    if ((high - k) % 2 === 0) out.push(words(left - 6, y(10 ** k) + 4, Math.abs(k) < 3 ? tidy(10 ** k) : "10" + superscript(k), "qx-small", "end"));
  }
  for (const t of [0.5, 1, 2, 4, 8, 16, 32, 64, 128])
    if (width >= 560 || t % 4 === 0 || t === 1) out.push(words(Math.min(x(t), width - 14), bottom + 17, t === 1 ? "T = 1" : String(t), "qx-small"));
  const draw = (values, colour, dash) => {
    const p = path(values.map((v, i) => [x(positions[i]), y(v)]));
    p.setAttribute("style", `fill:none;stroke:var(${colour});stroke-width:2.5;stroke-dasharray:${dash}`);
    return p;
  };
  const t = state.temperature;
  out.push(
    node("line", { x1: left, y1: y(r.limit), x2: width - right, y2: y(r.limit), style: "stroke:currentColor;stroke-width:1.5;stroke-dasharray:3 2" }),
    words(width - right, y(r.limit) - 6, "limit", "qx-small", "end"),
    draw(plain, "--red", "7 3"), draw(scaled, "--green", "none"),
    words(x(30), y(plain[47]) + 20, "without T²", "qx-bold qx-r", "end"),
    words(x(24), y(scaled[45]) + 20, "times T²", "qx-bold qx-g"),
    line(x(t), top, x(t), bottom, "qx-dots"),
    node("rect", { x: x(t) - 5, y: y(r.plain) - 5, width: 10, height: 10, style: "fill:var(--red)" }),
    node("circle", { cx: x(t), cy: y(r.scaled), r: 6, style: "fill:var(--green)" }),
    line(left, bottom, width - right, bottom, "qx-axis"),
  );
  svg.replaceChildren(...out);
}
