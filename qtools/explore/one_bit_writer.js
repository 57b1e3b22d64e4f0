// OneBitWriter: what the reader sees of the model in one_bit_model.js, which stands above this text.
// Run generators in slices that leave the page alive; a new run ends the old one.
function worker() {
  let current = 0;
  const run = (steps, value, rest) => {
    const me = ++current;
    const slice = () => {
      if (me !== current) return;
      const start = performance.now();
      let [count, time] = [0, 0];
      let step;
      do {
        step = steps.next();
        if (!step.done) value(step.value);
        count++;
        time = performance.now() - start;
      } while (!step.done && time < 12);
      rest(step.done, (1000 * count) / time);
      if (!step.done) setTimeout(slice);
    };
    setTimeout(slice);
  };
  return { run, stop: () => current++ };
}

const grouped = (v) => v.toLocaleString("en-US");
const SHARES = [0, 0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 75, 100];
// A line break inside a paragraph is the printed book's, not the writer's.
const flowing = (text) => text.replace(/([^\n])\n(?!\n)/g, "$1 ");
const STYLE = `.qx .ow-ask { display: flex; gap: .4rem; align-items: center; margin-bottom: .5rem; } .qx .ow-ask input { flex: 1; min-width: 0; min-height: 32px; font: inherit; color: inherit; background: transparent; border: 1px solid color-mix(in srgb, currentColor 55%, transparent); border-radius: 5px; padding: .3rem .5rem; }
.qx .ow-ask button { min-height: 32px; } .qx .ow-ask label { margin: 0; color: var(--soft); } .qx .ow-ask input[type=number] { width: 4.2rem; } .qx .ow-ask button[data-main] { background: #0072b2; border-color: #0072b2; color: #fff; padding: 0 1rem; font-weight: 600; }
.qx .ow-text { font-family: Georgia, serif; font-size: 1.02rem; line-height: 1.5; min-height: 9.6rem; padding: .5rem .7rem; background: var(--wash); border-radius: 5px; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .6rem; }
.qx .ow-text b, .qx .ow-text i { font-weight: 400; font-style: normal; color: var(--blue); } .qx .ow-text i { color: var(--red); }
.qx .ow-break { display: flex; flex-wrap: wrap; gap: .5rem 1.75rem; margin: 0 0 .4rem; } .qx .ow-break > :first-child { flex: 1 1 16rem; } .qx .ow-map { flex: 0 1 auto; max-width: 100%; }
.qx canvas { display: block; max-width: 100%; border: 1px solid var(--line); cursor: crosshair; touch-action: pan-y pinch-zoom; } .qx canvas:focus-visible { outline: 3px solid var(--blue); outline-offset: 2px; }
.qx .ow-sentence { font-family: Georgia, serif; margin: .2rem 0 0; } .qx p.ow-head { display: block; margin: .9rem 0 .4rem; border-top: 1px solid var(--line); padding-top: .5rem; }
.qx .ow-tg { color: var(--green); } .qx .ow-fast { margin: 0; grid-template-columns: 1fr 1fr; } .qx .ow-row .qx-choice { flex: 1; grid-template-columns: auto 1fr; } .qx select { min-width: 0; }
@media (max-width: 500px) { .qx .ow-text { min-height: 15rem; } .qx .ow-ask { flex-wrap: wrap; } .qx .ow-ask input[type=text] { flex-basis: 100%; } }`;

