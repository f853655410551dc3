import { h, s, widget } from "./base.js";
import { transport } from "./transport.js";

function build(stage) {
  const { size, name, alt, height, rate, films } = stage.get("data");
  const [w, tall] = size;
  stage.choice("film", "Show", Object.fromEntries(Object.entries(films).map(([key, { label }]) => [key, label])));
  const lower = name.toLowerCase();
  const film = transport(stage, {
    name: "frame",
    label: name,
    rate: () => rate,
    still: stage.still,
    words: (frame, end) => `${lower} ${frame + 1} of ${end + 1}`,
    moved: (head) => show(Math.floor(head + 1e-9)),
  });
  const picture = s("image", { width: w, style: "image-rendering: pixelated" });
  const frame = s("svg", { x: 0, y: 0, viewBox: `0 0 ${w} ${tall}` }, picture);
  const border = s("rect", { x: 0.5, y: 0.5, fill: "none", stroke: "currentColor", "stroke-opacity": 0.4 });
  const svg = s("svg", { role: "img" }, frame, border);
  const read = h("p", { style: "margin: 0; width: 100%" });
  stage.canvas.append(svg, read);

  function show(at) {
    const { label, notes } = films[stage.get("film")];
    picture.setAttribute("y", -tall * at);
    read.textContent = notes[at];
    svg.setAttribute("aria-label", `${alt} ${label}: ${notes[at]}`);
    if (!film.playing) stage.say(notes[at]);
  }

  return () => {
    const { notes, sprite } = films[stage.get("film")];
    const scale = Math.min(stage.width / w, height / tall);
    for (const [key, value] of Object.entries({ width: scale * w, height: scale * tall })) {
      for (const node of [svg, frame]) node.setAttribute(key, value);
      border.setAttribute(key, value - 1);
    }
    picture.setAttribute("height", tall * notes.length);
    if (picture.getAttribute("href") !== sprite) picture.setAttribute("href", sprite);
    show(Math.floor(film.put(notes.length - 1, stage.get("frame")) + 1e-9));
  };
}

export default widget(build);
