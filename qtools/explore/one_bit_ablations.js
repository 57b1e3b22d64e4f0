// OneBitAblations: settings that were run, by index. DATA stands above this file's text.
const NAMES = DATA.fields.map(([name]) => name);
// Of each field: its title, what its values are called, and how one is spoken of.
const TERMS = {
  start: ["Layers start from", { svid: "SVID", copied: "copied weights", random: "random weights" }, (t) => "start from " + t],
  layer_norm: ["LayerNorm", { false: "without", true: "with" }, (t) => t + " LayerNorm"],
  alpha: ["Loss on hidden states, α", { 0: "none" }, (t) => (t === "none" ? "no loss on hidden states" : "α = " + t)],
  layer: ["Layer", { onebit: "OneBit", bitnet: "BitNet’s", ternary: "ternary, b1.58", "two bits": "2-bit" }, (t) => t + " layer"],
  latent: ["Latent weights from", { weights: "W", sign: "0.01 sign(W)" }, (t) => "latent " + t],
  gradient: ["Slope of sign(w)", { tanh: "1 − tanh²", released: "1.001 − tanh²", clipped: "1 if |w| ≤ 1", identity: "1" }, (t) => "slope " + t],
  data: ["Learns from", { text: "the book", written: "the teacher’s text", both: "both" }, (t) => "learns from " + t],
  steps: ["Steps", {}, (t) => t + " steps"],
};
const termOf = (f, v) => TERMS[NAMES[f]][1][DATA.fields[f][1][v]] ?? String(DATA.fields[f][1][v]);
const said = (f, v) => TERMS[NAMES[f]][2](termOf(f, v));

const differing = (a, b) => NAMES.map((_, f) => f).filter((f) => a[f] !== b[f]);
const find = (setting) => DATA.settings.findIndex((s) => !differing(s, setting).length);
// The setting with this value that differs least otherwise.
function nearest(setting, f, v) {
  const away = (s) => differing(s, setting).length;
  return DATA.settings.filter((s) => s[f] === v).reduce((a, b) => (away(b) < away(a) ? b : a));
}
// Where a choice leads, -1 if that was not run. Another layer brings its own start along.
const target = (setting, f, v) => find(NAMES[f] === "layer" ? nearest(setting, f, v) : setting.with(f, v));
const describe = (i) => differing(DATA.settings[i], DATA.settings[DATA.base]).map((f) => said(f, DATA.settings[i][f])).join(", ") || "the base";

const curves = DATA.runs.map((runs) => runs.map(([, , where, packed]) => {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  return DATA.steps[where].map((step, k) => [step, (bytes[2 * k] + 256 * bytes[2 * k + 1]) / 1000]);
}));
const FIRST = Math.min(...DATA.steps.map((s) => s[0]));
const LONGEST = Math.max(FIRST + 1, ...DATA.steps.map((s) => s.at(-1)));
const readAt = (i, at) => curves[i][0].findLast(([step]) => step <= at) ?? curves[i][0][0];

function compute({ run, pinned, at }) {
  const [i, j] = [run, pinned].map((key) => DATA.keys.indexOf(key));
  const [nats, deviation, seeds, perplexity, top1, bytes, bits_per_weight] = DATA.rows[i];
  const [theirs, , others] = DATA.rows[j];
  const ends = (k) => [Math.min, Math.max].map((f) => f(...DATA.runs[i].map((r) => r[k])));
  const [[low, high], [perplexity_low, perplexity_high]] = [ends(0), ends(1)];
  const [[step, loss], [pinned_step, pinned_loss]] = [readAt(i, at), readAt(j, at)];
  return {
    nats, deviation, seeds, low, high, perplexity, perplexity_low, perplexity_high, top1: 100 * top1, bytes, bits_per_weight,
    teacher: DATA.teacher.nats, gap: nats - DATA.teacher.nats,
    rank: 1 + DATA.rows.filter(([n]) => n < nats).length, settings: DATA.rows.length,
    pinned: theirs, difference: nats - theirs, doubt: 2 * DATA.scatter * Math.sqrt(1 / seeds + 1 / others),
    step, loss, pinned_step, pinned_loss,
  };
}

