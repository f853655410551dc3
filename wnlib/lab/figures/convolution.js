import { NORMS, h, s, widget } from "./base.js";

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

/** The kernel that is shown: what is left less what is right. */
export const weight = (F, m, n) => Math.sign((F - 1) / 2 - n);

/** The output at row i, column j: the sum over the kernel's place of pixel times weight. */
export function output(W, F, P, S, i, j) {
  let sum = 0;
  for (let m = 0; m < F; m++)
    for (let n = 0; n < F; n++) {
      const [y, x] = [i * S + m - P, j * S + n - P];
      if (y >= 0 && y < W && x >= 0 && x < W) sum += pixel(y, x) * weight(F, m, n);
    }
  return sum;
}

function build(stage) {
  for (const [name, label, min, max] of [
    ["width", "Image W", 1, 9],
    ["kernel", "Kernel F", 1, 6],
    ["padding", "Padding P", 0, 3],
    ["stride", "Stride S", 1, 4],
  ])
    stage.slider(name, label, { min, max, show: String });
  const place = stage.slider("place", "Place of the kernel", { min: 0, max: 1, show: (v) => String(v + 1) });
  const formula = h("p", { class: "read", style: "margin: 0; width: 100%; font-variant-numeric: tabular-nums" });
  const svg = s("svg", { role: "img" });
  stage.canvas.append(formula, svg);
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

    const whole = Math.max(W + 2 * P, F);
    const gap = 1.2;
    const narrow = stage.width < 480;
    const cell = Math.min(34, stage.width / (narrow ? Math.max(whole, size) : whole + gap + size));
    const left = narrow ? 0 : (whole + gap) * cell;
    const top = narrow ? (whole + gap) * cell : 0;
    const [width, height] = [narrow ? stage.width : left + size * cell + 2, Math.max(whole * cell, top + size * cell) + 4];
    for (const [name, value] of Object.entries({ width, height, viewBox: `-2 -2 ${width} ${height}` })) svg.setAttribute(name, value);

    const parts = [];
    const box = (x, y, fill, opacity) => parts.push(s("rect", { x: x + 1, y: y + 1, width: cell - 2, height: cell - 2, rx: 2, fill, "fill-opacity": opacity }));
    const number = (x, y, text, attributes = {}) => {
      if (cell >= 15) parts.push(s("text", { x: x + cell / 2, y: y + cell / 2 + 4, "text-anchor": "middle", ...attributes }, String(text).replace("-", "−")));
    };
    for (let i = -P; i < W + P; i++)
      for (let j = -P; j < W + P; j++) {
        const [x, y] = [(j + P) * cell, (i + P) * cell];
        const inside = Math.min(i, j) >= 0 && Math.max(i, j) < W;
        box(x, y, NORMS.wn.colour, inside ? 0.25 : 0.06);
        number(x, y, inside ? pixel(i, j) : 0, { "fill-opacity": inside ? 1 : 0.55 });
        if (size && inside && (found.unseen.includes(i) || found.unseen.includes(j)))
          parts.push(s("path", { class: "unseen", d: `M${x + 3} ${y + 3}l${cell - 6} ${cell - 6}m0 ${6 - cell}l${6 - cell} ${cell - 6}`, stroke: "currentColor", "stroke-width": 1.2 }));
      }
    const frame = (x, y, side) => parts.push(s("rect", { class: "frame", x, y, width: side, height: side, rx: 3, fill: "none", stroke: NORMS.bn.colour, "stroke-width": 3 }));
    frame(column * S * cell, row * S * cell, F * cell);
    if (cell >= 24)
      for (let m = 0; m < F; m++)
        for (let n = 0; n < F; n++) {
          const corner = { x: (column * S + n + 1) * cell - 3, y: (row * S + m + 1) * cell - 4, "text-anchor": "end", style: "font-size: 9px" };
          parts.push(s("text", { class: "weight", ...corner }, `×${weight(F, m, n)}`.replace("-", "−")));
        }
    for (let i = 0; i < size; i++)
      for (let j = 0; j < size; j++) {
        const [x, y] = [left + j * cell, top + i * cell];
        box(x, y, NORMS.bn.colour, 0.22);
        number(x, y, output(W, F, P, S, i, j));
        const target = s("rect", { class: "out", x, y, width: cell, height: cell, fill: "transparent", style: "cursor: pointer" });
        target.addEventListener("pointerenter", () => stage.set("place", i * size + j));
        target.addEventListener("pointerdown", () => stage.set("place", i * size + j));
        parts.push(target);
      }
    if (size) frame(left + column * cell, top + row * cell, cell);
    svg.replaceChildren(...parts);
    const text = size
      ? `${size} by ${size} outputs; the kernel at row ${row}, column ${column} gives ${output(W, F, P, S, row, column)}.`
      : "The kernel does not fit; nothing comes out.";
    svg.setAttribute("aria-label", `Image, kernel and outputs. ${text}`);
    stage.say(`${formula.textContent} ${text}`);
  };
}

export default widget(build);
