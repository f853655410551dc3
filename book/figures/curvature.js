import { Axes, NORMS, format, h, power, s, widget } from "./base.js";

const STEPS = 60; // that are drawn
const SIDE = 1.3; // the start stays so near to the minimum
const FAR = 8 * SIDE; // and the plane reaches no further than that
const FLOOR = 1e-12; // of the loss that is drawn: a distance a million times smaller
const TOP = 1e6; // where a descent diverges

const times = (M, [x, y]) => [M[0][0] * x + M[0][1] * y, M[1][0] * x + M[1][1] * y];
const product = (M, N) => [0, 1].map((i) => [0, 1].map((j) => M[i][0] * N[0][j] + M[i][1] * N[1][j]));

/** The curvature H with eigenvalues 1 and kappa; the flat direction is turned by an angle in degrees. */
export function bowl(kappa, angle) {
  const [c, d] = [Math.cos((angle * Math.PI) / 180), Math.sin((angle * Math.PI) / 180)];
  return [[c * c + kappa * d * d, (1 - kappa) * c * d], [(1 - kappa) * c * d, d * d + kappa * c * c]];
}

/** The coordinates u with w = A u: the symmetric matrix A of each choice. */
export const COORDINATES = {
  plain: () => [[1, 0], [0, 1]],
  scaled: (H) => [[H[0][0] ** -0.5, 0], [0, H[1][1] ** -0.5]],
  root: ([[a, b], [, d]]) => {
    // The root of H is (H + √det I) / √(trace + 2 √det); this is its inverse.
    const det = Math.sqrt(a * d - b * b);
    const scale = 1 / (det * Math.sqrt(a + d + 2 * det));
    return [[(d + det) * scale, -b * scale], [-b * scale, (a + det) * scale]];
  },
};

/** What descent does in coordinates A: condition number, learning rate, and the largest factor on the error of a step. */
export function plan(H, A, fraction) {
  const [[a, b], [, d]] = product(product(A, H), A); // A is symmetric
  const [middle, spread] = [(a + d) / 2, Math.hypot((a - d) / 2, b)];
  const [low, high] = [middle - spread, middle + spread];
  const eta = fraction == null ? 2 / (low + high) : (fraction * 2) / high;
  return { condition: high / low, eta, rho: Math.max(Math.abs(1 - eta * low), Math.abs(1 - eta * high)) };
}

/** The path of w while u goes downhill: w − η A A′ H w, (steps + 1) points. */
export function descend(H, A, start, eta, steps) {
  const M = product(product(A, A), H);
  const path = [start];
  for (let k = 0; k < steps; k++) path.push(path[k].map((x, i) => x - eta * times(M, path[k])[i]));
  return path;
}

/** Steps until the minimum is so much closer; null where that takes more than the limit or never comes. */
export function stepsNeeded(H, A, start, eta, share = 1e-6, limit = 20000) {
  const M = product(product(A, A), H);
  const goal = share * Math.hypot(...start) * (1 + 1e-9);
  let [x, y] = start;
  for (let step = 0; step <= limit; step++) {
    const size = Math.hypot(x, y);
    if (size <= goal) return step;
    if (!(size < 1e150)) return null;
    const [dx, dy] = times(M, [x, y]);
    [x, y] = [x - eta * dx, y - eta * dy];
  }
  return null;
}

/** The same from the factor alone: ln(1/share) / −ln ρ, rounded up. */
export function stepsTold(rho, share = 1e-6) {
  if (rho >= 1) return null;
  return Math.max(1, Math.ceil(Math.log(share) / Math.log(rho) - 1e-9));
}

/** The loss of every point, relative to the first. */
export function losses(H, path) {
  const f = ([x, y]) => (H[0][0] * x * x + 2 * H[0][1] * x * y + H[1][1] * y * y) / 2;
  return path.map((w) => f(w) / f(path[0]));
}

