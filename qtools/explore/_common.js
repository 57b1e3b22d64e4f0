// Helpers that every explorable shares. The built module is: CSS, this file, the explorable.

// A node: tag, attributes, children. Names in SVG_TAGS are drawn in an <svg>.
const SVG_TAGS = new Set("svg g path line rect circle text tspan defs pattern clipPath".split(" "));
function node(tag, attributes = {}, ...children) {
  const n = SVG_TAGS.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) n.addEventListener(key.slice(2), value);
    else if (value === true) n.setAttribute(key, "");
    else if (value !== false && value != null) n.setAttribute(key, value);
  }
  n.append(...children.flat(Infinity).filter((c) => c != null && c !== false));
  return n;
}

// Ids are needed to tie labels to controls; they only have to differ within the page.
function freshId() {
  globalThis.qtoolsIds = (globalThis.qtoolsIds ?? 0) + 1;
  return "qx" + globalThis.qtoolsIds;
}

const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

// Half to even, exactly: adding 1.5 * 2^52 leaves no room for a fraction.
function roundHalfEven(v) {
  const big = 6755399441055744;
  return Math.abs(v) < 2251799813685248 ? v + big - big : v;
}

// A real minus sign, no trailing zeros, `digits` significant digits.
function tidy(v, digits = 3) {
  if (!Number.isFinite(v)) return v > 0 ? "∞" : v < 0 ? "−∞" : "–";
  const size = Math.abs(v);
  let text;
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) {
    const [m, e] = v.toExponential(digits - 1).split("e");
    text = m.replace(/\.?0+$/, "") + " × 10" + superscript(Number(e));
  } else {
    text = String(Number(v.toPrecision(digits)));
  }
  return text.replace(/-/g, "−");
}
const superscript = (n) => String(n).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
const fixed = (v, places) => v.toFixed(places).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");

// Bytes in decimal units.
function bytesText(v) {
  const units = [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3], ["bytes", 1]];
  const [unit, size] = units.find(([, s]) => v >= 0.9995 * s) ?? units[4];
  return tidy(v / size) + " " + unit;
}

// A number on show: full precision for machines in data-value, rounded for people in the text.
const output = (name) => node("output", { "data-name": name });
function show(root, name, value, text) {
  const n = root.querySelector(`output[data-name="${name}"]`);
  n.dataset.value = String(Number(value));
  if (n.textContent !== text) n.textContent = text;
}
const fact = (label, colour, ...children) =>
  node("div", { class: "qx-fact" }, node("span", { class: colour || "qx-key" }, label), ...children);

// The frame of an explorable. draw(state, width) runs once per batch of changes and on resize.
function mount({ model, el, label, names, draw, children }) {
  const says = node("p", { class: "qx-say", role: "status", "aria-live": "polite" });
  const root = node("div", { class: "qx", role: "group", "aria-label": label }, ...children, says);
  // JupyterLab takes arrow keys for itself unless what has the focus tells it not to.
  for (const n of root.querySelectorAll("input, select, button, [tabindex]"))
    n.setAttribute("data-lm-suppress-shortcuts", "");
  el.append(node("style", {}, CSS), root);
  el.qtoolsModel = model;
  const state = () => Object.fromEntries(names.map((n) => [n, model.get(n)]));
  let queued = false;
  let drawn = 0;
  let timer;
  const redraw = () => {
    const width = root.clientWidth || 640;
    const said = draw(state(), width);
    // A screen reader hears the result when the hand rests, not at every pixel.
    clearTimeout(timer);
    if (drawn) timer = setTimeout(() => (says.textContent = said), 500);
    drawn = width;
  };
  const ask = () => {
    if (queued) return;
    queued = true;
    queueMicrotask(() => {
      queued = false;
      redraw();
    });
  };
  for (const n of names) model.on("change:" + n, ask);
  const watcher = new ResizeObserver(() => root.clientWidth !== drawn && redraw());
  watcher.observe(root);
  redraw();
  return () => {
    watcher.disconnect();
    clearTimeout(timer);
    for (const n of names) model.off("change:" + n, ask);
  };
}

function put(model, changes) {
  for (const [name, value] of Object.entries(changes)) model.set(name, value);
  model.save_changes();
}

