// BitsChart: bits against loss. DATA, what was measured, stands above this file's text.
// Name, colour and sign of each method; the sign is drawn as [corners, first angle, size].
const METHODS = {
  rtn: ["Round to nearest", "--red", "●"],
  gptq: ["GPTQ", "--blue", "■", [4, 45, 1.15]],
  awq: ["AWQ", "--green", "▲", [3, 90, 1.3]],
  onebit: ["OneBit, trained", "--ink", "★", [10, 90, 1.6]],
};
const POINTS = DATA.points.map((row) => Object.fromEntries(DATA.names.map((name, i) => [name, row[i]])));
const PLAIN = POINTS.filter((p) => p.method !== "onebit");
const TRAINED = POINTS.find((p) => p.method === "onebit");

const chosen = ({ method, bits, group_size }) =>
  method === "onebit" ? TRAINED : PLAIN.find((p) => p.method === method && p.bits === bits && p.group_size === group_size);
const beats = (p, q, by) => p[by] <= q[by] && p.nats <= q.nats && (p[by] < q[by] || p.nats < q.nats);
const rivalsOf = (p, by) => PLAIN.filter((q) => beats(q, p, by));

// The chosen point, how many dominate it, and the smallest of these, or itself.
function judge(state) {
  const [p, by] = [chosen(state), state.size === "bits" ? "bits_per_weight" : "bytes"];
  const rivals = rivalsOf(p, by);
  const rival = rivals.reduce((a, b) => (b[by] < a[by] || (b[by] === a[by] && b.nats < a.nats) ? b : a), rivals[0] ?? p);
  return { p, by, n: rivals.length, rival };
}

function compute(state) {
  const { p, n, rival } = judge(state);
  const of = (name, q) => q && { [name + "_bits"]: q.bits_per_weight, [name + "_bytes"]: q.bytes, [name + "_nats"]: q.nats };
  const { bits_per_weight, bytes, nats, perplexity, deviation } = p;
  return {
    bits_per_weight, bytes, nats, perplexity, deviation,
    smaller: DATA.teacher.bytes / bytes, excess: nats - DATA.teacher.nats_per_char, times: perplexity / DATA.teacher.perplexity,
    dominated: n, ...of("rival", rival), ...of("trained", TRAINED),
  };
}

const kilobytes = (v) => Math.round(v / 1000) + " kB";
const plural = (b) => (b === 1 ? "1 bit" : b + " bits");
const nameOf = ({ method, bits, group_size }) => METHODS[method][0] + (method === "onebit" ? "" : `, ${plural(bits)}, a scale per ${group_size ? group_size + " columns" : "row"}`);
// How each number is written; the names end alike.
const TEXTS = {
  bits_per_weight: (v) => fixed(v, 3), bits: (v) => fixed(v, 3), bytes: kilobytes, nats: (v) => fixed(v, 3), deviation: (v) => fixed(v, 3),
  perplexity: (v) => fixed(v, 2), smaller: (v) => fixed(v, 1) + "×", times: (v) => fixed(v, 2) + "×", excess: (v) => (v < 0 ? "" : "+") + fixed(v, 3) + " nats", dominated: (v) => v || "none",
};
const textOf = (name, v) => String((TEXTS[name] ?? TEXTS[name.split("_")[1]])(v));

