// The stage that every figure plays on: controls bound to a model, SVG axes, caption, reset.
// Where there is a kernel the model is the widget's; on a page without one, Model stands in for it.

// The configurations' colors and dashes are those of figures/plots.py (a test compares them).
export const NORMS = {
  none: { label: "plain", color: "#7f7f7f", dash: "1.6 1.6" },
  wn: { label: "weight norm", color: "#2288CC", dash: "" },
  mobn: { label: "mean-only BN", color: "#CC79A7", dash: "10.24 2.56 1.6 2.56" },
  bn: { label: "batch norm", color: "#D55E00", dash: "5.92 2.56" },
  wn_mobn: { label: "WN + mean-only BN", color: "#009E73", dash: "8 1.6 1.6 1.6 1.6 1.6" },
};

const STYLE = `
:host { display: block; }
* { box-sizing: border-box; }
figure { margin: 0.5rem 0 1rem; padding: 0.75rem; border: 1px solid var(--line); border-radius: 8px;
  --line: color-mix(in srgb, currentColor 25%, transparent); --accent: #0072B2; --on-accent: #fff;
  accent-color: var(--accent); font-size: 0.9rem; line-height: 1.4; max-width: 100%; }
figure[data-dark] { --accent: #56B4E9; --on-accent: #10181e; color-scheme: dark; }
.head { display: flex; gap: 0.75rem; justify-content: space-between; align-items: start; }
.head strong { font-size: 1.02em; }
.controls { display: flex; flex-wrap: wrap; gap: 0.4rem 1.25rem; align-items: center; margin: 0.5rem 0; }
.controls:empty { display: none; }
label { flex-wrap: nowrap; }
fieldset { flex-wrap: wrap; }
label, fieldset { display: inline-flex; gap: 0.2rem 0.5rem; align-items: center; min-height: 32px;
  max-width: 100%; }
fieldset { border: 0; margin: 0; padding: 0; }
legend { display: contents; }
input[type="range"] { flex: 1 1 5rem; width: 9.5rem; min-width: 5rem; max-width: 9.5rem; height: 28px; margin: 0; cursor: pointer; }
input[type="radio"], input[type="checkbox"] { margin: 0; width: 1rem; height: 1rem; cursor: pointer; }
.chip { gap: 0.35rem; padding: 0 0.6rem; border: 1px solid var(--line); border-radius: 999px; cursor: pointer; }
.chip:has(:checked) { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.transport .play { min-width: 7.6em; white-space: nowrap; flex: none; }
.transport output { white-space: nowrap; }
input.bar { flex: 1 1 11rem; max-width: none; }
output { font-variant-numeric: tabular-nums; min-width: 2.5em; }
select { min-width: 0; max-width: 100%; text-overflow: ellipsis; }
details { width: 100%; }
summary { cursor: pointer; min-height: 32px; padding: 0.3rem 0; width: fit-content; }
button, select { font: inherit; color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 6px;
  min-height: 32px; padding: 0 0.7rem; cursor: pointer; }
option { color: #1f2328; background: #fff; }
button:hover, .chip:hover { border-color: currentColor; }
button[disabled] { opacity: 0.5; cursor: default; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
figcaption { margin-top: 0.5rem; }
.canvas { position: relative; display: flex; flex-wrap: wrap; gap: 0.75rem; max-width: 100%; }
svg { display: block; overflow: hidden; touch-action: pan-y; max-width: 100%; }
svg text { fill: currentColor; font-size: 12px; font-family: inherit; }
svg text.strong { font-weight: 600; }
svg .grid { stroke: currentColor; stroke-opacity: 0.13; }
svg .axis { stroke: currentColor; stroke-opacity: 0.6; fill: none; }
svg .handle { cursor: grab; touch-action: none; }
svg .handle:active { cursor: grabbing; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15em 0.7em; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400; }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; }
.scroll { overflow-x: auto; max-width: 100%; max-height: 24rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.message { padding: 1.5rem 0; width: 100%; text-align: center; }
`;

// Where the site's script lies; in a widget there is no such file.
const HERE = globalThis.document?.currentScript?.src ?? "";
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  // Strings become text, never markup: names come from records.
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

