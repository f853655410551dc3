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

function build(stage) {
  const { positions, tower } = stage.get("data");
  const net = { ...tower, weights: halves(tower.weights) };
  const known = new Map();
  const boards = positions.map((pair) => pair.map(BigInt));
  stage.slider("position", "Position", { min: 0, max: positions.length - 1, show: (v) => `${v + 1} of ${positions.length}` });
  stage.toggle("answers", "Show the answers");
  stage.bind("moves");
  stage.listen("position", () => stage.set("moves", ""));
  const svg = s("svg", { role: "img" });
  stage.canvas.append(svg);
  const row = h("div", { class: "controls", role: "group", "aria-label": "Play" });
  stage.canvas.after(row);
  const add = (column) => stage.set("moves", stage.get("moves") + column);
  const columns = EACH.map((c) => stage.button(`Column ${c}`, () => add(c), { parent: row }));
  const best = stage.button("The network’s choice", () => add(now().choice), { parent: row });
  const undo = stage.button("Undo", () => stage.set("moves", stage.get("moves").slice(0, -1)), { parent: row });

  function now() {
    let pair = boards[stage.get("position")];
    for (const column of stage.get("moves")) pair = play(pair, Number(column));
    const over = wins(pair[1] ^ pair[0]) || pair[1] === BOARD;
    const chances = over ? EACH.map(() => null) : propose(net, pair);
    return { pair, over, chances, values: over ? EACH.map(() => null) : solve(pair, known), choice: chances.indexOf(Math.max(...chances.map((v) => v ?? -1))) };
  }

  return () => {
    const { pair, over, chances, values, choice } = now();
    const turn = stage.get("moves").length % 2; // 0: blue is to move, as at the start
    const blue = turn ? pair[0] ^ pair[1] : pair[0];
    const cell = Math.min(48, stage.width / COLUMNS);
    const [wide, high, foot] = [COLUMNS * cell, ROWS * cell, 58];
    for (const [key, value] of Object.entries({ width: wide, height: high + foot, viewBox: `0 0 ${wide} ${high + foot}` })) svg.setAttribute(key, value);
    const marks = [s("rect", { x: 0.5, y: 0.5, width: wide - 1, height: high - 1, rx: 6, fill: "none", stroke: "currentColor", "stroke-opacity": 0.5 })];
    const show = stage.get("answers");
    for (const c of EACH) {
      const x = (c + 0.5) * cell;
      for (let r = 0; r < ROWS; r++) {
        const there = (pair[1] & bit(c, r)) !== 0n;
        const norm = (blue & bit(c, r)) !== 0n ? NORMS.wn : NORMS.bn;
        const look = there ? { fill: norm.color } : { fill: "none", stroke: "currentColor", "stroke-opacity": 0.25 };
        marks.push(s("circle", { cx: x, cy: high - (r + 0.5) * cell, r: 0.4 * cell, ...look }));
        if (there && norm === NORMS.bn) marks.push(s("circle", { cx: x, cy: high - (r + 0.5) * cell, r: 0.16 * cell, fill: "#fff" }));
      }
      const text = (y, words, more = {}) => marks.push(s("text", { x, y: high + y, "text-anchor": "middle", ...more }, words));
      text(15, String(c));
      if (show && values[c] != null) text(34, VALUES[values[c]]);
      if (show && chances[c] != null) text(52, `${Math.round(chances[c])} %`, c === choice ? { class: "strong" } : {});
      columns[c].disabled = over || !legal(pair[1]).includes(c);
    }
    svg.replaceChildren(...marks);
    best.disabled = over;
    undo.disabled = !stage.get("moves");
    const who = turn ? "Orange" : "Blue";
    const solved = EACH.filter((c) => values[c] != null).map((c) => `${c} ${VALUES[values[c]]}, network ${Math.round(chances[c])} %`);
    const ended = wins(pair[1] ^ pair[0]) ? `${turn ? "Blue" : "Orange"} has four in a line.` : "The board is full.";
    const text = over ? ended : `${who} is to move. ${show ? `Column ${solved.join("; ")}.` : ""}`;
    svg.setAttribute("aria-label", `Connect-4. ${text}`);
    stage.say(text);
  };
}

export default widget(build);
