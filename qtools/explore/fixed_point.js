// FixedPoint: the bits of a mantissa, and the neighbourhood of the rounding edge it may cross.

// v = fraction * 2^exponent with 1/2 <= fraction < 1.
function frexp(v) {
  let exponent = Math.floor(Math.log2(v)) + 1;
  while (v / 2 ** exponent >= 1) exponent++;
  while (v / 2 ** exponent < 0.5) exponent--;
  return [v / 2 ** exponent, exponent];
}

// round(product / 2^shift), halves away from zero, in whole numbers of any length.
function shiftRight(product, shift) {
  if (shift <= 0) return product << BigInt(-shift);
  const half = 1n << BigInt(shift - 1);
  return (product + half - (product < 0n ? 1n : 0n)) >> BigInt(shift);
}

function compute({ factor, bits, acc }) {
  const [fraction, power] = frexp(factor);
  let [mantissa, exponent] = [roundHalfEven(fraction * 2 ** bits), power];
  if (mantissa === 2 ** bits) [mantissa, exponent] = [mantissa / 2, exponent + 1];
  const shift = bits - exponent;
  const product = BigInt(acc) * BigInt(mantissa);
  const result = shiftRight(product, shift);
  // The factor itself is a whole number of 53 bits and a power of two: no rounding before the last.
  const exact = shiftRight(BigInt(acc) * BigInt(fraction * 2 ** 53), 53 - power);
  const stored = mantissa * 2 ** -shift;
  return {
    mantissa, shift, stored, relative_error: (stored - factor) / factor,
    product: Number(product), result: Number(result),
    value: acc * factor, exact: Number(exact), differs: result === exact ? 0 : 1,
    floor: Number(product >> BigInt(shift)),
    twice: Number(shift > bits ? shiftRight((product + (1n << BigInt(bits - 1))) >> BigInt(bits), shift - bits) : result),
  };
}

const EXAMPLES = [
  ["Typical", { factor: 0.00123, bits: 31, acc: 12345 }],
  ["A half", { factor: 0.5, bits: 31, acc: -25 }],
  ["Too few bits", { factor: 0.00123, bits: 6, acc: 60000 }],
  ["Two roundings", { factor: 0.3, bits: 31, acc: 8 }],
];
const whole = (v) => (Math.abs(v) < 1e15 ? v.toLocaleString("en").replace("-", "−") : tidy(v, 6));

const explorable = {
  render({ model, el }) {
    const round4 = (v) => clamp(Number(v.toPrecision(4)), 2 ** -16, 1);
    const controls = {
      factor: slider({ model, name: "factor", label: "Factor M", min: -16, max: 0, step: 0.01, to: (p) => round4(2 ** p), from: Math.log2, text: (v) => tidy(v, 4) }),
      bits: slider({ model, name: "bits", label: "Bits of the mantissa", min: 4, max: 31, step: 1, text: (v) => `${v} bits` }),
      acc: slider({ model, name: "acc", label: "Accumulator", min: -65536, max: 65536, step: 1, text: whole }),
    };
    const examples = buttons({ model, label: "Examples", options: EXAMPLES });
    const [digits, lineSvg] = [0, 1].map(() => node("svg", { "aria-hidden": "true" }));
    const facts = node(
      "div", { class: "qx-facts" },
      fact("accumulator × mantissa", "", output("product"), node("span", {}, "mantissa ", output("mantissa"))),
      fact("shifted right by", "", output("shift"), node("span", {}, "stored factor ", output("stored"), ", off by ", output("relative_error"))),
      fact("● result", "qx-tb", output("result"), node("span", {}, "bare shift ", output("floor"), ", two roundings ", output("twice"))),
      fact("◆ rounded exactly", "qx-tr", output("exact"), node("span", {}, "M × acc = ", output("value")), node("span", {}, output("differs"))),
    );
    const panel = (title, svg) => node("div", { class: "qx-panel" }, node("p", { class: "qx-title" }, title), svg);

    const draw = (state, width) => {
      const r = compute(state);
      for (const [name, c] of Object.entries(controls)) c.sync(state[name]);
      examples.sync(state);
      drawDigits(digits, state, r, width);
      drawLine(lineSvg, state, r, width);
      for (const name of ["mantissa", "product", "result", "exact", "floor", "twice"]) show(facts, name, r[name], whole(r[name]));
      show(facts, "shift", r.shift, `${r.shift} bits`);
      show(facts, "stored", r.stored, tidy(r.stored, 8));
      show(facts, "value", r.value, tidy(r.value, 8));
      show(facts, "relative_error", r.relative_error, tidy(100 * r.relative_error, 2) + " %");
      show(facts, "differs", r.differs, r.differs ? "✗ another code" : "✓ the same code");
      return `result ${r.result}, exact ${r.exact}, ${r.differs ? "they differ" : "equal"}`;
    };

    return mount({
      model, el, draw, names: Object.keys(controls),
      label: "Fixed point: a real factor in two integers",
      children: [
        examples.row,
        node("div", { class: "qx-controls qx-three", style: "margin-top:.6rem" }, controls.factor.row, controls.bits.row, controls.acc.row),
        panel("The mantissa, most significant bit first", digits),
        panel("Where the product lies between two codes", lineSvg),
        facts,
      ],
    });
  },
};

