import { NORMS, h, s, widget } from "./base.js";

const [COLUMNS, ROWS] = [7, 6];
// Cell (column, row) is bit 7 column + row, rows from below; the seventh bit of a column stays empty.
const bit = (column, row) => 1n << BigInt(7 * column + row);
const of = (column) => ((1n << 6n) - 1n) << BigInt(7 * column);
const EACH = Array.from({ length: COLUMNS }, (_, c) => c);
const BOTTOM = EACH.reduce((sum, c) => sum | bit(c, 0), 0n);
const BOARD = EACH.reduce((sum, c) => sum | of(c), 0n);
const MIDDLE_FIRST = [3, 2, 4, 1, 5, 0, 6].map(of);

/** The columns with room. */
export const legal = (mask) => EACH.filter((c) => (mask & of(c)) !== of(c));

/** [mine, mask] after a stone in a column, seen by the other player. */
export const play = ([mine, mask], column) => [mask ^ mine, mask | ((mask + bit(column, 0)) & of(column))];

/** Whether four of these stones stand in a line. */
export function wins(stones) {
  return [1n, 7n, 8n, 6n].some((step) => {
    const pairs = stones & (stones >> step);
    return (pairs & (pairs >> (2n * step))) !== 0n;
  });
}

/** The empty cells that would complete a line of four of these. */
function threats(stones, mask) {
  let found = (stones << 1n) & (stones << 2n) & (stones << 3n);
  for (const step of [7n, 8n, 6n]) {
    const [up, down, up2, down2] = [stones << step, stones >> step, stones << (2n * step), stones >> (2n * step)];
    found |= up & up2 & ((stones << (3n * step)) | down);
    found |= down & down2 & ((stones >> (3n * step)) | up);
  }
  return found & (BOARD ^ mask);
}

/** Whether the player to move gets `worth`, 0 or 1, or more; nobody may have won yet. */
function reaches(mine, mask, worth, known) {
  let cells = (mask + BOTTOM) & BOARD;
  if (!cells) return worth === 0;
  if (threats(mine, mask) & cells) return true;
  const theirs = threats(mask ^ mine, mask);
  const forced = theirs & cells;
  if (forced & (forced - 1n)) return false;
  cells = (forced || cells) & ~(theirs >> 1n);
  const key = 2n * (mine + mask) + BigInt(worth);
  if (!known.has(key))
    known.set(
      key,
      MIDDLE_FIRST.some((column) => cells & column && !reaches(mask ^ mine, mask | (cells & column), 1 - worth, known)),
    );
  return known.get(key);
}

/** What each column leads to for the player to move, if both play perfectly: 1, 0, −1; null where there is no room. */
export function solve([mine, mask], known = new Map()) {
  const open = legal(mask);
  return EACH.map((column) => {
    if (!open.includes(column)) return null;
    const [theirs, after] = play([mine, mask], column);
    if (wins(after ^ theirs)) return 1;
    if (!reaches(theirs, after, 0, known)) return 1;
    return reaches(theirs, after, 1, known) ? -1 : 0;
  });
}

/** Numbers of 16 bits, in base64, as an array. */
export function halves(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
    const word = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    const [power, rest] = [(word >> 10) & 31, word & 1023];
    return (word >> 15 ? -1 : 1) * (power ? 2 ** (power - 15) * (1 + rest / 1024) : (2 ** -14 * rest) / 1024);
  });
}

function convolve(x, inputs, outputs, side, take) {
  const [w, b] = [take(outputs * inputs * side * side), take(outputs)];
  const y = new Float64Array(outputs * 42);
  const pad = (side - 1) / 2;
  for (let o = 0; o < outputs; o++)
    for (let r = 0; r < ROWS; r++)
      for (let c = 0; c < COLUMNS; c++) {
        let sum = b[o];
        for (let i = 0; i < inputs; i++)
          for (let p = 0; p < side; p++)
            for (let q = 0; q < side; q++) {
              const [row, column] = [r + p - pad, c + q - pad];
              if (row >= 0 && row < ROWS && column >= 0 && column < COLUMNS)
                sum += w[((o * inputs + i) * side + p) * side + q] * x[i * 42 + row * COLUMNS + column];
            }
        y[o * 42 + r * COLUMNS + c] = sum;
      }
  return y;
}

