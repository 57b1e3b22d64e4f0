// Budget: one bar a format, to scale, and a wall where the memory ends.
function compute({ parameters, bits, group_size, bandwidth, memory }) {
  const scales = group_size ? Math.ceil(parameters / group_size) : 0;
  const bytes = (parameters * bits) / 8 + 2 * scales;
  return {
    bytes,
    bits_per_weight: (8 * bytes) / parameters,
    versus_fp32: (parameters * 4) / bytes,
    versus_fp16: (parameters * 2) / bytes,
    tokens_per_second: (bandwidth * 1e9) / bytes,
    fits: bytes <= memory * 1e9 ? 1 : 0,
    share: bytes / (memory * 1e9),
  };
}

// 0.1 M is about the book's SmallCNN, the rest are usual sizes of language models.
// Round figures. Bandwidths: 2 channels × 8 bytes × 5.6 GT/s for the laptop, makers' data sheets
// for the rest (T4 320, RTX 4090 1008, A100 80 GB 2039, H100 SXM 3350 GB/s).
const MODELS = [
  ["0.1 M", { parameters: 1e5 }],
  ["1.3 B", { parameters: 1.3e9 }],
  ["7 B", { parameters: 7e9 }],
  ["13 B", { parameters: 1.3e10 }],
  ["70 B", { parameters: 7e10 }],
];
const MACHINES = [
  ["Laptop", { memory: 16, bandwidth: 90 }],
  ["T4", { memory: 16, bandwidth: 320 }],
  ["4090", { memory: 24, bandwidth: 1000 }],
  ["A100", { memory: 80, bandwidth: 2000 }],
  ["H100", { memory: 80, bandwidth: 3350 }],
];

const NOTE =
  "Weights only: activations and cached keys and values come on top. Machines in round figures: " +
  "two channels of DDR5-5600, and the makers’ data sheets. GB = 10⁹ bytes.";

const countText = (v) => {
  const [unit, size] = [["trillion", 1e12], ["billion", 1e9], ["million", 1e6], ["", 1]].find(([, s]) => v >= s);
  return `${tidy(v / size)} ${unit}`.trim();
};
const rateText = (v) => tidy(v) + " tokens/s";
const timesText = (v) => (v < 0.9995 ? `${tidy(1 / v)}× larger` : v < 1.0005 ? "same size" : `${tidy(v)}× smaller`);
const round3 = (v) => Number(v.toPrecision(3));

const explorable = {
  render({ model, el }) {
    const log = (spec) => slider({ model, step: 0.01, to: (p) => round3(10 ** p), from: Math.log10, ...spec });
    const controls = {
      parameters: log({ name: "parameters", label: "Weights", min: 5, max: 12, text: countText }),
      bits: slider({ model, name: "bits", label: "Bits per weight", min: 1, max: 32, step: 1, text: (v) => `${v} bit${v > 1 ? "s" : ""}` }),
      group_size: choice({ model, name: "group_size", label: "16-bit scale for every", options: [[0, "(no scales)"], ...[32, 64, 128, 256].map((g) => [g, g + " weights"])] }),
      memory: log({ name: "memory", label: "Memory", min: -1, max: 4, text: (v) => tidy(v) + " GB" }),
      bandwidth: log({ name: "bandwidth", label: "Bandwidth", min: 0, max: 4, text: (v) => tidy(v) + " GB/s" }),
    };
    const models = buttons({ model, label: "Models", options: MODELS });
    const machines = buttons({ model, label: "Machines", options: MACHINES });
    const svg = node("svg", { "aria-hidden": "true" });
    const hatch = stripes();
    const facts = node(
      "div", { class: "qx-facts" },
      fact("size", "", output("bytes"), node("span", {}, output("bits_per_weight"))),
      fact("against 32-bit", "", output("versus_fp32"), node("span", {}, "against 16-bit: ", output("versus_fp16"))),
      fact("speed, at most", "", output("tokens_per_second"), node("span", {}, "each weight read once a token")),
      fact("does it fit?", "", output("fits"), node("span", {}, output("share"), " of the memory")),
    );

    const draw = (state, width) => {
      for (const [name, c] of Object.entries(controls)) c.sync(state[name]);
      models.sync(state);
      machines.sync(state);
      const r = compute(state);
      svg.replaceChildren(...picture(svg, state, r, width, hatch.fill));
      show(facts, "bytes", r.bytes, bytesText(r.bytes));
      show(facts, "bits_per_weight", r.bits_per_weight, `${tidy(r.bits_per_weight, 4)} bits a weight`);
      show(facts, "versus_fp32", r.versus_fp32, timesText(r.versus_fp32));
      show(facts, "versus_fp16", r.versus_fp16, timesText(r.versus_fp16));
      show(facts, "tokens_per_second", r.tokens_per_second, rateText(r.tokens_per_second));
      show(facts, "fits", r.fits, r.fits ? "✓ yes" : "✗ no");
      show(facts, "share", r.share, tidy(100 * r.share) + " %");
      return `${bytesText(r.bytes)}, ${r.fits ? "fits" : "does not fit"}, at most ${rateText(r.tokens_per_second)}`;
    };

    return mount({
      model, el, draw, names: Object.keys(controls),
      label: "Budget: weights and bits give bytes and speed",
      children: [
        node("div", { class: "qx-controls" },
          node("div", { class: "qx-part" }, models.row, controls.parameters.row, controls.bits.row, controls.group_size.row),
          node("div", { class: "qx-part" }, machines.row, controls.memory.row, controls.bandwidth.row)),
        hatch.holder, svg, facts,
        node("p", { class: "qx-note" }, NOTE),
      ],
    });
  },
};