function drawDigits(svg, { bits }, r, width) {
  resize(svg, width, 46);
  const step = (width - 2) / 31;
  const out = [];
  for (let i = 0; i < 31; i++) {
    const kept = i < bits;
    const one = kept && Math.floor(r.mantissa / 2 ** (bits - 1 - i)) % 2 === 1;
    const x = 1 + i * step;
    out.push(node("rect", { x, y: 2, width: step - 1.5, height: 22, style: one ? "fill:#0072b2;stroke:#0072b2" : kept ? "fill:var(--wash);stroke:var(--soft)" : "fill:none;stroke:var(--line)" }));
    // On a phone the cells are too narrow for digits: there the colour alone says it.
    if (kept && step > 14) out.push(node("text", { x: x + step / 2 - 0.75, y: 18, "text-anchor": "middle", style: one ? "fill:#fff" : "" }, one ? "1" : "0"));
  }
  out.push(words(1, 40, `½ = first bit: always 1`, "qx-small", "start"));
  if (bits < 23) out.push(words(width - 1, 40, `${31 - bits} more in qtools`, "qx-small", "end"));
  svg.replaceChildren(...out);
}

function drawLine(svg, { factor, bits, acc }, r, width) {
  const [height, base] = [112, 74];
  resize(svg, width, height);
  const stored = acc * r.stored;
  // Wide enough for both points and their codes.
  const low = Math.floor(Math.min(stored, r.value, r.result, r.exact)) - 1;
  const high = Math.ceil(Math.max(stored, r.value, r.result, r.exact)) + 1;
  const x = (v) => 14 + ((v - low) / (high - low)) * (width - 28);
  const band = Math.abs(r.value) * 2 ** -bits;
  const [left, right] = [clamp(x(r.value - band), 0, width), clamp(x(r.value + band), 0, width)];
  const out = [
    node("rect", { x: left, y: base - 26, width: Math.max(1, right - left), height: 26, style: "fill:color-mix(in srgb, var(--blue) 22%, transparent)" }),
    line(0, base, width, base, "qx-axis"),
  ];
  const every = Math.max(1, Math.ceil((high - low) / (width / 62)));
  for (let k = low; k <= high; k++) {
    if (high - low <= 40) out.push(line(x(k + 0.5), base - 12, x(k + 0.5), base + 12, "qx-cut"));
    if (k % every === 0) {
      const text = whole(k);
      const wide = 4 * text.length;
      out.push(line(x(k), base - 5, x(k), base + 5, "qx-axis"), words(clamp(x(k), wide, width - wide), base + 30, text, "qx-small"));
    }
  }
  const [a, b] = apart(x(stored), x(r.value), 128, width);
  out.push(
    node("circle", { cx: x(stored), cy: base - 8, r: 6, class: "qx-now" }),
    node("path", { d: `M${x(r.value)},${base - 30}l6,8l-6,8l-6,-8z`, style: "fill:var(--red)" }),
    words(a, 14, `● stored ${tidy(stored, 7)}`, "qx-bold qx-b"), words(b, 32, `◆ real ${tidy(r.value, 7)}`, "qx-bold qx-r"),
  );
  svg.replaceChildren(...out);
}