/** How far the plane reaches: SIDE, or what the paths that come to rest need, in steps, so that it doesn't change with every pixel. */
export function reach(paths) {
  const far = Math.max(0, ...paths.flat(2).map(Math.abs)) * 1.05;
  return far <= SIDE ? SIDE : Math.min(FAR, SIDE * 1.4 ** Math.ceil(Math.log(far / SIDE) / Math.log(1.4)));
}

const LOOKS = {
  plain: { name: "plain", color: NORMS.bn.color, dash: "5 3", mark: "circle" },
  scaled: { name: "each axis scaled", color: NORMS.wn.color, dash: "", mark: "square" },
  root: { name: "H to the −1/2", color: NORMS.wn_mobn.color, dash: "8 2 2 2", mark: "triangle" },
};

const SHAPES = { circle: "M-2.8 0A2.8 2.8 0 1 0 2.8 0A2.8 2.8 0 1 0 -2.8 0Z", square: "M-2.8 -2.8H2.8V2.8H-2.8Z", triangle: "M0 -3.8L3.6 2.8H-3.6Z" };
const dot = (look, x, y) => s("path", { d: SHAPES[look.mark], transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, fill: look.color });

function build(stage) {
  const kappas = [1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100];
  stage.slider("kappa", "Condition number κ", { values: kappas });
  stage.slider("angle", "Turned by", { min: 0, max: 90, show: (v) => `${format(v)}°` });
  const parent = h("div", { class: "controls" });
  stage.toggle("best", "Best learning rate for each", { parent });
  const rate = stage.slider("rate", "Learning rate / limit", { min: 0.05, max: 1.2, step: 0.01, show: (v) => v.toFixed(2), parent });
  stage.canvas.after(h("details", { class: "more" }, h("summary", {}, "more"), parent));
  stage.bind("start");
  const plane = new Axes(stage, { label: "Paths of gradient descent over contours of the loss", margin: { left: 38, bottom: 24 } });
  const curve = new Axes(stage, { label: "Loss by step, on a logarithmic scale", margin: { left: 58 } });
  const table = h("table");
  stage.canvas.append(table);
  const within = (v) => Math.round(Math.max(-SIDE, Math.min(SIDE, v)) * 100) / 100;
  const handle = plane.handle("Start", (x, y) => stage.set("start", [within(x), within(y)]));
  let half = SIDE;
  let held = false; // while the start is, the plane keeps still under the pointer
  plane.front.addEventListener("pointerdown", () => (held = true));
  plane.front.addEventListener("lostpointercapture", () => {
    held = false;
    stage.redraw();
  });

  return () => {
    const [kappa, angle, start, best] = ["kappa", "angle", "start", "best"].map((name) => stage.get(name));
    rate.disabled = best;
    const H = bowl(kappa, angle);
    const runs = Object.keys(LOOKS).map((key) => {
      const A = COORDINATES[key](H);
      const told = plan(H, A, best ? null : stage.get("rate"));
      const path = descend(H, A, start, told.eta, STEPS);
      return { ...told, look: LOOKS[key], path, loss: losses(H, path), steps: stepsNeeded(H, A, start, told.eta) };
    });

    const wide = stage.width >= 560;
    const side = wide ? Math.min(0.5 * stage.width, 400) : stage.width;
    if (!held) half = reach(runs.filter((run) => run.rho <= 1).map((run) => run.path));
    plane.frame({ x: [-half, half], y: [-half, half], width: side, height: side - 10 });
    contours(plane, kappa, angle, half);
    for (const { look, path } of runs.toReversed()) {
      plane.line(path, { stroke: look.color, "stroke-dasharray": look.dash, "stroke-width": 1.4 });
      const near = path.filter(([x, y]) => Math.abs(x) < 2 * half && Math.abs(y) < 2 * half);
      plane.marks.append(...near.map(([x, y]) => dot(look, plane.x(x), plane.y(y))));
    }
    const [x, y] = [plane.x(0), plane.y(0)];
    plane.marks.append(s("path", { d: `M${x - 6} ${y}h12M${x} ${y - 6}v12`, stroke: "currentColor", "stroke-width": 2 }));
    handle.put(...start);

    const diverges = runs.some((run) => run.rho > 1);
    const width = wide ? stage.width - side - 12 : stage.width;
    // Above 1 there is room for the name of a line that hardly falls.
    curve.frame({ x: [0, STEPS], y: [FLOOR, diverges ? TOP : 10], yLog: true, xLabel: "step", yLabel: "loss / loss at the start", width, height: wide ? side - 10 : 250, show: power });
    for (const i of [2, 1, 0]) drawLoss(curve, runs[i], i); // plain over the others, should they agree
    table.replaceChildren(...rows(runs));
    stage.say(runs.map((run) => `${run.look.name}: condition number ${format(run.condition)}, steps ${inSteps(run)}`).join("; "));
  };
}

