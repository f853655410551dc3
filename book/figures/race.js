// A race of recorded runs, and rows that arrive while it is on the page, as plain functions.
import { NORMS } from "./base.js";
import { brief } from "./history.js";

/** The series as far as they have come at `head`, in epochs; between two epochs on a straight line. */
export function upTo(series, head) {
  return series
    .map((one) => {
      const known = Math.min(Math.floor(head), one.raw.length);
      const part = head - known;
      const between = (column) => {
        const [a, b] = [column[known - 1], column[known]];
        const moving = known > 0 && known < column.length && part > 0;
        return [...column.slice(0, known), ...(moving ? [a == null || b == null ? null : a + part * (b - a)] : [])];
      };
      const raw = between(one.raw);
      const last = raw.findLastIndex((v) => Number.isFinite(v));
      const numbers = raw.slice(0, known).map((v) => v ?? Infinity);
      const best = numbers.indexOf(Math.min(...numbers));
      // A run that is about to diverge leaves the others' axis in its last epoch.
      const gone = one.diverged && head > one.gone - 1;
      return {
        ...one,
        raw,
        values: between(one.values),
        band: one.band?.map(between) ?? null,
        last,
        best,
        told: one.raw[known - 1],
        diverged: gone ? one.diverged : null,
        allGone: gone && one.allGone,
        x: (i) => Math.min(one.x(i), Math.max(head, 1)),
      };
    })
    .filter(({ last }) => last >= 0);
}

const ORDINALS = ["first", "second", "third", "fourth", "fifth"];

/** How the race stands while it is open, and how it ended for a bet, from the entries that `readAt` gives. */
export function outcome(entries, metric, bet, open) {
  const told = ({ one, i }) => `${NORMS[one.line.norm].label}, with ${brief(metric, one.raw[i])}`;
  const winner = entries.find(({ place }) => place === 1);
  if (!winner) return "Nobody has arrived.";
  if (open) return `In the lead: ${told(winner)}.`;
  const mine = entries.find(({ one }) => one.line.norm === bet);
  const first = `The winner is ${told(winner)}.`;
  if (!mine) return bet ? `Your bet, ${NORMS[bet].label}, is not among them. ${first}` : first;
  if (mine.place === 1) return `Your bet wins: ${told(mine)}.`;
  const how = mine.place ? `comes ${ORDINALS[mine.place - 1] ?? `in place ${mine.place}`}` : `has ${mine.one.diverged ?? "not arrived"}`;
  const own = mine.place ? `${told(mine)}, ${how}` : `${NORMS[bet].label}, ${how}`;
  return `Your bet, ${own}. ${first}`;
}

const COLUMNS = ["train_loss", "train_error", "test_loss", "test_error"];

/** Curves that this page itself adds: what `begin`, `push` and `end` of a panel do (see curves.js). */
export class Live {
  curves = [];

  begin({ source, epochs, norms = Object.keys(NORMS) }) {
    const fresh = norms.map((norm) => {
      const run = { source, state: "interrupted", ...Object.fromEntries(COLUMNS.map((name) => [name, []])) };
      return { norm, label: `${NORMS[norm].label}, ${source}`, short: NORMS[norm].label, epochs, done: false, runs: [run] };
    });
    this.curves = [...this.curves.filter(({ runs }) => runs[0].source !== source), ...fresh];
  }

  #find({ source, norm }) {
    const found = this.curves.find((curve) => curve.norm === norm && curve.runs[0].source === source);
    if (!found) throw new Error(`begin({source: "${source}", …}) comes before rows of ${norm}`);
    return found;
  }

  push(row) {
    const [run] = this.#find(row).runs;
    if (!(row.epoch >= 1 && row.epoch <= run.test_error.length + 1))
      throw new Error(`epoch ${row.epoch} does not follow epoch ${run.test_error.length}`);
    for (const name of COLUMNS) run[name].splice(row.epoch - 1, Infinity, Number.isFinite(row[name]) ? row[name] : null);
  }

  end({ state, ...which }) {
    const curve = this.#find(which);
    const [run] = curve.runs;
    run.state = state === "diverged" ? `diverged at epoch ${run.test_error.length}` : state;
    curve.done = state !== "interrupted";
  }

  rows(source) {
    return this.curves
      .filter(({ runs }) => runs[0].source === source)
      .flatMap(({ norm, runs: [run] }) =>
        run.test_error.map((_, i) => ({ source, norm, epoch: i + 1, ...Object.fromEntries(COLUMNS.map((name) => [name, run[name][i]])) })),
      );
  }
}
