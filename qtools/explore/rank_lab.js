// RankLab: a matrix cut after k terms of its SVD. DATA, what was measured, stands above this text.
const PIXELS = Uint8Array.from(atob(DATA.picture), (c) => c.charCodeAt(0));
const BYTES = 4;

// The rows of the picture, turned: row i is then sigma_i v_i.
let decomposed;
function decompose() {
  if (decomposed) return decomposed;
  const [m, n] = DATA.shape.picture;
  const rows = jacobi(Array.from({ length: m }, (_, i) => Float64Array.from(PIXELS.subarray(i * n, (i + 1) * n))));
  // A black row has no direction.
  const terms = rows.map((row) => ({ row, sigma: Math.sqrt(dot(row, row)) })).sort((a, b) => b.sigma - a.sigma);
  return (decomposed = { sigma: terms.map((t) => t.sigma), v: terms.map(({ row, sigma }) => row.map((x) => x / (sigma || 1))) });
}

const sigmas = (subject) => (subject === "layer" ? DATA.layer : decompose().sigma);

function compute({ subject, rank }) {
  const [m, n] = DATA.shape[subject];
  const k = Math.min(rank, m, n);
  const square = (values) => values.reduce((sum, s) => sum + s * s, 0);
  const s = sigmas(subject);
  const all = square(s);
  const numbers = {
    k, error: 100 * Math.sqrt(square(s.slice(k)) / all), energy: (100 * square(s.slice(0, k))) / all,
    factor_bytes: BYTES * k * (m + n), full_bytes: BYTES * m * n, ratio: (k * (m + n)) / (m * n),
    break_even: Math.floor((m * n - 1) / (m + n)),
  };
  if (subject === "layer") for (const [name, right] of Object.entries(DATA.right)) numbers[name] = (100 * right[k - 1]) / DATA.images;
  return numbers;
}

// The picture of rank k, grey values in float: the rows of the original, projected on v_1 ... v_k.
function cut(k) {
  const [m, n] = DATA.shape.picture;
  const out = new Float64Array(m * n);
  for (const v of decompose().v.slice(0, k))
    for (let i = 0; i < m; i++) {
      let a = 0;
      for (let j = 0; j < n; j++) a += PIXELS[i * n + j] * v[j];
      for (let j = 0; j < n; j++) out[i * n + j] += a * v[j];
    }
  return out;
}

