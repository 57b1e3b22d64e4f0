// Scoreboard: size against quality of every measured network. DATA stands above this file's text.
const ROWS = DATA.rows.map((values, id) => {
  const r = Object.fromEntries(DATA.names.map((name, i) => [name, values[i]]));
  const loss = r.model === "SmallCNN" ? Math.round((100 - r.quality) * 1e4) / 1e4 : r.quality;
  return { ...r, id, loss };
});
// Corners, first angle and size of each family's sign, and its colour.
const SIGNS = {
  float: ["currentColor", 4, 45, 1.1], "post-training": ["var(--blue)", 0], "quantization-aware": ["var(--green)", 3, 90, 1.3],
  pruning: ["var(--red)", 4, 0, 1.25], distillation: ["var(--sb-orange)", 3, 270, 1.3], "low rank": ["var(--sb-sky)", 6, 0, 1.15],
  "weights only": ["var(--blue)", 0], "one bit": ["var(--sb-pink)", 5, 90, 1.25], combined: ["currentColor", 10, 90, 1.7],
};
const LETTERS = { float: "■", "post-training": "●", "quantization-aware": "▲", pruning: "◆", distillation: "▼", "low rank": "⬢", "weights only": "●", "one bit": "⬟", combined: "★" };
const AXES = {
  SmallCNN: { unit: 0.1, ticks: [6.4, 6.5, 6.6, 6.8, 7, 7.5, 8, 9, 10, 12, 15, 20, 30, 50, 90], text: (loss) => fixed(100 - loss, loss % 1 ? 1 : 0), label: "% right" },
  CharGPT: { unit: 0.004, ticks: [1.396, 1.4, 1.41, 1.42, 1.45, 1.5, 1.6, 1.8, 2.2, 2.6], text: (loss) => String(loss), label: "nats" },
};

const order = (a, b) => a.bytes - b.bytes || a.loss - b.loss;
const passes = (s) => (r) => r.model === s.model && (s.family === "all" || s.family === r.family) && r.bits <= s.bits && (r.real || !s.real);
const beats = (a, b) => a.bytes <= b.bytes && a.loss <= b.loss && (a.bytes < b.bytes || a.loss < b.loss);

// Rows sorted by size: one is on the front if its loss is below all before it, or equal in both.
function frontOf(rows) {
  const kept = [];
  for (const r of rows) {
    const last = kept.at(-1);
    if (!last || r.loss < last.loss || (r.loss === last.loss && r.bytes === last.bytes)) kept.push(r);
  }
  return kept;
}

function judge(state) {
  const shown = ROWS.filter(passes(state)).sort(order);
  const front = frontOf(shown);
  const row = shown.find((r) => r.id === state.row) ?? front[0];
  const rivals = row ? shown.filter((r) => beats(r, row)) : [];
  return { shown, front, row, rivals, rival: rivals[0] ?? row };
}
const WHOLE = Object.fromEntries(Object.keys(AXES).map((m) => [m, Math.max(...ROWS.filter((r) => r.model === m).map((r) => r.bytes))]));

function compute(state) {
  const { shown, front, row: r, rivals, rival } = judge(state);
  const own = r
    ? { bytes: r.bytes, quality: r.quality, deviation: r.deviation, seeds: r.seeds, smaller: WHOLE[r.model] / r.bytes, ms: r.ms ?? 0, ort_ms: r.ort_ms ?? 0, epochs: r.epochs ?? 0, beaten: rivals.length, rival_bytes: rival.bytes, rival_quality: rival.quality }
    : { bytes: 0, quality: 0, deviation: 0, seeds: 0, smaller: 0, ms: 0, ort_ms: 0, epochs: 0, beaten: 0, rival_bytes: 0, rival_quality: 0 };
  return { shown: shown.length, front: front.length, ...own };
}

const digits = (r) => (r.model === "SmallCNN" ? 2 : 3);
const quality = (r, v = r.quality) => fixed(v, digits(r)) + (r.model === "SmallCNN" ? " %" : " nats");
const kilobytes = (v) => (v < 1e5 ? fixed(v / 1000, 1) : Math.round(v / 1000)) + " kB";
const milliseconds = (v) => (v ? tidy(v) + " ms" : "not measured");
const nameOf = (r) => `${r.method} (${r.bits} bit${r.bits > 1 ? "s" : ""} a weight${r.activations < 32 ? ", activations " + r.activations : ""})`;