const explorable = {
  render({ model, el }) {
    const names = ["prompt", "temperature", "seed", "where", "share", "hand"];
    const id = freshId();
    const prompt = node("input", {
      type: "text", id, maxlength: 200, autocomplete: "off", spellcheck: "false", "data-control": "prompt",
      oninput: () => put(model, { prompt: prompt.value }), onkeydown: (e) => e.key === "Enter" && write(),
    });
    const go = node("button", { type: "button", "data-main": "", onclick: () => (writing ? stop() : write()) }, "Write");
    const draws = (v) => {
      put(model, { seed: clamp(Math.round(v) || 1, 1, 2147483647) });
      write();
    };
    const seed = node("input", { type: "number", min: 1, max: 2147483647, "data-control": "seed", onchange: () => draws(seed.value) });
    const another = node("button", { type: "button", onclick: () => draws((model.get("seed") % 2147483647) + 1) }, "Another text");
    const given = node("span");
    const page = node("div", { class: "ow-text" }, node("span", { class: "qx-key" }, `Press Write: ${grouped(net().weights)} bits go on from your beginning.`));
    const layers = DATA.layers.map(([name]) => name);
    const title = (name) => name.replace(/blocks\.(\d+)\.?/, (_, i) => `block ${Number(i) + 1} `).trim();
    const places = [["", `all ${layers.length} matrices`]];
    layers.forEach((name, i) => places.push(...(i % 6 ? [] : [[name.replace(/\.\w+$/, ""), title(name.replace(/\.\w+$/, ""))]]), [name, title(name)]));
    const c = {
      temperature: slider({ model, name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.1, text: (v) => fixed(v, 1) }),
      share: slider({ model, name: "share", label: "Bits flipped", min: 0, max: SHARES.length - 1, step: 1, to: (i) => SHARES[i], from: (v) => SHARES.findIndex((s) => s >= v), text: (v) => tidy(v) + " %" }),
      where: choice({ model, name: "where", label: "of", options: places }),
    };
    const repair = node("button", { type: "button", onclick: () => put(model, { share: 0, hand: [] }) }, "Repair");
    const speeds = [0, 1].map(() => node("span", { class: "qx-big" }, "–"));
    const [sizes, gauge] = [0, 1].map(() => node("svg", { "aria-hidden": "true" }));
    const sentence = node("p", { class: "ow-sentence" }, [...DATA.sentence].map((ch) => node("span", {}, ch)));
    const map = bitMap(model);
    const key = (...children) => node("span", { class: "qx-key" }, children);
    const facts = node("div", { class: "qx-facts" },
      fact("Bits flipped", "qx-tr", output("flipped"), key("of ", output("bits"))),
      fact("Surprise", "qx-tr", output("surprise"), key("nats a character; intact ", output("intact"))));
    const fast = node("div", { class: "qx-facts ow-fast" },
      fact("On packed bits", "qx-tb", speeds[0], key("characters a second")),
      fact("On 32-bit floats", "", speeds[1], key("a second, as its teacher")));
    const bytes = node("p", { class: "qx-note", style: "margin:.2rem 0 0" },
      node("span", { class: "qx-tb" }, "■"), " signs ", output("signs"), ", ", node("span", { class: "ow-tg" }, "■"), " g and h ", output("vectors"), ", ■ norms ", output("norms"), ", embedding and head ", output("tables"), ".");
    const sums = node("p", { class: "qx-title ow-head" }, output("bytes"), ", ", output("ratio"), " smaller than its teacher in float16, ", output("teacher"));
    const [author, judge, rival] = [worker(), worker(), worker()];
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let [writing, judging, compared] = [false, false, false];
    let timer;
    let width = 640;
    let surprise = DATA.intact;
    let flips = 0;
    const busy = () => {
      go.textContent = writing ? "Stop" : "Write";
      el.toggleAttribute("data-busy", writing || judging);
      clearTimeout(timer);
      // Heard once, when all is done: not at each character.
      const text = page.children[1]?.textContent;
      if (!writing && !judging && text)
        timer = setTimeout(() => (el.querySelector("[role=status]").textContent = `${flips} bits flipped, surprise ${fixed(surprise, 2)} nats a character. The model wrote: ${text}`), 700);
    };
    // Median over the slices: what else the machine does, and compiling at first, hardly move it.
    const clock = (n) => {
      const rates = [];
      return (done, rate) => {
        if (!done) rates.push(rate);
        const middle = [...rates].sort((a, b) => a - b)[rates.length >> 1];
        if (rates.length > 2) speeds[n].textContent = grouped(Math.round(middle));
      };
    };
    const stop = () => {
      author.stop();
      writing = false;
      busy();
    };
    const write = () => {
      const state = Object.fromEntries(names.map((n) => [n, model.get(n)]));
      let written = "";
      const tick = clock(0);
      writing = true;
      rival.stop();
      given.textContent = legible(state.prompt);
      page.replaceChildren(given, node(flips ? "i" : "b"));
      author.run(story(state, DATA.length), (ch) => (written += ch), (done, rate) => {
        tick(done, rate);
        if (done || !calm) page.lastChild.textContent = flowing(written);
        if (!done) return;
        stop();
        // Once, at the end: how fast a network without bits would have been.
        const other = clock(1);
        if (!compared) rival.run(story(state, 130, true), () => {}, (end, r) => other((compared = end), r));
      });
      busy();
    };
    const shade = (n, nats) => (n.style.background = `color-mix(in srgb, var(--red) ${Math.round(clamp(9 * nats, 0, 50))}%, transparent)`);
    const measure = () => {
      const all = [];
      judging = true;
      judge.run(surprises(DATA.sentence), (nats) => {
        all.push(nats);
        shade(sentence.children[all.length], nats);
      }, (done) => {
        if (!done) return;
        surprise = all.reduce((a, b) => a + b, 0) / all.length;
        judging = false;
        tell();
        busy();
      });
      busy();
    };
    const tell = () => {
      show(facts, "surprise", surprise, fixed(surprise, 2));
      drawGauge(gauge, surprise, width);
    };

    let before;
    let damage = "[]";
    const draw = (state, w) => {
      width = w;
      for (const [name, control] of Object.entries(c)) control.sync(state[name]);
      if (prompt.value !== state.prompt) prompt.value = state.prompt;
      if (Number(seed.value) !== state.seed) seed.value = state.seed;
      const bits = JSON.stringify([...(state.share ? [state.where, state.share] : []), ...state.hand]);
      if (bits !== damage) {
        damage = bits;
        rival.stop();
        flips = flip(state);
        measure();
      }
      map.draw(state, title);
      drawSizes(sizes, w);
      tell();
      const total = DATA.signs + DATA.vectors + DATA.norms + DATA.tables;
      for (const name of ["signs", "vectors", "norms", "tables"]) show(bytes, name, DATA[name], bytesText(DATA[name]));
      for (const [name, v] of [["bytes", total], ["teacher", DATA.teacher]]) show(sums, name, v, bytesText(v));
      show(sums, "ratio", DATA.teacher / total, fixed(DATA.teacher / total, 1) + " times");
      for (const [name, v] of [["flipped", flips], ["bits", net().weights]]) show(facts, name, v, grouped(v));
      show(facts, "intact", DATA.intact, fixed(DATA.intact, 2));
      const now = JSON.stringify([state.temperature, bits]);
      if (before && now !== before) write();
      before = now;
      return `${flips} of ${net().weights} bits flipped`;
    };

    [...sentence.children].slice(1).forEach((n, i) => shade(n, DATA.heat[i]));
    const end = mount({
      model, el, draw, names, label: "A 1-bit language model that writes",
      children: [
        node("style", {}, STYLE),
        node("div", { class: "ow-ask" }, node("label", { for: id, class: "qx-say" }, "Beginning of the text"), prompt, go, another, node("label", {}, "Seed ", seed)),
        page,
        node("div", { class: "qx-controls" }, node("div", { class: "qx-part" }, c.temperature.row), fast),
        node("p", { class: "qx-title ow-head" }, "Break it: flip some of its bits"),
        node("div", { class: "ow-break" }, node("div", { class: "qx-part ow-row" }, c.share.row, node("div", { class: "ow-ask" }, c.where.row, repair), facts), map.box),
        node("p", { class: "qx-note" }, "The redder, the more surprising to the model. It has never seen this sentence:"), sentence, gauge,
        sums, sizes, bytes,
      ],
    });
    return () => {
      author.stop();
      judge.stop();
      rival.stop();
      clearTimeout(timer);
      end();
    };
  },
};

