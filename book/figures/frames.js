import { h, s, widget } from "./base.js";

const STRIP = 10; // pixels of the line of frames below

function build(stage) {
  const { size, count, name, alt, height, films } = stage.get("data");
  const [w, tall] = size;
  stage.choice("film", "Show", Object.fromEntries(Object.entries(films).map(([key, { label }]) => [key, label])));
  stage.slider("frame", name, { min: 0, max: count - 1, show: (v) => `${v + 1} of ${count}` });
  const picture = s("image", { width: w, height: tall * count, style: "image-rendering: pixelated" });
  const frame = s("svg", { x: 0, y: 0, viewBox: `0 0 ${w} ${tall}` }, picture);
  const marks = s("g");
  const svg = s("svg", { role: "img" }, frame, marks);
  const read = h("p", { style: "margin: 0; width: 100%" });
  stage.canvas.append(svg, read);

  return () => {
    const film = films[stage.get("film")];
    const at = Math.min(stage.get("frame"), count - 1);
    const scale = Math.min(stage.width / w, height / tall);
    const [wide, high] = [scale * w, scale * tall];
    for (const [key, value] of Object.entries({ width: wide, height: high + STRIP })) {
      svg.setAttribute(key, value);
      frame.setAttribute(key, key === "width" ? wide : high);
    }
    if (picture.getAttribute("href") !== film.sprite) picture.setAttribute("href", film.sprite);
    picture.setAttribute("y", -tall * at);
    const part = wide / count;
    marks.replaceChildren(
      s("rect", { x: 0.5, y: 0.5, width: wide - 1, height: high - 1, fill: "none", stroke: "currentColor", "stroke-opacity": 0.4 }),
      ...Array.from({ length: count }, (_, i) => s("rect", { x: i * part, y: high + 4, width: Math.max(part - 1, 0.5), height: 5, fill: i === at ? "var(--accent)" : "currentColor", "fill-opacity": i === at ? 1 : 0.2 })),
    );
    const text = film.notes[at];
    read.textContent = text;
    svg.setAttribute("aria-label", `${alt} ${film.label}: ${text}`);
    stage.say(text);
  };
}

export default widget(build);