/** The tower's probability of each column with room, in percent; null where there is none. Rows from above, as it learned them. */
export function propose({ weights, width, blocks }, [mine, mask]) {
  let at = 0;
  const take = (n) => weights.subarray(at, (at += n));
  const relu = (x) => x.map((v) => Math.max(v, 0));
  const stones = [mine, mask ^ mine].flatMap((board) =>
    Array.from({ length: 42 }, (_, i) => Number((board & bit(i % COLUMNS, ROWS - 1 - Math.floor(i / COLUMNS))) !== 0n)),
  );
  let x = relu(convolve(stones, 2, width, 3, take));
  for (let k = 0; k < blocks; k++) {
    const branch = convolve(relu(convolve(x, width, width, 3, take)), width, width, 3, take);
    x = relu(x.map((v, i) => v + branch[i]));
  }
  x = relu(convolve(x, width, 4, 1, take));
  const [w, b] = [take(COLUMNS * 168), take(COLUMNS)];
  const open = legal(mask);
  const powers = EACH.map((c) => (open.includes(c) ? Math.exp(x.reduce((sum, v, i) => sum + w[c * 168 + i] * v, b[c])) : null));
  const all = powers.reduce((sum, v) => sum + (v ?? 0), 0);
  return powers.map((v) => (v == null ? null : (100 * v) / all));
}

const VALUES = { 1: "win", 0: "draw", "-1": "loss" };
const WORDS = { 1: "a win", 0: "a draw", "-1": "a loss" };
const LOOK = ".column { cursor: pointer; } .column[aria-disabled=true] { cursor: default; } .column:focus-visible { outline-offset: -2px; }";

/** After these columns: the boards, whether the game is over, and the stones. */
export function follow(pair, moves) {
  for (const column of moves) pair = play(pair, Number(column));
  const won = wins(pair[1] ^ pair[0]);
  return { pair, won, over: won || pair[1] === BOARD };
}