// A labelled native slider. `to` maps its position to the value, `from` maps back.
function slider({ label, name, min, max, step, model, to = (v) => v, from = (v) => v, text, say = text }) {
  const id = freshId();
  const input = node("input", {
    type: "range", id, min, max, step, "data-control": name,
    oninput: () => put(model, { [name]: to(Number(input.value)) }),
  });
  const shown = node("span", { class: "qx-value", "aria-hidden": "true" });
  const row = node("div", { class: "qx-row" }, node("label", { for: id }, label), shown, input);
  const sync = (value) => {
    // While the reader holds it the position is theirs: rounding must not pull it away.
    if (to(Number(input.value)) !== value) input.value = from(value);
    input.setAttribute("aria-valuetext", say(value));
    shown.textContent = text(value);
  };
  return { row, sync };
}

function choice({ label, name, model, options }) {
  const id = freshId();
  const input = node(
    "select",
    { id, "data-control": name, onchange: () => put(model, { [name]: options[input.value][0] }) },
    options.map(([, text], i) => node("option", { value: i }, text)),
  );
  const row = node("div", { class: "qx-row qx-choice" }, node("label", { for: id }, label), input);
  return { row, sync: (value) => (input.value = options.findIndex(([v]) => v === value)) };
}

function checkbox({ label, name, model }) {
  const input = node("input", {
    type: "checkbox", "data-control": name,
    onchange: () => put(model, { [name]: input.checked }),
  });
  const row = node("label", { class: "qx-check" }, input, label);
  return { row, sync: (value) => (input.checked = value) };
}

function buttons({ label, model, options }) {
  const keys = options.map(([text, changes]) =>
    node("button", { type: "button", onclick: () => put(model, changes) }, text));
  const row = node("div", { class: "qx-buttons", role: "group", "aria-label": label }, keys);
  const sync = (state) =>
    options.forEach(([, changes], i) => {
      const on = Object.entries(changes).every(([k, v]) => state[k] === v);
      keys[i].setAttribute("aria-pressed", on);
    });
  return { row, sync };
}

// Follow a pointer from press to release, with mouse, pen or finger.
function drag(n, move) {
  n.addEventListener("pointerdown", (e) => {
    if (e.button) return;
    e.preventDefault();
    n.setPointerCapture(e.pointerId);
    if (n.tabIndex >= 0) n.focus({ preventScroll: true });
    move(e);
  });
  n.addEventListener("pointermove", (e) => n.hasPointerCapture(e.pointerId) && move(e));
}

// A handle in the picture that is a slider to the keyboard and to a screen reader.
function handle({ label, name, get, set, range, step, page, children }) {
  const n = node("g", {
    class: "qx-handle", role: "slider", tabindex: 0, "aria-label": label, "data-control": name,
  }, children);
  n.addEventListener("keydown", (e) => {
    const [low, high] = range();
    const v = get();
    const to = {
      ArrowRight: v + step, ArrowUp: v + step, ArrowLeft: v - step, ArrowDown: v - step,
      PageUp: v + page, PageDown: v - page, Home: low, End: high,
    }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    set(to);
  });
  const sync = (value, text) => {
    const [low, high] = range();
    n.setAttribute("aria-valuemin", low);
    n.setAttribute("aria-valuemax", high);
    n.setAttribute("aria-valuenow", value);
    n.setAttribute("aria-valuetext", text);
  };
  return { n, sync };
}

// Stripes for what does not fit or was clipped, so that colour is not the only sign.
function stripes() {
  const id = freshId();
  const bar = node("rect", { width: 2.5, height: 6, style: "fill:var(--red)" });
  const pattern = { id, width: 5, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  const holder = { width: 0, height: 0, style: "position:absolute", "aria-hidden": "true" };
  return { holder: node("svg", holder, node("defs", {}, node("pattern", pattern, bar))), fill: `fill:url(#${id})` };
}

// Centres for two labels of a width: apart from each other and inside the picture.
function apart(a, b, size, width) {
  const [low, high] = [Math.min(a, b), Math.max(a, b)];
  const push = Math.max(0, (size - (high - low)) / 2);
  const first = clamp(low - push, size / 2, width - 1.5 * size);
  const second = clamp(Math.max(high + push, first + size), first + size, width - size / 2);
  return a <= b ? [first, second] : [second, first];
}

// Pixels inside an svg that is drawn at its own size.
const svgX = (svg, e) => e.clientX - svg.getBoundingClientRect().left;
const resize = (svg, width, height) => {
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
};
const line = (x1, y1, x2, y2, c) => node("line", { x1, y1, x2, y2, class: c });
const words = (x, y, text, c, anchor = "middle") =>
  node("text", { x, y, class: c, "text-anchor": anchor }, text);
const path = (points, c) =>
  node("path", { class: c, d: "M" + points.map(([x, y]) => x.toFixed(1) + "," + y.toFixed(1)).join("L") });