function contours(axes, kappa, angle, half) {
  const unit = axes.x(1) - axes.x(0);
  for (let k = 0; k < 9; k++) {
    const flat = half * Math.sqrt(kappa) * 10 ** (-1.4 + 0.2 * k);
    const [cx, cy] = [axes.x(0), axes.y(0)];
    const shape = { rx: flat * unit, ry: (flat / Math.sqrt(kappa)) * unit, transform: `translate(${cx} ${cy}) rotate(${-angle})` };
    axes.marks.append(s("ellipse", { ...shape, fill: "none", stroke: "currentColor", "stroke-opacity": 0.3, "stroke-width": 0.9 }));
  }
}

function drawLoss(axes, { look, loss, rho }, i) {
  const points = loss.map((value, k) => [k, Math.max(value, 1e-60)]);
  axes.line(points.map(([k]) => [k, rho ** (2 * k)]), { stroke: look.color, "stroke-opacity": 0.3, "stroke-width": 6 });
  axes.line(points, { stroke: look.color, "stroke-dasharray": look.dash });
  const seen = points.filter(([, value]) => value >= FLOOR && value <= TOP);
  const marked = seen.filter(([k]) => k % 5 === 0);
  axes.marks.append(...marked.map(([k, value]) => dot(look, axes.x(k), axes.y(value))));
  const [k, value] = seen[seen.length >> 1] ?? [0, 1];
  // Beside its line, one label on either side of it; beside the foot of one that falls at once.
  const side = (i ? -1 : 1) * (rho > 1 ? -1 : 1);
  const width = 7.5 * look.name.length; // within the frame, wherever its line leads
  const at = k < 6 ? axes.x(seen.length) + 4 : axes.x(k) + (side > 0 ? 9 : -9 - width);
  const x = Math.max(axes.box.x0 + 4, Math.min(axes.box.x1 - width, at));
  const y = k < 6 ? axes.y(FLOOR * 10 ** [3.4, 2, 0.6][i]) : axes.y(value) + (i ? 18 : -8);
  axes.marks.append(s("text", { class: "strong", x, y: Math.max(axes.box.y1 + 12, Math.min(axes.box.y0 - 4, y)) }, look.name));
}

function inSteps({ rho, steps }) {
  if (steps != null) return String(steps);
  return rho > 1 ? "diverges" : rho > 1 - 1e-9 ? "never arrives" : "over 20000";
}

function rows(runs) {
  const head = runs.map(({ look }) => {
    const sample = s("svg", { width: 30, height: 12, "aria-hidden": "true", style: "display:inline;vertical-align:middle;margin-right:6px" });
    sample.append(s("path", { d: "M0 6H30", stroke: look.color, "stroke-dasharray": look.dash, "stroke-width": 2 }), dot(look, 15, 6));
    return h("th", { scope: "col" }, sample, look.name);
  });
  const lines = Object.entries({
    "condition number": (run) => format(run.condition),
    "steps to a millionth of the distance": inSteps,
    "the same by ln 10⁶ / −ln ρ": (run) => format(stepsTold(run.rho), 5),
  }).map(([name, cell]) => h("tr", {}, h("th", { scope: "row" }, name), runs.map((run) => h("td", {}, cell(run)))));
  return [h("thead", {}, h("tr", {}, h("td"), head)), h("tbody", {}, lines)];
}

export default widget(build);