function build(stage) {
  const { positions, tower } = stage.get("data");
  const net = { ...tower, weights: halves(tower.weights) };
  const known = new Map();
  const boards = positions.map((pair) => pair.map(BigInt));
  stage.figure.append(h("style", {}, LOOK));
  stage.slider("position", "Position", { min: 0, max: positions.length - 1, show: (v) => `${v + 1} of ${positions.length}` });
  const undo = stage.button("Take back", () => stage.set("moves", stage.get("moves").slice(0, yours() * 2)));
  stage.bind("moves");
  stage.listen("position", () => stage.set("moves", ""));
  const marks = s("g", { "aria-hidden": "true" });
  const svg = s("svg", { role: "group" }, marks);
  const said = h("p", { style: "margin: 0.3rem 0 0; width: 100%; min-height: 2.8em" });
  stage.canvas.append(svg, said);
  const columns = EACH.map((c) => {
    const node = s("rect", { class: "column", tabindex: 0, role: "button", fill: "transparent" });
    node.addEventListener("click", () => move(c));
    node.addEventListener("keydown", ({ key }) => {
      if (key === "Enter" || key === " ") move(c);
      columns[c + { ArrowLeft: -1, ArrowRight: 1 }[key]]?.focus();
    });
    return node;
  });
  svg.append(...columns);

  const start = () => boards[stage.get("position")];
  /** The reader's moves before the last one. */
  const yours = () => Math.max(Math.ceil(stage.get("moves").length / 2) - 1, 0);
  const asked = (pair) => {
    const chances = propose(net, pair);
    return { chances, choice: chances.indexOf(Math.max(...chances.map((v) => v ?? -1))) };
  };

  /** The reader's stone, and the network's answer. */
  function move(column) {
    const { pair, over } = follow(start(), stage.get("moves"));
    if (over || !legal(pair[1]).includes(column)) return;
    let moves = `${stage.get("moves")}${column}`;
    const after = follow(start(), moves);
    if (!after.over) moves += asked(after.pair).choice;
    stage.set("moves", moves);
  }

  return () => {
    const moves = stage.get("moves");
    const { pair, won, over } = follow(start(), moves);
    const blue = moves.length % 2 ? pair[0] ^ pair[1] : pair[0];
    const cell = Math.min(48, stage.width / COLUMNS);
    const [wide, high, foot] = [COLUMNS * cell, ROWS * cell, 58];
    for (const [key, value] of Object.entries({ width: wide, height: high + foot, viewBox: `0 0 ${wide} ${high + foot}` })) svg.setAttribute(key, value);
    const parts = [s("rect", { x: 0.5, y: 0.5, width: wide - 1, height: high - 1, rx: 6, fill: "none", stroke: "currentColor", "stroke-opacity": 0.5 })];

    // What the solver and the network say of the position in which the reader last chose.
    const before = moves && follow(start(), moves.slice(0, 2 * yours())).pair;
    const mine = moves && Number(moves[2 * yours()]);
    const values = before ? solve(before, known) : [];
    const { chances, choice } = before ? asked(before) : { chances: [] };
    const places = new Map(); // the last two stones, where they lie
    let seen = start();
    for (const [k, c] of [...moves].entries()) {
      const next = play(seen, Number(c));
      if (k >= 2 * yours()) places.set(seen[1] ^ next[1], true);
      seen = next;
    }
    for (const c of EACH) {
      const x = (c + 0.5) * cell;
      const heights = [];
      for (let r = 0; r < ROWS; r++) {
        const there = (pair[1] & bit(c, r)) !== 0n;
        const norm = (blue & bit(c, r)) !== 0n ? NORMS.wn : NORMS.bn;
        heights.push(there ? (norm === NORMS.wn ? "blue" : "orange") : "");
        const y = high - (r + 0.5) * cell;
        const fresh = there && places.has(bit(c, r));
        const look = there ? { fill: norm.color, stroke: fresh ? "currentColor" : "none", "stroke-width": 2.5 } : { fill: "none", stroke: "currentColor", "stroke-opacity": 0.25 };
        parts.push(s("circle", { cx: x, cy: y, r: 0.4 * cell, ...look }));
        if (there && norm === NORMS.bn) parts.push(s("circle", { cx: x, cy: y, r: 0.16 * cell, fill: "#fff" }));
      }
      const text = (y, words, strong) => parts.push(s("text", { x, y: high + y, "text-anchor": "middle", ...(strong ? { class: "strong" } : {}) }, words));
      text(15, c === mine && moves ? `▲ ${c}` : String(c), c === mine && moves);
      if (values[c] != null) text(34, VALUES[values[c]], values[c] === Math.max(...values.filter((v) => v != null)));
      if (chances[c] != null) text(52, `${Math.round(chances[c])} %`, c === choice);
      const free = !over && legal(pair[1]).includes(c);
      const told = `Column ${c}, from below: ${heights.filter(Boolean).join(", ") || "empty"}`;
      for (const [key, value] of Object.entries({ x: c * cell, y: 0, width: cell, height: high, "aria-label": told, "aria-disabled": !free })) columns[c].setAttribute(key, value);
    }
    marks.replaceChildren(...parts);
    undo.disabled = !moves;

    const best = values.length && Math.max(...values.filter((v) => v != null));
    const judged = before && (values[mine] === best ? `that is ${WORDS[best]}, the best there is` : `that is ${WORDS[values[mine]]}, where ${WORDS[best]} was to be had`);
    const own = before && `You played column ${mine}: ${judged}. The network would have played ${choice === mine ? "the same" : `column ${choice}, ${WORDS[values[choice]]}`}.`;
    // Whoever moved last has the four in a line.
    const ended = won ? (moves.length % 2 ? "You have four in a line." : "The network has four in a line.") : "The board is full.";
    const next = over ? ended : before ? `It answered with column ${moves.at(-1)}; it is your turn.` : "You are blue, and it is your turn: choose a column.";
    said.textContent = [own, next].filter(Boolean).join(" ");
    svg.setAttribute("aria-label", "Connect-4: seven columns, of which the arrow keys choose one, and Enter plays it.");
    stage.say(said.textContent);
  };
}

export default widget(build);