const RULE = "Struck out: not run with the rest that is chosen. Press one to read with what it was run.";
const STYLE = `.qx .oa-group { display: grid; gap: .15rem; } .qx .oa-group button { min-width: 28px; } .qx .oa-head { font-weight: 600; margin: 0; } .qx button[aria-disabled=true] { border-style: dashed; color: var(--soft); text-decoration: line-through; cursor: not-allowed; }
.qx .oa-row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: end; margin: .9rem 0 .3rem; } .qx .oa-row .qx-choice { flex: 1 1 15rem; grid-template-columns: 100%; min-width: 0; } .qx .oa-row select { width: 100%; min-width: 0; } .qx .oa-say { margin: .4rem 0; min-height: 2.8em; font-size: 1.05rem; }
.qx .oa-texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .75rem 1.25rem; margin-top: .75rem; } .qx .oa-texts p { margin: 0; } .qx .oa-text { font-family: Georgia, serif; overflow-wrap: anywhere; padding: .4rem .6rem; background: var(--wash); border-radius: 5px; }
.qx .oa-pale { fill: none; stroke: color-mix(in srgb, currentColor 26%, transparent); } .qx .oa-run, .qx .oa-seed { fill: none; stroke: var(--blue); stroke-width: 3; } .qx .oa-seed { stroke-width: 1.2; } .qx .oa-pin { fill: none; stroke: var(--red); stroke-width: 2.5; stroke-dasharray: 6 3; }`;
// Numbers by their decimal places.
const PLACES = ["seeds rank settings step pinned_step", "top1", "perplexity perplexity_low perplexity_high bits_per_weight", "nats low high gap teacher pinned doubt loss pinned_loss"];

