import { NORMS, format, h, s, widget } from "./base.js";

/** What comes out along one side: size, the quotient before rounding, and the pixels under the kernel at no place. */
export function outputs(W, F, P, S) {
  const exact = (W + 2 * P - F) / S + 1;
  const size = W + 2 * P < F ? 0 : Math.floor(exact);
  const seen = new Set();
  for (let place = 0; place < size; place++) for (let k = 0; k < F; k++) seen.add(place * S + k - P);
  const unseen = Array.from({ length: W }, (_, i) => i).filter((i) => !seen.has(i));
  return { size, exact, unseen };
}

/** The image that is shown: small whole numbers, the same every time. */
export const pixel = (i, j) => (3 * i + 5 * j + i * j) % 10;

/** The kernel that is shown, an edge finder: 1 before its middle column, −1 after it. */
export const weight = (F, m, n) => Math.sign((F - 1) / 2 - n);

/** The pixels under the kernel's place at row i, column j, added up: those under 1, and those under −1. */
export function under(W, F, P, S, i, j) {
  const sums = [0, 0];
  for (let m = 0; m < F; m++)
    for (let n = 0; n < F; n++) {
      const [y, x] = [i * S + m - P, j * S + n - P];
      const by = weight(F, m, n);
      if (by && y >= 0 && y < W && x >= 0 && x < W) sums[by > 0 ? 0 : 1] += pixel(y, x);
    }
  return sums;
}

/** The output at row i, column j: the sum over the kernel's place of pixel times weight. */
export function output(W, F, P, S, i, j) {
  const [plus, minus] = under(W, F, P, S, i, j);
  return plus - minus;
}