// One matrix, a pixel a bit, the longer side across. The hand flips cells of 8 × 8.
function bitMap(model) {
  const canvas = node("canvas", { tabindex: 0, role: "application", "data-control": "hand" });
  const caption = node("span");
  const box = node("div", { class: "ow-map" }, canvas, node("p", { class: "qx-note", style: "margin:0" }, caption, ". A pixel a weight: dark −1, light +1, red flipped. Draw on it to flip."));
  let m;
  let [x, y, erase] = [0, 0, false];
  const matrix = (where) => net().matrices.find((one) => inside(one.name, where));
  const cellAt = (cx, cy) => {
    const [i, j] = m.rows > m.columns ? [cx, cy] : [cy, cx];
    return m.first / CELL ** 2 + (i * m.columns) / CELL + j;
  };
  const mark = (cell, off) => {
    const rest = model.get("hand").filter((other) => other !== cell);
    const all = off ? rest : [...rest, cell];
    if (all.length !== model.get("hand").length) put(model, { hand: all });
  };
  const cell = (e) => {
    const box = canvas.getBoundingClientRect();
    x = clamp(Math.floor(((e.clientX - box.left) / box.width) * (canvas.width / CELL)), 0, canvas.width / CELL - 1);
    y = clamp(Math.floor(((e.clientY - box.top) / box.height) * (canvas.height / CELL)), 0, canvas.height / CELL - 1);
    return cellAt(x, y);
  };
  canvas.addEventListener("pointerdown", (e) => (erase = model.get("hand").includes(cell(e))));
  drag(canvas, (e) => mark(cell(e), erase));
  canvas.addEventListener("keydown", (e) => {
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1], " ": [0, 0] }[e.key] ?? [];
    if (dx === undefined) return;
    e.preventDefault();
    x = clamp(x + dx, 0, canvas.width / CELL - 1);
    y = clamp(y + dy, 0, canvas.height / CELL - 1);
    if (e.key === " ") mark(cellAt(x, y), model.get("hand").includes(cellAt(x, y)));
    else paint();
  });
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => paint());
  const paint = () => {
    const turned = m.rows > m.columns;
    const image = new ImageData(Math.max(m.rows, m.columns), Math.min(m.rows, m.columns));
    for (let i = 0; i < m.rows; i++)
      for (let j = 0; j < m.columns; j++) {
        const p = i * m.stride + (j >> 3);
        const bit = (m.bits[p] >> (j & 7)) & 1;
        const red = bit !== ((m.packed[p] >> (j & 7)) & 1);
        const colour = red ? (bit ? [176, 36, 0, 255] : [255, 106, 20, 255]) : bit ? [92, 102, 116, 255] : [206, 212, 218, 255];
        image.data.set(colour, 4 * (turned ? j * m.rows + i : i * m.columns + j));
      }
    [canvas.width, canvas.height] = [image.width, image.height];
    const c = canvas.getContext("2d");
    c.putImageData(image, 0, 0);
    if (document.activeElement !== canvas) return;
    c.strokeStyle = "#0072b2";
    c.lineWidth = 2;
    c.strokeRect(x * CELL, y * CELL, CELL, CELL);
  };
  return {
    box,
    draw({ where }, name) {
      m = matrix(where);
      caption.textContent = `${name(m.name)}, ${m.rows} × ${m.columns}`;
      canvas.setAttribute("aria-label", `Bits of ${name(m.name)}: arrow keys move, space flips 8 by 8 of them`);
      box.style.width = canvas.style.width = m.rows === m.columns ? "288px" : "768px";
      paint();
    },
  };
}