function paint(canvas, grey) {
  const [m, n] = DATA.shape.picture;
  const image = new ImageData(n, m);
  grey.forEach((v, i) => image.data.set([v, v, v, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const grouped = (v) => v.toLocaleString("en-US");
const percentText = (v) => (v > 0 && v < 9.95 ? fixed(v, 2) : fixed(v, 1)) + " %";

const explorable = {
  render({ model, el }) {
    const subject = buttons({ model, label: "What is cut", options: [["Trained layer fc1, 128 × 576", { subject: "layer" }], ["Picture, 84 × 112", { subject: "picture" }]] });
    const rank = slider({ label: "Rank k", name: "rank", min: 1, max: 128, step: 1, model, text: String, say: (v) => "rank " + v });
    const toEven = () => put(model, { rank: compute({ subject: model.get("subject"), rank: 1 }).break_even });
    const go = node("div", { class: "qx-buttons" }, node("button", { type: "button", onclick: toEven }, "Last rank that pays"));
    const [m, n] = DATA.shape.picture;
    const canvases = ["rank k", "the picture"].map((label) => node("canvas", { width: n, height: m, role: "img", "aria-label": label, style: "width:100%;image-rendering:pixelated;border-radius:4px" }));
    const captions = canvases.map(() => node("p", { class: "qx-note", style: "margin:.1rem 0 .5rem" }));
    captions[1].textContent = "the picture";
    const pair = node("div", { style: "display:grid;grid-template-columns:1fr 1fr;gap:0 16px;max-width:40rem;margin:0 auto" }, canvases.map((c, i) => node("div", {}, c, captions[i])));
    let painted = 0;
    const [chart, sizes] = ["svg", "svg"].map((tag) => node(tag, { "aria-hidden": "true" }));
    let at;
    chart.style.cursor = "ew-resize";
    drag(chart, (e) => put(model, { rank: clamp(Math.round(at.rank(svgX(chart, e))), 1, at.most) }));

    const common = [
      fact("Relative error", "", output("error")), fact("Energy kept", "", output("energy")),
      fact("Bytes of the factors", "qx-tb", output("factor_bytes"), node("span", { class: "qx-key" }, output("ratio"), " of the whole")),
      fact("Bytes of the whole", "", output("full_bytes"), node("span", { class: "qx-key" }, "factors pay up to rank ", output("break_even"))),
    ];
    const measured = [
      fact("Right, nearest in weights", "qx-tb", output("weights")), fact("Right, nearest in outputs", "qx-tg", output("outputs")),
    ];
    const facts = node("div", { class: "qx-facts" });
    const hidden = node("span", { hidden: true }, output("k"));
    let parts;

    const draw = (state, width) => {
      const r = compute(state);
      const layer = state.subject === "layer";
      subject.sync(state);
      rank.sync(state.rank);
      if (parts !== state.subject) {
        facts.replaceChildren(...(layer ? measured : []), ...common, hidden);
        facts.style.gridTemplateColumns = `repeat(auto-fit,minmax(min(45%,${layer ? 11 : 8.75}rem),1fr))`;
      }
      parts = state.subject;
      pair.style.display = layer ? "none" : "grid";
      if (!layer && painted !== r.k) {
        if (!painted) paint(canvases[1], PIXELS);
        paint(canvases[0], cut((painted = r.k)));
        captions[0].textContent = `rank ${r.k}`;
        canvases[0].setAttribute("aria-label", `the picture at rank ${r.k}`);
      }
      at = drawChart(chart, state.subject, r, width);
      drawSizes(sizes, state.subject, r, width);
      for (const name of layer ? ["weights", "outputs"] : []) show(facts, name, r[name], fixed(r[name], 2) + " %");
      for (const name of ["error", "energy"]) show(facts, name, r[name], percentText(r[name]));
      for (const name of ["factor_bytes", "full_bytes"]) show(facts, name, r[name], fixed(r[name] / 1000, 1) + " kB");
      show(facts, "ratio", r.ratio, fixed(r.ratio, 2) + "×");
      for (const name of ["break_even", "k"]) show(facts, name, r[name], String(r[name]));
      return `rank ${r.k}: relative error ${percentText(r.error)}, factors ${fixed(r.ratio, 2)} times the bytes of the whole` + (layer ? `, ${fixed(r.weights, 2)} percent right` : "");
    };

    return mount({
      model, el, draw, names: ["subject", "rank"],
      label: "Rank of a layer and of a picture",
      children: [
        node("style", {}, ".qx .qx-tg { color: var(--green); }"),
        node("div", { class: "qx-controls" }, subject.row, node("div", { class: "qx-part" }, rank.row, go)),
        pair, chart, facts,
        node("p", { class: "qx-title", style: "margin-top:.9rem" }, "Numbers stored, drawn to scale"), sizes,
        node("p", { class: "qx-note" }, "float32, 4 bytes a number. Accuracy: SmallCNN with fc1 at this rank and nothing else changed, not trained again, 10,000 test images, every rank measured."),
      ],
    });
  },
};

// One axis of ranks for both: accuracy above (the layer only), singular values below.
function drawChart(svg, subject, r, width) {
  const layer = subject === "layer";
  const s = sigmas(subject);
  const [left, right, most] = [44, width - 8, s.length];
  const step = (right - left) / most;
  const x = (k) => left + (k - 0.5) * step;
  const top = layer ? 206 : 36;
  const bottom = top + 128;
  resize(svg, width, bottom + 42);
  const out = [];
  if (layer) {
    const full = (100 * DATA.right.weights.at(-1)) / DATA.images;
    const stretch = (v) => Math.asinh(full + 0.5 - v);
    const y = (v) => 24 + (stretch(v) / stretch(10)) * 140;
    for (const v of [10, 50, 80, 90, 93]) out.push(line(left, y(v), right, y(v), "qx-grid"), words(left - 6, y(v) + 4, v + (v === 10 ? " %" : ""), "qx-small", "end"));
    for (const [name, c] of [["weights", "var(--blue)"], ["outputs", "var(--green)"]]) {
      const curve = path(DATA.right[name].map((v, i) => [x(i + 1), y((100 * v) / DATA.images)]), "qx-curve");
      curve.style.stroke = c;
      if (name === "outputs") curve.style.strokeDasharray = "7 3";
      out.push(curve, node("circle", { cx: x(r.k), cy: y(r[name]), r: 5, style: `fill:${c}` }));
    }
    const inside = x(30);
    out.push(
      words(left, 13, "Test images right", "qx-bold", "start"),
      words(inside, 118, "━ nearest in weights", "qx-bold qx-b", "start"),
      words(inside, 138, "╍ nearest in outputs", "qx-bold qx-g", "start"),
    );
  }
  const high = s[0] * 1.02;
  const y = (v) => bottom - (v / high) * (bottom - top - 14);
  s.forEach((v, i) => out.push(node("rect", { x: x(i + 1) - step / 2 + 0.4, y: y(v), width: Math.max(0.8, step - 0.8), height: bottom - y(v), style: `fill:var(--${i < r.k ? "blue" : "red"});opacity:${i < r.k ? 1 : 0.55}` })));
  out.push(words(left, top, "Singular values", "qx-bold", "start"), line(left, bottom, right, bottom, "qx-axis"));
  if (layer) {
    out.push(path(DATA.random.map((v, i) => [x(i + 1), y(v)]), "qx-curve qx-total"), words(x(r.break_even) - 8, y(DATA.random[most >> 1]) - 9, width < 520 ? "random matrix" : "a random matrix of this norm", "qx-small", "end"));
    out.at(-2).style.strokeDasharray = "5 3";
    out.at(-2).style.strokeWidth = "1.8";
  }
  for (const k of most > 100 ? [1, 32, 64, 128] : [1, 20, 40, 60, 84]) out.push(words(Math.min(x(k), right - 8), bottom + 16, String(k), "qx-small"));
  const even = x(r.break_even) + step / 2;
  out.push(
    line(even, layer ? 20 : top + 6, even, bottom + 24, "qx-cut"),
    words(even - 6, bottom + 36, "◂ factors smaller", "qx-small", "end"),
    even + 60 < width ? words(even + 6, bottom + 36, "larger ▸", "qx-small", "start") : "",
    layer ? line(x(r.k), 20, x(r.k), 172, "qx-there") : "",
    line(x(r.k), top + 6, x(r.k), bottom, "qx-there"),
    words(clamp(x(r.k), left + 26, right - 26), top - 19, `rank ${r.k}`, "qx-bold qx-b"),
  );
  svg.replaceChildren(...out.filter(Boolean));
  return { rank: (px) => (px - left) / step + 0.5, most };
}

// The whole beside its two factors; below it where there is no room. Areas are numbers stored.
function drawSizes(svg, subject, r, width) {
  const [m, n] = DATA.shape[subject];
  const most = Math.min(m, n);
  const narrow = width < 520;
  const unit = Math.min(110 / m, (width - 40) / (narrow ? n + most : 2 * n + most));
  const [w, h, k] = [n * unit, m * unit, r.k * unit];
  const [fx, fy] = narrow ? [1, h + 34] : [w + 40, 1];
  resize(svg, width, fy + h + 24);
  const box = (x, y, a, b, c) => node("rect", { x, y, width: a, height: b, style: `fill:color-mix(in srgb, var(--${c}) 45%, transparent);stroke:var(--${c})` });
  svg.replaceChildren(
    box(1, 1, w, h, "soft"), words(1, h + 18, `${m} × ${n}: ${grouped(m * n)}`, "", "start"),
    box(fx, fy, k, h, "blue"), box(fx + k + 8, fy, w, k, "blue"),
    words(fx, fy + h + 18, `${m} × ${r.k} and ${r.k} × ${n}: ${grouped(r.k * (m + n))}`, "qx-b", "start"),
  );
}