const explorable = {
  render({ model, el }) {
    const now = () => DATA.settings[DATA.keys.indexOf(model.get("run"))];
    const go = (i) => put(model, { run: DATA.keys[i] });
    const why = node("p", { class: "qx-note" });
    const refuse = (f, v) => {
      const other = nearest(now(), f, v);
      const rest = differing(other, now()).filter((g) => g !== f);
      const having = (setting) => rest.map((g) => said(g, setting[g])).join(", ");
      el.querySelector("[role=status]").textContent = why.textContent = `Not run: ${said(f, v)} with ${having(now())}. It was run with ${having(other)}.`;
    };
    const groups = DATA.fields.map(([name, values], f) => {
      const press = (v) => (target(now(), f, v) < 0 ? refuse(f, v) : go(target(now(), f, v)));
      const keys = values.map((_, v) => node("button", { type: "button", onclick: () => press(v) }, termOf(f, v)));
      const title = TERMS[name][0];
      const row = node("div", { class: "oa-group" }, node("span", { class: "qx-key" }, title), node("div", { class: "qx-buttons", role: "group", "aria-label": title }, keys));
      const sync = (setting) => keys.forEach((key, v) => {
        key.setAttribute("aria-pressed", setting[f] === v);
        key.setAttribute("aria-disabled", target(setting, f, v) < 0);
      });
      return { row: values.length > 1 && row, sync };
    });
    const part = (title, some) => some.some((g) => g.row) && node("div", { class: "qx-part" }, node("p", { class: "oa-head" }, title), some.map((g) => g.row));
    const best = DATA.keys.map((_, i) => i).sort((a, b) => DATA.rows[a][0] - DATA.rows[b][0]);
    const list = choice({ model, name: "run", label: "All that were run, best first", options: best.map((i) => [DATA.keys[i], `${fixed(DATA.rows[i][0], 3)}  ${describe(i)}`]) });
    const pin = node("button", { type: "button", onclick: () => put(model, { pinned: model.get("run") }) }, "Pin this one");
    const base = node("button", { type: "button", onclick: () => go(DATA.base) }, "Back to the base");

    const [verdict, chance] = [0, 1].map(() => node("span"));
    const sure = node("span", {}, chance, output("doubt"), ".");
    const small = (...all) => node("span", { class: "qx-key" }, all);
    const spread = [small(output("seeds"), " seeds, ", output("low"), " to ", output("high")), small(output("perplexity_low"), " to ", output("perplexity_high"))];
    const facts = node("div", { class: "qx-facts" },
      fact("held-out nats", "qx-tb", node("span", { class: "qx-big" }, output("nats"), output("deviation")), spread[0], small(output("gap"), " above its teacher’s ", output("teacher")), small("number ", output("rank"), " of ", output("settings"))),
      fact("perplexity", "", output("perplexity"), spread[1]),
      fact("next character right", "", node("span", { class: "qx-big" }, output("top1"), " %")),
      fact("file", "", output("bytes"), small(output("bits_per_weight"), " bits a weight")));
    const strip = node("svg", { "aria-hidden": "true" });
    const [plot, scene] = [node("svg"), node("g")];
    const marks = [node("circle", { r: 6, style: "fill:var(--blue)" }), node("rect", { x: -5, width: 10, height: 10, style: "fill:var(--red)" })];
    const set = (v) => put(model, { at: clamp(Math.round(v), FIRST, LONGEST) });
    const grip = handle({
      label: "Step at which the curves are read", name: "at", get: () => model.get("at"), set, range: () => [FIRST, LONGEST], step: DATA.stride, page: 10 * DATA.stride,
      children: [node("rect", { class: "qx-hit", x: -12, y: 8, width: 24, height: 212 }), node("rect", { class: "qx-ring", x: -9, y: 6, width: 18, height: 216, rx: 6 }), line(0, 8, 0, 220, "qx-dots"), marks],
    });
    let toStep;
    drag(plot, (e) => {
      grip.n.focus({ preventScroll: true });
      set(toStep(svgX(plot, e)));
    });
    plot.append(scene, grip.n);
    const reading = node("p", { style: "margin:.1rem 0 0" },
      node("b", { class: "qx-tb" }, "● this one"), " at step ", output("step"), ": ", output("loss"), " nats; ", node("b", { class: "qx-tr" }, "■ pinned"), " at step ", output("pinned_step"), ": ", output("pinned_loss"), " nats");
    const texts = [["qx-tb", "This one wrote"], ["qx-tr", "Pinned, ", output("pinned"), " nats, it wrote"], ["", "The teacher wrote"]].map(([colour, ...title]) =>
      node("div", {}, node("p", { class: "oa-head " + colour }, title), node("p", { class: "oa-text" })));

    let before;
    const draw = (state, width) => {
      const r = compute(state);
      const [i, j] = [state.run, state.pinned].map((key) => DATA.keys.indexOf(key));
      const [mine, theirs] = [DATA.settings[i], DATA.settings[j]];
      const size = Math.abs(r.difference);
      const same = i === j || size < 5e-4;
      groups.forEach((g) => g.sync(mine));
      list.sync(state.run);
      if (before !== state.run) why.textContent = RULE;
      before = state.run;
      pin.setAttribute("aria-pressed", i === j);
      PLACES.forEach((some, places) => some.split(" ").forEach((name) => show(el, name, r[name], fixed(r[name], places))));
      show(el, "deviation", r.deviation, r.seeds > 1 ? " ± " + fixed(r.deviation, 3) : "");
      show(el, "bytes", r.bytes, bytesText(r.bytes));
      show(el, "difference", r.difference, same ? "" : fixed(size, 3));
      for (const n of spread) n.hidden = r.seeds < 2;
      verdict.textContent = i === j ? "This one is pinned. Choose another one to compare." :
        `${same ? "As good as" : ` nats ${r.difference > 0 ? "worse" : "better"} than`} the pinned one: ${differing(mine, theirs).map((f) => `${said(f, mine[f])}, not ${(NAMES[f] === "alpha" ? said : termOf)(f, theirs[f])}`).join("; ")}.`;
      chance.textContent = size > r.doubt ? " More than chance between seeds, ±" : " Chance between seeds may do as much, ±";
      sure.hidden = i === j || !r.doubt;
      texts[1].hidden = i === j;
      [DATA.samples[i], DATA.samples[j], DATA.teacher.sample].forEach((text, k) => (texts[k].lastChild.textContent = text));
      drawStrip(strip, i, j, width);
      const { x, y, back } = drawCurves(plot, scene, i, j, width);
      toStep = back;
      grip.n.setAttribute("transform", `translate(${x(state.at)},0)`);
      marks[0].setAttribute("cy", y(r.loss));
      marks[1].setAttribute("y", y(r.pinned_loss) - 5);
      grip.sync(state.at, `step ${state.at}: ${fixed(r.loss, 3)} nats, pinned ${fixed(r.pinned_loss, 3)}`);
      return `${describe(i)}: ${fixed(r.nats, 3)} nats, perplexity ${fixed(r.perplexity, 2)}. ${same ? "" : fixed(size, 3)}${verdict.textContent} At step ${r.step} of training ${fixed(r.loss, 3)} nats.`;
    };

    return mount({
      model, el, draw, names: ["run", "pinned", "at"], label: "What a distillation to one bit is made of",
      children: [
        node("style", {}, STYLE),
        node("div", { class: "qx-controls", style: "margin:0" }, part("Ingredients", groups.slice(0, 3)), part("Beyond them", groups.slice(3))),
        why, node("div", { class: "oa-row" }, list.row, pin, base),
        node("p", { class: "oa-say" }, node("span", { class: "qx-big" }, output("difference")), verdict, sure), facts,
        node("p", { class: "qx-title", style: "margin-top:.9rem" }, "Nats on held-out text: a stroke each setting, a dot each seed of this one"), strip,
        node("p", { class: "qx-title", style: "margin-top:.9rem" }, "While it learns: cross-entropy with its teacher (eq. 7), nats a character"), plot, reading,
        node("div", { class: "oa-texts" }, texts),
      ],
    });
  },
};