function build(stage) {
  stage.slider("stride", "Stride S", { min: 1, max: 4, show: String });
  let timer = 0;
  let size = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Slide";
  };
  const play = stage.button("Slide", () => {
    if (timer) return stop();
    const step = () => stage.set("place", (Math.min(stage.get("place"), size ** 2 - 1) + 1) % Math.max(size ** 2, 1));
    step();
    if (stage.still) return; // one place a press, for those who want no motion
    timer = setInterval(() => (stage.host.isConnected ? step() : stop()), 450);
    play.textContent = "Pause";
  });
  const parent = h("div", { class: "controls" });
  for (const [name, label, min, max] of [
    ["padding", "Padding P", 0, 3],
    ["kernel", "Kernel F", 1, 6],
    ["width", "Image W", 1, 9],
  ])
    stage.slider(name, label, { min, max, show: String, parent });
  const place = stage.slider("place", "Place of the kernel", { min: 0, max: 1, show: (v) => String(v + 1), parent });
  const read = () => h("p", { class: "read", style: "margin: 0; width: 100%; font-variant-numeric: tabular-nums" });
  const [formula, sum] = [read(), read()];
  const svg = s("svg", { role: "img" });
  stage.canvas.append(formula, svg, sum);
  stage.canvas.after(h("details", { class: "more" }, h("summary", {}, "more"), parent));
  stage.onreset(stop);

  return () => {
    const [W, F, P, S] = ["width", "kernel", "padding", "stride"].map((name) => stage.get(name));
    const found = outputs(W, F, P, S);
    size = found.size;
    play.disabled = place.disabled = size < 1;
    place.max = Math.max(size ** 2 - 1, 0);
    const at = Math.min(stage.get("place"), Math.max(size ** 2 - 1, 0));
    place.value = at;
    const [row, column] = size ? [Math.floor(at / size), at % size] : [0, 0];
    const shown = Number.isInteger(found.exact) ? "" : `, rounded down ${size}`;
    const quotient = Number(found.exact.toFixed(2)).toString().replace("-", "−");
    formula.textContent = `(W − F + 2P)/S + 1 = (${W} − ${F} + ${2 * P})/${S} + 1 = ${quotient}${size ? shown : ""}`;
    if (!size) formula.textContent += `. The kernel does not fit: it is larger than the padded image, ${F} > ${W + 2 * P}.`;
    else if (found.unseen.length) formula.textContent += `. Never seen: ${found.unseen.length === 1 ? "column and row" : "columns and rows"} ${found.unseen.join(", ")}.`;

    // Image, kernel and outputs side by side; on a phone the latter two under the image.
    const whole = Math.max(W + 2 * P, F);
    const gap = 1.2;
    const narrow = stage.width < 480;
    const across = narrow ? Math.max(whole, F + gap + size) : whole + F + size + 2 * gap;
    const cell = Math.min(34, (stage.width - 4) / across);
    const head = 18;
    const [below, beside] = narrow ? [whole * cell + head + 10, 0] : [0, (whole + gap) * cell];
    const kernel = { x: beside, y: below + head };
    const out = { x: beside + (F + gap) * cell, y: below + head };
    const width = narrow ? stage.width : out.x + Math.max(size * cell, 60) + 2;
    const height = Math.max(head + whole * cell, below + head + Math.max(F, size) * cell) + 4;
    for (const [name, value] of Object.entries({ width, height, viewBox: `-2 -2 ${width} ${height}` })) svg.setAttribute(name, value);

    const parts = [];
    const box = (x, y, fill, opacity) => parts.push(s("rect", { x: x + 1, y: y + 1, width: cell - 2, height: cell - 2, rx: 2, fill, "fill-opacity": opacity }));
    const number = (x, y, value, attributes = {}) => {
      const text = String(value).replace("-", "−");
      const size = Math.min(12, (1.45 * cell) / Math.max(text.length, 2)); // what stays within its cell
      if (cell >= 15) parts.push(s("text", { x: x + cell / 2, y: y + cell / 2 + size / 3, "text-anchor": "middle", style: `font-size: ${size}px`, ...attributes }, text));
    };
    const name = (x, y, text) => parts.push(s("text", { x: x + 1, y: y - 6, class: "strong" }, text));
    name(0, head, "image");
    name(kernel.x, kernel.y, "kernel");
    if (size) name(out.x, out.y, "outputs");
    for (let i = -P; i < W + P; i++)
      for (let j = -P; j < W + P; j++) {
        const [x, y] = [(j + P) * cell, head + (i + P) * cell];
        const inside = Math.min(i, j) >= 0 && Math.max(i, j) < W;
        const unseen = size && inside && (found.unseen.includes(i) || found.unseen.includes(j));
        box(x, y, NORMS.wn.color, inside ? 0.25 : 0.06);
        number(x, y, inside ? pixel(i, j) : 0, { "fill-opacity": inside && !unseen ? 1 : 0.55 });
        if (unseen)
          parts.push(s("path", { class: "unseen", d: `M${x + 3} ${y + 3}l${cell - 6} ${cell - 6}m0 ${6 - cell}l${6 - cell} ${cell - 6}`, stroke: "currentColor", "stroke-width": 1.2 }));
      }
    const frame = (x, y, side) => parts.push(s("rect", { class: "frame", x, y, width: side, height: side, rx: 3, fill: "none", stroke: NORMS.bn.color, "stroke-width": 3 }));
    frame(column * S * cell, head + row * S * cell, F * cell);
    for (let m = 0; m < F; m++)
      for (let n = 0; n < F; n++) {
        const [x, y] = [kernel.x + n * cell, kernel.y + m * cell];
        box(x, y, "currentColor", 0.12);
        number(x, y, weight(F, m, n), { class: "weight" });
      }
    for (let i = 0; i < size; i++)
      for (let j = 0; j < size; j++) {
        const [x, y] = [out.x + j * cell, out.y + i * cell];
        box(x, y, NORMS.bn.color, 0.22);
        number(x, y, output(W, F, P, S, i, j));
        const target = s("rect", { class: "out", x, y, width: cell, height: cell, fill: "transparent", style: "cursor: pointer" });
        target.addEventListener("pointerenter", () => stage.set("place", i * size + j));
        target.addEventListener("pointerdown", () => stage.set("place", i * size + j));
        parts.push(target);
      }
    if (size) frame(out.x + column * cell, out.y + row * cell, cell);
    svg.replaceChildren(...parts);
    const [plus, minus] = under(W, F, P, S, row, column);
    const text = size
      ? `${size} by ${size} outputs. At row ${row}, column ${column} the pixels under 1 add up to ${plus}, those under −1 to ${minus}: output ${format(plus - minus)}.`
      : "The kernel does not fit; nothing comes out.";
    sum.textContent = text;
    svg.setAttribute("aria-label", `Image, kernel and outputs. ${text}`);
    stage.say(`${formula.textContent} ${text}`);
  };
}

export default widget(build);
