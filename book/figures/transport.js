// Play, pause, and a bar to drag along: of a race by epochs, of a film by frames.
import { h } from "./base.js";

// While it plays, `moved(head)` is told where it is, in parts of a step too; the trait learns it when it stands.
// `rate(end)` is in steps a second, `words(step, end)` is what is shown, `value(step, end)` what the trait gets;
// `still` asks that a press takes one step alone.
/** A row of controls below the stage's own, on the trait `name`. */
export function transport(stage, { name, label, first = 0, rate, words, value = (head) => head, moved, still = false }) {
  let [head, end, frame, before, played] = [0, 1, 0, 0, false];
  const play = h("button", { type: "button", class: "play", onclick: () => (frame ? stand(head) : start()) }, "▶ Play");
  const bar = h("input", { type: "range", class: "bar", min: 0, step: "any", "aria-label": label, "data-name": name });
  const where = h("output", { "aria-hidden": "true" });
  const row = h("div", { class: "controls transport" }, play, bar, where);
  stage.controls.after(row);
  stage.bind(name);
  stage.onreset(stop);

  const whole = () => Math.floor(head + 1e-9);
  function go(to) {
    head = Math.max(0, Math.min(end, to));
    show();
    moved(stage.still || !frame ? whole() : head);
  }
  /** Stand at a step, until something moves on. */
  function stand(at) {
    stop();
    go(Math.round(at));
    stage.set(name, value(head, end));
  }
  function stop() {
    cancelAnimationFrame(frame);
    frame = 0;
  }
  function show() {
    bar.max = end;
    bar.value = head;
    where.textContent = words(whole(), end);
    bar.setAttribute("aria-valuetext", where.textContent);
    const text = still ? "Next" : frame ? "❚❚ Pause" : played && head >= end ? "▶ Play again" : "▶ Play";
    if (play.textContent !== text) play.textContent = text;
  }
  function start() {
    if (still) return stand(head >= end ? first : head + 1);
    played = true;
    before = performance.now();
    frame = requestAnimationFrame(step);
    go(head >= end ? first : Math.max(head, first));
  }
  function step(now) {
    if (!row.isConnected) return stop();
    const next = head + (Math.max(now - before, 0) / 1000) * rate(end);
    before = now;
    if (next >= end) return stand(end);
    frame = requestAnimationFrame(step);
    go(next);
  }
  bar.addEventListener("input", () => stand(Number(bar.value)));
  bar.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5, Home: -Infinity, End: Infinity }[event.key];
    if (!by) return;
    event.preventDefault();
    stand(head + by);
  });
  return {
    row,
    start,
    stop,
    get playing() {
      return frame !== 0;
    },
    /** How many steps there are, and at which the trait stands; null for the last. Says where it is. */
    put(length, at) {
      end = length;
      if (!frame) head = Math.min(at ?? end, end);
      show();
      return stage.still ? whole() : head;
    },
  };
}