// From sure to blind: where the surprise stands between the intact model and guessing.
function drawGauge(svg, surprise, width) {
  const [most, blind] = [8, Math.log(CHARACTERS.length)];
  resize(svg, width, 54);
  const x = (v) => (Math.min(v, most) / most) * (width - 2) + 1;
  const at = x(surprise);
  const label = (v, y, text, c) => words(v, y, text, c, v < 90 ? "start" : v > width - 90 ? "end" : "middle");
  svg.replaceChildren(
    node("rect", { x: 0, y: 20, width, height: 12, rx: 3, style: "fill:var(--wash)" }),
    node("rect", { x: 0, y: 20, width: at, height: 12, rx: 3, style: `fill:var(--${surprise > DATA.intact + 0.005 ? "red" : "blue"})` }),
    line(x(DATA.intact), 16, x(DATA.intact), 36, "qx-axis"),
    label(x(DATA.intact), 12, `intact ${fixed(DATA.intact, 2)}`, "qx-small"),
    line(x(blind), 16, x(blind), 36, "qx-axis"),
    label(x(blind), 50, `guessing among ${CHARACTERS.length}: ${fixed(blind, 2)} nats`, "qx-small"),
  );
}

function drawSizes(svg, width) {
  const parts = [["signs", "blue"], ["vectors", "green"], ["norms", "soft"], ["tables", "soft"]];
  const unit = width / DATA.teacher;
  resize(svg, width, 44);
  let at = 0;
  const bars = parts.map(([name, colour]) => {
    const size = DATA[name] * unit;
    return node("rect", { x: (at += size) - size, y: 2, width: Math.max(0.5, size), height: 18, style: `fill:var(--${colour})` });
  });
  svg.replaceChildren(
    ...bars, words(at + 8, 16, "1-bit model", "qx-bold", "start"),
    node("rect", { x: 0, y: 24, width, height: 18, style: "fill:var(--line)" }), words(8, 38, "teacher", "qx-bold", "start"),
  );
}
