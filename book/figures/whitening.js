import { Axes, NORMS, format, h, power, s, widget } from "./base.js";

/** The variance after whitening along directions of variance `seen` where the training images have `fitted`. */
export const whitened = (seen, fitted, r) => seen / (fitted + r);

/** Steps through bins [edge, next edge] at the bins' heights; what is not above zero is left out. */
export function steps(edges, heights) {
  return heights.flatMap((v, i) => [
    [edges[i], v > 0 ? v : null],
    [edges[i + 1], v > 0 ? v : null],
  ]);
}

function build(stage) {
  const data = stage.get("data");
  const { edges, variances, spreads, regularizations, classes, sprite } = data;
  const parts = Object.keys(variances);
  const rows = regularizations.length + 1;
  stage.choice("part", "Images", { training: "training", test: "test" });
  stage.slider("strength", "Regularization r", {
    min: 0,
    max: regularizations.length - 1,
    show: (i) => format(regularizations[i]),
  });
  const svg = s("svg", { role: "img" });
  const read = h("p", { class: "read", style: "margin: 0; width: 100%" });
  stage.canvas.append(svg, read);
  const axes = new Axes(stage, { label: "Variance by direction, before and after whitening", margin: { left: 58 } });
  const look = { training: { stroke: NORMS.wn.color }, test: { stroke: NORMS.bn.color, "stroke-dasharray": NORMS.bn.dash } };

  return () => {
    const [part, strength] = [stage.get("part"), stage.get("strength")];
    const r = regularizations[strength];
    const n = classes.length;
    const narrow = stage.width < 480;
    const lines = narrow ? 2 : 1;
    const gap = 10;
    const tile = Math.min(104, (stage.width - gap) / (narrow ? n : 2 * n) - 4);
    const height = lines * (tile + 24);
    for (const [name, value] of Object.entries({ width: stage.width, height, viewBox: `0 0 ${stage.width} ${height}` })) svg.setAttribute(name, value);
    const tiles = [0, strength + 1].flatMap((row, k) => {
      const [left, top] = narrow ? [0, k * (tile + 24)] : [k * (n * (tile + 4) + gap), 0];
      const label = s("text", { x: left, y: top + 13, class: "strong" }, k ? `whitened, r = ${format(r)}` : `raw ${part} images`);
      return [
        label,
        ...classes.map((_, c) => {
          const column = c + (part === "test" ? n : 0);
          const view = { x: left + c * (tile + 4), y: top + 20, width: tile, height: tile, viewBox: `${33 * column} ${33 * row} 32 32` };
          return s("svg", view, s("image", { href: sprite, width: 33 * n * parts.length, height: 33 * rows, style: "image-rendering: pixelated" }));
        }),
      ];
    });
    svg.replaceChildren(...tiles);

    const after = (name) => variances[name].map((v, i) => whitened(v, variances.training[i], r));
    axes.frame({ x: [1, edges.at(-1)], y: [1e-6, 1e3], xLog: true, yLog: true, xLabel: "direction, by falling training variance", yLabel: "variance", height: 260, show: power });
    axes.line([[1, 1], [edges.at(-1), 1]], { "stroke-opacity": 0.5, "stroke-width": 1 });
    for (const name of [...parts].sort((a) => (a === part ? 1 : -1))) {
      const strong = name === part ? 1 : 0.65;
      axes.line(steps(edges, variances[name]), { ...look[name], "stroke-width": 1, "stroke-opacity": strong });
      axes.line(steps(edges, after(name)), { ...look[name], "stroke-width": 2.8, "stroke-opacity": strong });
    }
    const at = axes.box.x0 + 8;
    parts.forEach((name, i) => {
      const y = axes.box.y0 - 10 - 16 * (parts.length - 1 - i);
      axes.marks.append(s("path", { ...look[name], "stroke-width": 2.8, d: `M${at} ${y - 4}h26` }), s("text", { x: at + 32, y }, name));
    });
    const [train, test] = spreads[strength];
    const text = `At r = ${format(r)} a whitened pixel has a standard deviation of ${format(train)} in the training images and of ${format(test)} in the test images.`;
    read.textContent = text;
    svg.setAttribute("aria-label", `Three ${part} images (${classes.join(", ")}), raw and whitened with r = ${format(r)}.`);
    stage.say(text);
  };
}

export default widget(build);