// Four to nine round numbers between two ends.
function ticks(low, high) {
  const unit = 10 ** Math.floor(Math.log10(high - low));
  const step = unit / ((high - low) / unit > 4 ? 1 : (high - low) / unit > 2 ? 2 : 5);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, k) => (first + k) * step);
}

function drawStrip(svg, i, j, width) {
  resize(svg, width, 92);
  const all = DATA.rows.map(([n]) => n);
  const low = Math.min(DATA.teacher.nats, ...all);
  const high = Math.max(low + 0.1, ...all);
  const x = (v) => 8 + ((v - low) / (high - low)) * (width - 16);
  const [mine, theirs, teacher] = [all[i], all[j], DATA.teacher.nats].map(x);
  svg.replaceChildren(
    ...ticks(low, high).map((v) => words(clamp(x(v), 14, width - 14), 90, tidy(v), "qx-small")),
    line(8, 74, width - 8, 74, "qx-axis"), line(teacher, 16, teacher, 74, "qx-zero"),
    words(clamp(teacher, 0, width - 100), 12, "teacher " + fixed(DATA.teacher.nats, 3), "qx-small qx-g", "start"),
    ...all.map((v) => line(x(v), 38, x(v), 54, "qx-axis qx-thin")),
    node("path", { d: `M${theirs},54l6,10h-12z`, style: "fill:var(--red)" }), node("path", { d: `M${mine},38l6,-8h-12z`, style: "fill:var(--blue)" }),
    words(clamp(mine, 56, width - 56), 26, "this one " + fixed(all[i], 3), "qx-bold qx-b"),
    ...DATA.runs[i].map(([n]) => node("circle", { cx: x(n), cy: 46, r: 4, style: "fill:var(--blue)" })),
  );
}

function drawCurves(svg, scene, i, j, width) {
  const [left, right, bottom] = [38, 72, 220];
  resize(svg, width, bottom + 38);
  // Above the picture are the first steps alone.
  const low = Math.min(...curves.flat(2).map(([, v]) => v));
  const high = Math.max(low + 1, 2 * Math.max(...curves.map(([c]) => c.at(-1)[1])) - low);
  // Steps count as powers: most is learned in the first.
  const unit = (width - left - right) / Math.log(LONGEST / FIRST);
  const x = (step) => left + Math.log(Math.max(step / FIRST, 1)) * unit;
  const marks = [1, 10, 100, 1000].flatMap((k) => [k, 2 * k, 5 * k]).filter((s) => s >= FIRST && s <= LONGEST);
  const y = (v) => bottom - 4 - ((Math.min(v, high) - low) / (high - low)) * (bottom - 18);
  const curve = (points, c) => path(points.filter(([, v]) => v <= high).map(([s, v]) => [x(s), y(v)]), c);
  const ends = [i, j].map((k) => curves[k][0].at(-1));
  const at = apart(y(ends[0][1]), y(ends[1][1]), 16, bottom + 8);
  const label = (k, text, c) => words(x(ends[k][0]) + 6, at[k] + 4, text, "qx-bold " + c, "start");
  scene.replaceChildren(
    ...ticks(low, high).flatMap((v) => [line(left, y(v), width - right, y(v), "qx-grid"), words(left - 6, y(v) + 4, tidy(v), "qx-small", "end")]),
    ...marks.map((s) => words(x(s), bottom + 16, String(s), "qx-small")), words((left + width - right) / 2, bottom + 33, "step", "qx-small"),
    ...curves.map(([first]) => curve(first, "oa-pale")), ...curves[i].slice(1).map((c) => curve(c, "oa-seed")),
    ...(i === j ? [] : [curve(curves[j][0], "oa-pin"), label(1, "pinned", "qx-r")]),
    curve(curves[i][0], "oa-run"), label(0, "this one", "qx-b"), line(left, bottom, width - right, bottom, "qx-axis"),
  );
  return { x, y, back: (px) => FIRST * Math.exp((px - left) / unit) };
}