const explorable = {
  render({ model, el }) {
    const names = ["model", "family", "bits", "real", "row"];
    const now = () => judge(Object.fromEntries(names.map((n) => [n, model.get(n)])));
    const choose = (r) => r && put(model, { row: r.id });
    const models = buttons({ model, label: "Model", options: Object.keys(AXES).map((m) => [m, { model: m }]) });
    const family = choice({ model, name: "family", label: "Family", options: [["all", "all"], ...DATA.families.map((f) => [f, `${LETTERS[f]} ${f}`])] });
    const steps = [1, 2, 3, 4, 6, 8, 16, 32];
    const most = (b) => (b === 32 ? "any" : "at most " + b);
    const bits = slider({ model, name: "bits", label: "Bits a weight", min: 0, max: steps.length - 1, step: 1, to: (i) => steps[i], from: (b) => steps.indexOf(b), text: most });
    const real = checkbox({ model, name: "real", label: "real only (hollow signs are simulated)" });

    // Left and right: by size. Page up and down: along the front.
    const place = () => { const { shown, row } = now(); return { shown, i: Math.max(0, shown.indexOf(row)) }; };
    const grip = handle({
      label: "Networks shown, by size", name: "row", step: 1, page: 1, range: () => [0, Math.max(0, place().shown.length - 1)],
      get: () => place().i, set: (i) => { const { shown } = place(); choose(shown[clamp(i, 0, shown.length - 1)]); },
      children: [node("circle", { class: "qx-hit", r: 16 }), node("circle", { class: "qx-ring", r: 16 }), node("circle", { class: "sb-ring", r: 11 })],
    });
    grip.n.addEventListener("keydown", (e) => {
      if (e.key !== "PageUp" && e.key !== "PageDown") return;
      e.preventDefault();
      e.stopImmediatePropagation();
      const { front, row } = now();
      choose(e.key === "PageUp" ? front.find((r) => order(r, row) > 0) : front.findLast((r) => order(r, row) < 0));
    }, true);
    const chart = node("svg", { role: "group", "aria-label": "Quality against size", style: "cursor:pointer" });
    const below = node("g", { "aria-hidden": "true" });
    chart.append(below, grip.n);
    let places = [];
    drag(chart, (e) => {
      if (!places.length) return;
      const box = chart.getBoundingClientRect();
      const far = ({ x, y }) => Math.hypot(x - e.clientX + box.left, y - e.clientY + box.top);
      choose(places.reduce((a, b) => (far(b) < far(a) ? b : a)).r);
      grip.n.focus({ preventScroll: true });
    });

    const span = () => node("span", {});
    const [runs, what, verdict, rivalName, cost] = [span(), span(), span(), span(), span()];
    const title = node("b", {});
    const facts = node(
      "div", { class: "qx-facts" },
      fact("whole file", "", output("bytes"), node("span", {}, output("smaller"), " smaller than the float file")),
      fact("quality", "", output("quality"), node("span", {}, "± ", output("deviation"), " over ", output("seeds"), " seeds")),
      fact("time, batch 1", "", output("ms"), node("span", {}, "ONNX Runtime ", output("ort_ms"))),
      fact("training on top", "", output("epochs"), cost),
    );
    const go = node("button", { type: "button", onclick: () => choose(now().rival) }, "Go to it");
    const rivalLine = node("p", {}, "The smallest of them: ", rivalName, ", ", output("rival_bytes"), ", ", output("rival_quality"), ". ", go);
    const sums = node("div", { class: "qx-sums" }, node("p", {}, title, what), node("p", {}, output("shown"), " networks are shown, ", output("front"), " on the front. This one is beaten by ", output("beaten"), verdict), rivalLine);
    const body = node("div", {}, chart, sums, facts);

    const draw = (state, width) => {
      const [n, { row: r, rivals, rival }] = [compute(state), judge(state)];
      models.sync(state);
      for (const [name, control] of Object.entries({ family, bits, real })) control.sync(state[name]);
      places = drawChart(below, chart, state, width);
      grip.n.style.display = r ? "" : "none";
      const here = places.find((q) => q.r === r);
      if (here) for (const c of grip.n.children) for (const [k, v] of [["cx", here.x], ["cy", here.y]]) c.setAttribute(k, v);
      const texts = {
        bytes: kilobytes, rival_bytes: kilobytes, smaller: (v) => fixed(v, 1) + "×", quality: (v) => (r ? quality(r, v) : "–"), rival_quality: (v) => (r ? quality(r, v) : "–"),
        deviation: (v) => (r ? fixed(v, digits(r)) : "–"), ms: milliseconds, ort_ms: milliseconds, epochs: (v) => (r && r.epochs != null ? (v ? tidy(v, 2) + " epochs" : "none") : "not known"), beaten: (v) => (v ? String(v) : "none"),
      };
      for (const [name, v] of Object.entries(n)) show(body, name, v, (texts[name] ?? String)(v));
      facts.style.display = r ? "" : "none";
      facts.children[1].lastChild.style.display = n.seeds > 1 ? "" : "none";
      title.textContent = r ? nameOf(r) : "No network is shown: let more through.";
      what.textContent = r ? `: ${LETTERS[r.family]} ${r.family}, chapter ${r.chapter}, ${r.real ? "real" : "simulated"}.` : "";
      verdict.textContent = n.beaten ? " that are no larger and better." : ".";
      rivalName.textContent = r ? nameOf(rival) : "";
      rivalLine.hidden = !rivals.length;
      cost.textContent = r && r.real ? "computes from the file" : "zeros are not skipped";
      const says = r ? `${nameOf(r)}, ${r.family}: ${kilobytes(r.bytes)}, ${quality(r)}, ${n.beaten ? "beaten by " + n.beaten : "on the front"}` : "no network is shown";
      grip.sync(place().i, says);
      return says;
    };

    return mount({
      model, el, draw, names, label: "Every measured network of the book",
      children: [
        node("style", {}, ".qx { --sb-orange: color-mix(in srgb, #e69f00 78%, currentColor); --sb-sky: color-mix(in srgb, #56b4e9 78%, currentColor); --sb-pink: color-mix(in srgb, #cc79a7 80%, currentColor); } .qx .sb-ring { fill: none; stroke: currentColor; stroke-width: 2.5; } .qx .sb-pale { opacity: .42; }"),
        node("div", { class: "qx-controls" }, node("div", { class: "qx-part" }, models.row, real.row), node("div", { class: "qx-part" }, family.row, bits.row)),
        body,
        node("p", { class: "qx-note" }, "Better is higher, smaller is further left; the scale of quality is stretched near the float network. Pale signs are beaten by a shown one. Times: one thread, see the chapter."),
      ],
    });
  },
};