/** An HTML element; attributes that begin with "on" are listeners. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A number as people read it: some significant digits, a real minus sign. */
export function format(value, digits = 3) {
  if (value == null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  let text = Number(value.toPrecision(digits));
  const size = Math.abs(text);
  text = size && (size < 1e-4 || size >= 1e7) ? text.toExponential() : String(text);
  return text.replaceAll("-", "−");
}

/** A tick of a logarithmic axis, powers of ten as such. */
export function power(value) {
  const digits = String(Math.round(Math.log10(value))).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  return value && (value < 0.1 || value > 100) ? `10${digits}` : format(value);
}

/** Round numbers from low to high, about `count` of them; two at least, since one alone tells no scale. */
export function ticks(low, high, count = 5) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= rough * 0.999);
  const result = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * span; k++)
    result.push(Number((k * step).toPrecision(12)));
  return result.length < 2 ? ticks(low, high, count + 1) : result;
}

/** Powers of ten from low to high: 1, 2, 5 times them where there are few, not all where there are many. */
export function logTicks(low, high) {
  const result = [];
  const decades = Math.log10(high / low);
  const wide = decades > 2.5;
  const every = Math.ceil(decades / 10) || 1;
  for (let k = every * Math.floor(Math.log10(low) / every); k <= Math.ceil(Math.log10(high)); k += every)
    for (const m of wide ? [1] : [1, 2, 5]) {
      const value = Number((m * 10 ** k).toPrecision(6));
      if (value >= low * 0.999 && value <= high * 1.001) result.push(value);
    }
  return result.length ? result : [low, high];
}

/** Stands in for the widget's model where there is no kernel: same names, same events. */
export class Model {
  #state;
  #heard = {};

  constructor(state) {
    this.#state = { ...state };
  }

  get(name) {
    return this.#state[name];
  }