function picture(svg, state, r, width, hatch) {
  const [top, gap] = [38, 48];
  const room = state.memory * 1e9;
  const rows = [
    ["32-bit floats", state.parameters * 4],
    ["16-bit floats", state.parameters * 2],
    [`yours, ${tidy(r.bits_per_weight, 3)} bit${state.bits > 1 ? "s" : ""}`, r.bytes],
  ];
  const bottom = top + rows.length * gap;
  resize(svg, width, bottom + 22);
  // Bars to scale: 32-bit floats fill most of the width, the other two are what remains of them.
  const most = 1.12 * Math.max(...rows.map(([, bytes]) => bytes));
  const at = (bytes) => 1 + ((width - 2) * bytes) / most;
  const wall = at(Math.min(room, most));
  const out = [];
  if (room < most) out.push(node("rect", { x: wall, y: top - 8, width: width - wall, height: bottom - top + 8, style: "fill:var(--wash)" }));
  rows.forEach(([name, bytes], i) => {
    const y = top + i * gap;
    const fits = bytes <= room;
    const yours = i === 2;
    const bar = { y: y + 18, height: 18 };
    const speed = rateText((state.bandwidth * 1e9) / bytes);
    out.push(
      words(1, y + 12, name, yours ? "qx-bold" : "", "start"),
      words(width - 1, y + 12, `${bytesText(bytes)}, ${speed} ${fits ? "✓" : "✗"}`, `qx-bold ${fits ? "" : "qx-r"}`, "end"),
      node("rect", { ...bar, x: 1, width: Math.max(1.5, at(Math.min(bytes, room)) - 1), style: `fill:var(--${yours ? "blue" : "soft"})` }),
    );
    // The wall stands at the bars only: the words above them cross its place on a phone.
    if (room < most) out.push(line(wall, y + 16, wall, y + 38, "qx-wall"));
    if (!fits) out.push(node("rect", { ...bar, x: wall, width: at(bytes) - wall, style: hatch + ";stroke:var(--red)" }));
  });
  const step = niceStep(most / (width < 480 ? 3 : 5));
  out.push(line(0, bottom, width, bottom, "qx-axis"));
  for (let v = 0; v < most; v += step) {
    const end = at(v) > width - 40;
    out.push(line(at(v), bottom, at(v), bottom + 4, "qx-axis"));
    if (!end) out.push(words(at(v), bottom + 18, v ? bytesText(v) : "0", "qx-small", v ? "middle" : "start"));
  }
  const text = `memory ends at ${tidy(state.memory)} GB`;
  if (room < most) {
    out.push(line(wall, 20, wall, top - 4, "qx-wall"));
    out.push(wall > width / 2 ? words(wall, 15, text, "qx-bold", "end") : words(wall, 15, text, "qx-bold", "start"));
  } else {
    out.push(words(width - 1, 15, text + ", beyond this picture →", "qx-small", "end"));
  }
  return out;
}

// 1, 2 or 5 times a power of ten, not below v.
function niceStep(v) {
  const power = 10 ** Math.floor(Math.log10(v));
  return power * [1, 2, 5, 10].find((m) => m * power >= v * 0.9999);
}