function sign({ r, x, y }, size) {
  const [colour, n, turn, wide = 1] = SIGNS[r.family];
  const corner = (_, i) => {
    const a = ((turn + (360 * i) / n) * Math.PI) / 180;
    const far = size * wide * (n > 9 && i % 2 ? 0.42 : 1);
    return [x + far * Math.cos(a), y - far * Math.sin(a)];
  };
  const shape = n ? path(Array.from({ length: n }, corner)) : node("circle", { cx: x, cy: y, r: size });
  if (n) shape.setAttribute("d", shape.getAttribute("d") + "z");
  shape.setAttribute("style", `fill:${r.real ? colour : "none"};stroke:${colour};stroke-width:1.5`);
  return shape;
}

// The axes belong to the model, whatever is filtered: points must not move while one looks.
function drawChart(group, svg, state, width) {
  const [left, right, top, bottom] = [46, width - 10, 26, 330];
  resize(svg, width, bottom + 40);
  const axis = AXES[state.model];
  const all = ROWS.filter((r) => r.model === state.model);
  const zero = Math.min(...all.map((r) => r.loss));
  const stretch = (loss) => Math.asinh((loss - zero) / axis.unit);
  const high = Math.max(...all.map((r) => stretch(r.loss)));
  const sizes = all.map((r) => Math.log(r.bytes));
  const [small, large] = [Math.min(...sizes), Math.max(...sizes)];
  const x = (bytes) => left + 16 + ((Math.log(bytes) - small) / (large - small)) * (right - left - 36);
  const y = (loss) => top + 8 + (stretch(loss) / high) * (bottom - top - 28);
  const { shown, front, row } = judge(state);
  const places = shown.map((r) => ({ r, x: x(r.bytes), y: y(r.loss) }));
  const out = [];
  let last = -Infinity;
  for (const loss of axis.ticks) {
    const at = y(loss);
    if (loss < zero || at > bottom - 6 || at - last < 19) continue;
    last = at;
    out.push(line(left, at, right, at, "qx-grid"), words(left - 5, at + 4, axis.text(loss), "qx-small", "end"));
  }
  out.push(words(0, 12, axis.label, "qx-small", "start"), line(left, bottom, right, bottom, "qx-axis"), words(right, bottom + 36, "kB, the whole file", "qx-small", "end"));
  last = -Infinity;
  for (const kb of [10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 400, 600, 800, 1200, 2000, 3000, 4500]) {
    const at = x(1000 * kb);
    if (at < left || at > right || at - last < 34) continue;
    last = at;
    out.push(line(at, bottom, at, bottom + 4, "qx-axis"), words(at, bottom + 18, String(kb), "qx-small"));
  }
  if (row) {
    const here = places.find((q) => q.r === row);
    out.push(node("rect", { x: left, y: top, width: here.x - left, height: here.y - top, style: "fill:color-mix(in srgb, #e69f00 16%, transparent);stroke:var(--soft);stroke-dasharray:3 3" }));
    const on = places.filter((q) => front.includes(q.r));
    const steps = on.flatMap((q, k) => [...(k ? [[q.x, on[k - 1].y]] : []), [q.x, q.y]]);
    out.push(path([[on[0].x, bottom], ...steps, [right, on.at(-1).y]], "qx-curve"));
    const pale = node("g", { class: "sb-pale" }, places.filter((q) => !front.includes(q.r)).map((q) => sign(q, 4.5)));
    out.push(pale, on.map((q) => sign(q, 6)), sign(here, 6));
  }
  group.replaceChildren(...out.flat());
  return places;
}