const explorable = {
  render({ model, el }) {
    const option = ([m, [name, , sign]]) => [[node("span", { class: "bc-" + m }, sign), " " + name], m === "onebit" ? { method: m, bits: 1, group_size: null } : { method: m }];
    const rows = [
      buttons({ model, label: "Method", options: Object.entries(METHODS).filter(([m]) => m !== "onebit" || TRAINED).map(option) }),
      buttons({ model, label: "Columns that share a scale", options: [["● a scale per row", { group_size: null }], ["○ per 64 columns", { group_size: 64 }]] }),
      buttons({ model, label: "Vertical axis", options: [["nats a character", { loss: "nats" }], ["perplexity", { loss: "perplexity" }]] }),
      buttons({ model, label: "Horizontal axis", options: [["bits a weight", { size: "bits" }], ["bytes of the file", { size: "bytes" }]] }),
    ];
    const [method, groups, loss, size] = rows.map((r) => r.row);
    loss.prepend("↕");
    size.prepend("↔");
    const bits = slider({ model, name: "bits", label: "Bits", min: 1, max: 4, step: 1, text: String, say: plural });
    const names = ["method", "bits", "group_size", "size", "loss"];
    const judged = () => judge(Object.fromEntries(names.map((n) => [n, model.get(n)])));
    const choose = (p) => p && put(model, { method: p.method, bits: p.bits, group_size: p.group_size });

    // Left and right: one method from size to size. Up and down: all that is measured at one size.
    const along = () => {
      const { p, by } = judged();
      const list = PLAIN.filter((q) => q.method === (p === TRAINED ? "gptq" : p.method)).sort((a, b) => a[by] - b[by]);
      return { list, i: Math.max(0, list.indexOf(p)) };
    };
    const last = PLAIN.length / 3 - 1;
    const grip = handle({
      label: "Measured networks by size", name: "point", step: 1, page: 2, range: () => [0, last],
      get: () => along().i, set: (i) => choose(along().list[clamp(i, 0, last)]),
      children: [node("circle", { class: "qx-hit", r: 16 }), node("circle", { class: "qx-ring", r: 16 }), node("circle", { class: "bc-ring", r: 11 })],
    });
    grip.n.addEventListener("keydown", (e) => {
      const step = { ArrowUp: 1, ArrowDown: -1 }[e.key];
      if (!step) return;
      e.preventDefault();
      e.stopImmediatePropagation();
      const { p } = judged();
      const column = POINTS.filter((q) => q.bits === p.bits && (q === TRAINED || q.group_size === p.group_size)).sort((a, b) => a.nats - b.nats);
      choose(column[column.indexOf(p) + step]);
    }, true);

    const chart = node("svg", { role: "group", "aria-label": "Loss against size", style: "cursor:pointer" });
    const below = node("g", { "aria-hidden": "true" });
    chart.append(below, grip.n);
    let places = [];
    drag(chart, (e) => {
      const box = chart.getBoundingClientRect();
      const far = ({ x, y }) => Math.hypot(x - e.clientX + box.left, y - e.clientY + box.top);
      choose(places.reduce((a, b) => (far(b) < far(a) ? b : a)).p);
      grip.n.focus({ preventScroll: true });
    });

    const spans = () => node("span", {});
    const [runs, verdict, rivalName, against] = [spans(), spans(), spans(), spans()];
    const facts = node(
      "div", { class: "qx-facts" },
      fact("bits a weight", "", output("bits_per_weight"), node("span", {}, "with its scales")),
      fact("whole file", "", output("bytes"), node("span", {}, output("smaller"), " smaller than the teacher's")),
      fact("nats a character", "", output("nats"), node("span", {}, "± ", output("deviation"), runs)),
      fact("above the teacher", "", output("excess"), node("span", {}, "perplexity ", output("perplexity"), ", ", output("times"), " the teacher's")),
    );
    const triple = (name) => [" (", output(name + "_bits"), " bits a weight, ", output(name + "_bytes"), ", ", output(name + "_nats"), " nats)"];
    const title = node("b", {});
    const go = node("button", { type: "button", onclick: () => choose(judged().rival) }, "Go to it");
    const rivalLine = node("p", {}, "The smallest of them: ", rivalName, triple("rival"), ". ", go);
    const trainedLine = TRAINED && node("p", {}, "★ OneBit, trained in chapter 14", triple("trained"), against);
    const sums = node("div", { class: "qx-sums" }, node("p", {}, title, output("dominated"), verdict), rivalLine, trainedLine);
    const body = node("div", {}, chart, facts, sums);

    const draw = (state, width) => {
      const [r, { p, by, n, rival }] = [compute(state), judge(state)];
      for (const control of rows) control.sync(state);
      bits.sync(state.bits);
      for (const control of [bits.row.lastChild, ...groups.children]) control.disabled = p === TRAINED;
      places = drawChart(below, chart, state, width);
      const here = places.find((q) => q.p === p);
      for (const c of grip.n.children) for (const [k, v] of [["cx", here.x], ["cy", here.y]]) c.setAttribute(k, v);
      for (const [name, v] of Object.entries(r)) show(body, name, v, textOf(name, v));
      runs.textContent = ` over ${p.seeds} seeds`;
      runs.parentNode.style.display = p.seeds > 1 ? "" : "none";
      title.textContent = nameOf(p) + (n ? " is dominated: " : " is on the frontier: ");
      verdict.textContent = ` of the ${PLAIN.length} untrained ${n > 1 ? "are" : "is"} better and no larger.`;
      rivalName.textContent = nameOf(rival);
      rivalLine.hidden = !n;
      if (TRAINED) {
        // What is equal as it is written is said to be.
        const worse = TRAINED.nats - p.nats;
        trainedLine.hidden = p === TRAINED;
        against.textContent = `, is ${["smaller", "as large", "larger"][Math.sign(TRAINED[by] - p[by]) + 1]} and ${Math.abs(worse) < 5e-4 ? "as good" : worse < 0 ? "better" : textOf("nats", worse) + " nats worse"}.`;
      }
      const says = `${nameOf(p)}: ${textOf("bits", p.bits_per_weight)} bits a weight, ${kilobytes(p.bytes)}, ${textOf("nats", p.nats)} nats, ${textOf("excess", r.excess)} against the teacher, ${n ? "dominated by " + n : "not dominated"}`;
      grip.sync(along().i, says);
      return says;
    };

    return mount({
      model, el, draw, names, label: "Bits against loss, measured",
      children: [
        node("style", {}, ".qx { --ink: currentColor; } .qx .qx-buttons { align-items: center; } .qx .bc-rtn { color: var(--red); } .qx .bc-gptq { color: var(--blue); } .qx .bc-awq { color: var(--green); } .qx [aria-pressed=true] span { color: inherit; } .qx .bc-ring { fill: none; stroke: currentColor; stroke-width: 2.5; } .qx :disabled { opacity: .5; }"),
        node("div", { class: "qx-controls" }, node("div", { class: "qx-part" }, method, groups), node("div", { class: "qx-part" }, bits.row, loss, size)),
        body,
        node("p", { class: "qx-note" }, `CharGPT, packed files really written, held-out text. The vertical axis is stretched near the teacher (${kilobytes(DATA.teacher.bytes)}, ${DATA.teacher.bits_per_weight} bits). In every file embedding, head and norms stay in float16.`),
      ],
    });
  },
};