  set(name, value) {
    if (this.#state[name] === value) return;
    this.#state[name] = value;
    for (const listener of this.#heard[`change:${name}`] ?? []) listener();
  }

  on(event, listener) {
    (this.#heard[event] ??= new Set()).add(listener);
  }

  off(event, listener) {
    this.#heard[event]?.delete(listener);
  }

  save_changes() {}
}

/** Where a figure is put together: `build(stage)` adds controls and axes and returns its draw function. */
export class Stage {
  #first = {}; // what reset goes back to
  #syncs = [];
  #undo = [];
  #queued = false;
  #saying = 0;
  #resets = [];

  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.axes = 0;
    this.controls = h("div", { class: "controls" });
    this.canvas = h("div", { class: "canvas" });
    this.caption = h("figcaption", { id: "caption" }, model.get("caption"));
    this.status = h("p", { class: "hidden", role: "status" });
    const reset = h("button", { type: "button", onclick: () => this.reset() }, "Reset");
    this.head = h("div", { class: "head" }, h("strong", { id: "title" }, model.get("title")), reset);
    this.figure = h(
      "figure",
      { "aria-labelledby": "title" },
      this.head,
      this.controls,
      this.canvas,
      this.status,
      this.caption,
    );
    // A root of its own keeps the page's style out; Jupyter's shortcuts stay out by the attribute.
    this.host = h("div", { "data-lm-suppress-shortcuts": "true" });
    this.host.addEventListener("keydown", (event) => event.stopPropagation());
    this.host.attachShadow({ mode: "open" }).append(h("style", {}, STYLE), this.figure);
    el.append(this.host);
    this.#followTheme();
  }

  /** The width there is to draw in, in whole pixels: rounded up, two panels would not fit beside each other. */
  get width() {
    return Math.max(Math.floor(parseFloat(getComputedStyle(this.canvas).width)) || 640, 240);
  }

  get(name) {
    return this.model.get(name);
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  /** Follow a trait: redraw when it changes, go back to its first value on reset. */
  bind(name, sync = () => {}) {
    if (!(name in this.#first)) {
      this.#first[name] = this.get(name);
      this.listen(name);
    }
    this.#syncs.push(sync);
  }

  /** Redraw when a trait changes; reset leaves it alone. */
  listen(name, listener = () => this.redraw()) {
    this.model.on(`change:${name}`, listener);
    this.#undo.push(() => this.model.off(`change:${name}`, listener));
  }

  slider(name, label, { min, max, step = 1, values, show = (v) => format(v), parent = this.controls } = {}) {
    const place = (v) => (values ? values.reduce((best, w, i) => (Math.abs(w - v) < Math.abs(values[best] - v) ? i : best), 0) : v);
    const range = values ? { min: 0, max: values.length - 1, step: 1 } : { min, max, step };
    const input = h("input", { type: "range", ...range, "aria-label": label, "data-name": name });
    const output = h("output", { "aria-hidden": "true" });
    input.addEventListener("input", () => this.set(name, values ? values[Number(input.value)] : Number(input.value)));
    this.bind(name, () => {
      input.value = place(this.get(name));
      output.textContent = show(this.get(name));
      input.setAttribute("aria-valuetext", output.textContent);
    });
    parent.append(h("label", {}, label, input, output));
    return input;
  }

  /** One of several, as radio buttons; options: value → text. */
  choice(name, label, options, { parent = this.controls } = {}) {
    const inputs = Object.entries(options).map(([value, text]) => {
      const input = h("input", { type: "radio", name, value, onchange: () => this.set(name, value) });
      return [input, h("label", { class: "chip" }, input, text)];
    });
    this.bind(name, () => inputs.forEach(([input]) => (input.checked = input.value === String(this.get(name)))));
    parent.append(h("fieldset", { "data-name": name }, h("legend", {}, label), inputs.map(([, chip]) => chip)));
  }

  /** One of several, in a menu; options: value → text. */
  select(name, label, options, { parent = this.controls, number = false } = {}) {
    const items = Object.entries(options).map(([value, text]) => h("option", { value }, text));
    const set = () => this.set(name, number ? Number(input.value) : input.value);
    const input = h("select", { "data-name": name, onchange: set }, items);
    this.bind(name, () => (input.value = this.get(name)));
    parent.append(h("label", {}, label, input));
    return input;
  }

  toggle(name, label, { parent = this.controls } = {}) {
    const input = h("input", { type: "checkbox", "data-name": name });
    input.addEventListener("change", () => this.set(name, input.checked));
    this.bind(name, () => (input.checked = this.get(name)));
    parent.append(h("label", { class: "chip" }, input, label));
    return input;
  }

  button(label, onclick, { parent = this.controls } = {}) {
    const button = h("button", { type: "button", onclick }, label);
    parent.append(button);
    return button;
  }

  /** Tell those who don't see it, once it has come to rest. */
  say(text) {
    clearTimeout(this.#saying);
    this.#saying = setTimeout(() => {
      if (this.status.textContent !== text) this.status.textContent = text;
    }, 400);
  }

  /** Also do this on reset, before the traits go back. */
  onreset(action) {
    this.#resets.push(action);
  }

  reset() {
    for (const action of this.#resets) action();
    for (const [name, value] of Object.entries(this.#first)) this.model.set(name, value);
    this.model.save_changes();
    this.redraw();
    this.say("Reset.");
  }

  start(draw) {
    const all = () => {
      for (const sync of this.#syncs) sync();
      draw();
    };
    this.draw = () => {
      try {
        all();
      } catch (error) {
        console.error(error);
        this.message(`This figure could not be drawn: ${error.message}`);
      }
    };
    all();
    let width = this.width;
    const observer = new ResizeObserver(() => {
      if (this.width !== width) this.redraw();
      width = this.width;
    });
    observer.observe(this.canvas);
    this.#undo.push(() => observer.disconnect());
  }

  /** Draw again with the next frame. */
  redraw() {
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame(() => {
      this.#queued = false;
      this.draw?.();
    });
  }

  /** Say in the figure's place why there is nothing to see; "" takes it back. */
  message(text) {
    this.note ??= h("p", { class: "message" });
    this.note.textContent = text;
    if (text) this.canvas.append(this.note);
    else this.note.remove();
  }

  /** Also do this when the figure goes. */
  onclose(action) {
    this.#undo.push(action);
  }

  close() {
    for (const undo of this.#undo) undo();
    this.draw = null;
    this.host.remove();
  }

  // Whatever the page calls its themes: where text is light, the theme is dark.
  #followTheme() {
    const look = () => {
      const color = getComputedStyle(this.host).color;
      if (!color) return; // a widget is drawn before it is in its page
      const [r, g, b] = color.match(/[\d.]+/g).map(Number);
      const dark = 0.299 * r + 0.587 * g + 0.114 * b > 127;
      if (dark !== this.dark) {
        this.dark = dark;
        this.figure.toggleAttribute("data-dark", dark);
        this.redraw();
      }
    };
    const arrived = new ResizeObserver(look);
    arrived.observe(this.host);
    const observer = new MutationObserver(look);
    for (const node of [document.documentElement, document.body]) observer.observe(node, { attributes: true });
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", look);
    this.#undo.push(...[arrived, observer].map((one) => () => one.disconnect()), () => system.removeEventListener("change", look));
    look();
  }
}

// An SVG with axes. `frame` sets scales and ticks; `xTicks` and `yTicks` are [place, text], if they are given.
/** What is drawn goes into `marks`, which `frame` empties. */
export class Axes {
  constructor(stage, { label, parent = stage.canvas, margin = {} } = {}) {
    this.stage = stage;
    this.margin = { top: 12, right: 12, bottom: 38, left: 52, ...margin };
    const clip = `clip${stage.axes++}`;
    this.clip = s("rect");
    this.scaffold = s("g", { "aria-hidden": "true" });
    this.marks = s("g", { "clip-path": `url(#${clip})` });
    this.front = s("g"); // outlives frame(), not clipped: handles, cursors
    this.svg = s("svg", { role: "img", "aria-label": label }, s("clipPath", { id: clip }, this.clip));
    this.svg.append(this.scaffold, this.marks, this.front);
    parent.append(this.svg);
  }

  frame({ x, y, xLabel = "", yLabel = "", xLog = false, yLog = false, xTicks, yTicks, width = this.stage.width, height = 300, show = format }) {
    const { top, right, bottom, left } = this.margin;
    const [x0, x1, y0, y1] = [left, Math.max(width - right, left + 1), height - bottom, top];
    Object.assign(this, { width, height, box: { x0, x1, y0, y1 } });
    const scale = ([low, high], from, to, log) => {
      const t = log ? Math.log : (v) => v;
      const [a, b] = [t(low), t(high) === t(low) ? t(low) + 1 : t(high)];
      const place = (v) => from + ((t(v) - a) / (b - a)) * (to - from);
      place.invert = (pixel) => {
        const u = a + ((pixel - from) / (to - from)) * (b - a);
        return log ? Math.exp(u) : u;
      };
      return place;
    };
    this.x = scale(x, x0, x1, xLog);
    this.y = scale(y, y0, y1, yLog);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) this.svg.setAttribute(name, value);
    fill(this.clip, { x: x0, y: y1, width: x1 - x0, height: Math.max(y0 - y1, 0) }, []);
    const parts = [];
    const numbers = (range, log, count) => (log ? logTicks(...range) : ticks(...range, Math.max(2, count))).map((value) => [value, show(value)]);
    for (const [value, text] of xTicks ?? numbers(x, xLog, (x1 - x0) / 80)) {
      const at = this.x(value);
      parts.push(s("line", { class: "grid", x1: at, x2: at, y1: y0, y2: y1 }));
      parts.push(s("text", { x: at, y: y0 + 15, "text-anchor": "middle" }, text));
    }
    for (const [value, text] of yTicks ?? numbers(y, yLog, (y0 - y1) / 45)) {
      const at = this.y(value);
      parts.push(s("line", { class: "grid", x1: x0, x2: x1, y1: at, y2: at }));
      parts.push(s("text", { x: x0 - 6, y: at + 4, "text-anchor": "end" }, text));
    }
    parts.push(s("path", { class: "axis", d: `M${x0} ${y1}V${y0}H${x1}` }));
    parts.push(s("text", { x: (x0 + x1) / 2, y: height - 6, "text-anchor": "middle" }, xLabel));
    const middle = (y0 + y1) / 2;
    parts.push(s("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, yLabel));
    this.scaffold.replaceChildren(...parts);
    this.marks.replaceChildren();
  }

  /** The path through points [x, y]; where a coordinate is missing, the line breaks. */
  d(points) {
    let open = false;
    let d = "";
    for (const [px, py] of points) {
      const [x, y] = [px == null ? NaN : this.x(px), py == null ? NaN : this.y(py)];
      const there = Number.isFinite(x) && Number.isFinite(y);
      if (there) d += `${open ? "L" : "M"}${x.toFixed(1)} ${Math.max(-1e4, Math.min(1e4, y)).toFixed(1)}`;
      open = there;
    }
    return d;
  }

  line(points, attributes = {}) {
    const path = s("path", { fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linejoin": "round", d: this.d(points), ...attributes });
    this.marks.append(path);
    return path;
  }

  text(x, y, text, attributes = {}) {
    const node = s("text", { x: this.x(x), y: this.y(y), ...attributes }, text);
    this.marks.append(node);
    return node;
  }

  /** A point to drag, or to move by the arrow keys; `moved(x, y)` is given data coordinates. */
  handle(label, moved, { radius = 9, step = 0.05, ...attributes } = {}) {
    const dot = s("circle", { r: radius, fill: "var(--accent)", stroke: "currentColor", ...attributes });
    const node = s("g", { class: "handle", tabindex: 0, role: "application", "aria-roledescription": "point", "aria-label": label }, s("circle", { r: 22, fill: "transparent" }), dot);
    const at = { x: 0, y: 0 };
    // A finger on the point drags it, whichever way; beside it, it scrolls the page.
    node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    node.addEventListener("pointerdown", (event) => {
      node.setPointerCapture(event.pointerId);
      node.focus();
      event.preventDefault();
    });
    node.addEventListener("pointermove", (event) => {
      if (!node.hasPointerCapture(event.pointerId)) return;
      const box = this.svg.getBoundingClientRect();
      moved(this.x.invert(event.clientX - box.left), this.y.invert(event.clientY - box.top));
    });
    node.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!by) return;
      event.preventDefault();
      const size = step * (event.shiftKey ? 5 : 1);
      // From where it is going to be drawn: the next key may come before the next frame.
      Object.assign(at, { x: at.x + size * by[0], y: at.y + size * by[1] });
      moved(at.x, at.y);
      this.stage.redraw();
    });
    this.front.append(node);
    return {
      node,
      /** Put it there, and say where it is. */
      put: (x, y, text = `${label} at ${format(x)}, ${format(y)}; the arrow keys move it`) => {
        Object.assign(at, { x, y });
        node.setAttribute("transform", `translate(${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)})`);
        node.setAttribute("aria-label", text);
      },
    };
  }
}

/** Run another script of the figures, once: what it leaves behind, and the folder that it came from ("" in a widget). */
export function load(stage, name) {
  const left = () => [globalThis.wnParts[name], HERE.replace(/[^/]*$/, "")];
  if (globalThis.wnParts?.[name]) return Promise.resolve(left());
  return new Promise((resolve, reject) => {
    if (HERE) {
      const script = h("script", { src: new URL(`${name}.js`, HERE).href });
      script.addEventListener("load", () => resolve(left()));
      script.addEventListener("error", () => reject(new Error(`${name}.js is missing`)));
      return document.head.append(script);
    }
    if (!stage.model.send) return reject(new Error("there is neither a site nor a kernel"));
    const hear = (message) => {
      if (message.name !== name) return;
      stage.model.off("msg:custom", hear);
      document.head.append(h("script", {}, message.script));
      resolve(left());
    };
    stage.model.on("msg:custom", hear);
    stage.model.send({ load: name });
  });
}

/** The front end of a figure, from the function that builds it. */
export function widget(build) {
  return {
    render({ model, el }) {
      const picture = [...el.childNodes];
      const stage = new Stage(model, el);
      try {
        stage.start(build(stage));
        for (const node of picture) node.remove();
      } catch (error) {
        console.error(error);
        stage.message(`This figure could not be drawn: ${error.message}`);
      }
      el.setAttribute("data-wn-ready", "");
      return () => stage.close();
    },
  };
}

/** Bring to life every figure that stands on the page as a picture with its data; `fronts` by their names. */
export function present(fronts) {
  const all = () => {
    for (const el of document.querySelectorAll("[data-wn-figure]:not([data-wn-ready])"))
      fronts[el.dataset.wnFigure]?.render({ model: new Model(JSON.parse(el.querySelector("script").textContent)), el });
  };
  // Of a figure that is not whole, what comes later would stay beneath.
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", all);
  else all();
}