// Filled with a scale per row, hollow with one per group.
function mark({ p, x, y }) {
  const [, colour, , [n, turn, size] = []] = METHODS[p.method];
  const corner = (_, i) => {
    const angle = ((turn + (360 * i) / n) * Math.PI) / 180;
    const r = 5.5 * size * (n > 9 && i % 2 ? 0.42 : 1);
    return [x + r * Math.cos(angle), y - r * Math.sin(angle)];
  };
  const shape = n ? path(Array.from({ length: n }, corner)) : node("circle", { cx: x, cy: y, r: 5.5 });
  if (n) shape.setAttribute("d", shape.getAttribute("d") + "z");
  shape.setAttribute("style", `fill:${p.group_size ? "none" : `var(${colour})`};stroke:var(${colour});stroke-width:2`);
  return shape;
}

const TICKS = {
  nats: [1.4, 1.41, 1.42, 1.43, 1.45, 1.5, 1.6, 1.8, 2, 2.5, 3],
  perplexity: [4.05, 4.1, 4.2, 4.5, 5, 6, 8, 10, 15, 20],
};

// Size across, loss up, stretched near the teacher's. What lies below and left of the chosen
// point is smaller and better.
function drawChart(group, svg, state, width) {
  const [left, right, top, bottom] = [46, width - 8, 34, 320];
  resize(svg, width, bottom + 40);
  const { p: mine, by, n } = judge(state);
  const inNats = state.loss === "nats";
  const zero = inNats ? DATA.teacher.nats_per_char : DATA.teacher.perplexity;
  const stretch = (v) => Math.asinh((v - zero) / (inNats ? 0.004 : 0.004 * zero));
  const ends = (values) => [Math.min(...values), Math.max(...values)];
  const [low, high] = ends([0, ...POINTS.map((p) => stretch(p[state.loss]))]);
  const [small, large] = ends(POINTS.map((p) => p[by]));
  const x = (v) => left + 22 + ((v - small) / (large - small)) * (right - left - 44);
  const y = (v) => bottom - 30 - ((stretch(v) - low) / (high - low)) * (bottom - top - 46);
  const places = POINTS.map((p) => ({ p, at: x(p[by]), y: y(p[state.loss]) }));
  // Marks that would cover each other stand side by side.
  for (const q of places) {
    const near = places.filter((o) => Math.abs(o.at - q.at) < 8 && Math.abs(o.y - q.y) < 9);
    q.x = q.at + (near.indexOf(q) - (near.length - 1) / 2) * 9;
  }
  const here = places.find((q) => q.p === mine);
  const out = [];
  for (const b of [1, 2, 3, 4]) {
    const [from, to] = ends(places.filter((q) => q.p.bits === b && q.p !== TRAINED).map((q) => q.at));
    out.push(node("rect", { x: from - 14, y: top - 12, width: to - from + 28, height: bottom - top + 12, rx: 4, style: "fill:var(--wash)" }), words((from + to) / 2, top - 18, plural(b), "qx-bold"));
  }
  let last = Infinity;
  for (const v of TICKS[state.loss]) {
    if (y(v) > bottom - 12 || y(v) < top - 6 || last - y(v) < 19) continue;
    last = y(v);
    out.push(line(left, last, right, last, "qx-grid"), words(left - 5, last + 4, String(v), "qx-small", "end"));
  }
  const best = places.filter((q) => q.p !== TRAINED && !rivalsOf(q.p, by).length).sort((a, b) => a.at - b.at);
  const steps = best.flatMap(({ at, y }, k) => [...(k ? [[at, best[k - 1].y]] : []), [at, y]]);
  out.push(
    node("rect", { x: left, y: here.y, width: here.at - left, height: bottom - here.y, style: "fill:color-mix(in srgb, #e69f00 20%, transparent);stroke:currentColor;stroke-dasharray:3 3" }),
    line(left, y(zero), right, y(zero), "qx-zero"),
    words(right, y(zero) + 18, `teacher ${fixed(zero, inNats ? 3 : 2)}`, "qx-bold qx-g", "end"),
    path([...steps, [right, best.at(-1).y]], "qx-curve qx-total"),
    line(left, bottom, right, bottom, "qx-axis"),
    words(right, bottom + 35, by === "bytes" ? "kB, the whole file" : "bits a weight, scales included", "qx-small", "end"),
    words(left + 5, bottom - 8, `◂ ${n || "none"}${TRAINED && beats({ ...TRAINED, nats: TRAINED.nats + 5e-4 }, mine, by) ? " + ★" : ""} better, no larger`, "qx-bold", "start"),
  );
  for (const v of by === "bytes" ? [400, 600, 800, 1000, 1200, 1400] : [1, 2, 3, 4, 5]) {
    const at = x(by === "bytes" ? 1000 * v : v);
    if (at >= left && at <= right) out.push(line(at, bottom, at, bottom + 4, "qx-axis"), words(at, bottom + 18, String(v), "qx-small"));
  }
  // Below the frontier nothing stands in the way of its name.
  const i = best.findIndex((q) => q.p.bits > 2);
  if (i > 0) out.push(words((best[i].at + best[i - 1].at) / 2, best[i - 1].y + 17, "frontier", "qx-bold"));
  // The chosen mark is drawn last.
  out.push(...[...places.filter((q) => q !== here), here].map(mark));
  const star = places.find((q) => q.p === TRAINED);
  if (star) out.push(words(star.x - 10, star.y + 22, width < 560 ? "trained" : "trained: chapter 14", "qx-small", "start"));
  group.replaceChildren(...out);
  return places;
}
