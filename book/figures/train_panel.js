// The panel of "Train here": what a reader chooses, and what the worker that trains has to say.

import { h } from "./base.js";

const LOOK = `
.train { border-top: 1px solid var(--line); margin-top: 0.75rem; padding-top: 0.5rem; }
.train p { margin: 0.25rem 0; }
.train progress { width: 100%; height: 8px; accent-color: var(--accent); }
.train .rates { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.train .rates legend { display: block; grid-column: 1 / -1; }
.train .rates label { justify-content: space-between; }
`;
const SOURCE = "trained here";
const BATCH = 100;
const WIDTHS = [4, 8, 16];
const RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1];
const PAPERS = { none: 0.0003, wn: 0.003, mobn: 0.003, bn: 0.003, wn_mobn: 0.003 };
const BEARABLE = 120; // seconds
const WHERE = "Chrome, Edge and Safari have it in their present versions. The race above needs none.";
const WITHOUT = {
  "no WebGPU": `Training here takes WebGPU, and this browser does not offer it to this page. ${WHERE}`,
  "no GPU": `Training here takes a GPU that WebGPU can use, and this browser found none. ${WHERE}`,
};
const DATA =
  "Real images: the book’s sample of CIFAR-10, each channel scaled to mean 0 and variance 1 instead of whitened. Minibatches of 100, the paper’s noise and dropout; Adam’s rate falls to zero in the second half, its β₁ stays 0.9.";

/** Seconds as a person says them. */
function spell(seconds) {
  if (seconds < 55) return `${Math.max(5, 5 * Math.round(seconds / 5))} seconds`;
  if (seconds < 5400) return seconds < 90 ? "a minute" : `${Math.round(seconds / 60)} minutes`;
  return `${Math.round(seconds / 3600)} hours`;
}

/** Put the panel into `panel.root`; `worker` is the text of its script, `sample` the images. */
export function mount(panel, { worker, sample }) {
  const { norms, stage } = panel;
  const costs = {}; // seconds a step by width, measured here
  const ended = new Set(); // configurations that have finished or diverged
  let [hired, phase, taken, total] = [null, "measuring", 0, 1];

  const menu = (name, label, values, first) => {
    const options = values.map((value) => h("option", { value }, value.toLocaleString("en", { maximumFractionDigits: 4 })));
    const input = h("select", { "data-name": name, onchange: () => phase !== "running" && foretell() }, options);
    input.value = first;
    return [input, h("label", {}, label, input)];
  };
  const [width, widthBox] = menu("width", "Width", WIDTHS, 4);
  const [epochs, epochsBox] = menu("epochs", "Epochs", [2, 5, 10, 20, 40], 10);
  const [images, imagesBox] = menu("images", "Training images", [200, 500, 1000, 2000], 2000);
  const [seed, seedBox] = menu("seed", "Seed", [0, 1, 2, 3], 0);
  const rates = Object.entries(norms).map(([norm, { label }]) => [norm, ...menu(norm, label, RATES, PAPERS[norm])]);
  const button = (text, onclick) => h("button", { type: "button", onclick }, text);
  const [start, stop] = [button("Start", race), button("Stop", () => pause(phase === "running"))];
  const [said, bar] = [h("p", {}), h("progress", { "aria-label": "Trained so far", max: 1 })];
  const choices = h("div", { class: "controls" }, start, stop, widthBox, epochsBox);
  const rateBox = h("fieldset", { class: "rates" }, h("legend", {}, "Learning rates"), ...rates.map(([, , box]) => box));
  const more = h("details", { class: "more" }, h("summary", {}, "rates, images, seed"), rateBox, h("div", { class: "controls" }, imagesBox, seedBox), h("p", {}, DATA));
  const box = h("div", { class: "train", role: "group", "aria-label": "Train here" }, said, bar, choices, more);
  panel.root.append(h("style", {}, LOOK), box);

  function say(text) {
    said.textContent = text;
    stage.say(text);
  }

  /** What can be pressed now. */
  function enter(next) {
    phase = next;
    const shown = { bar: ["measuring", "running", "stopped"], choices: ["ready", "running", "stopped", "over"] };
    bar.style.display = shown.bar.includes(phase) ? "" : "none";
    choices.style.display = more.style.display = shown.choices.includes(phase) ? "" : "none";
    start.textContent = phase === "ready" ? "Start" : "Start again";
    stop.style.display = ["running", "stopped"].includes(phase) ? "" : "none";
    stop.textContent = phase === "stopped" ? "Go on" : "Stop";
  }

  /** A worker for one job; its predecessor, and all that it held on the GPU, goes. */
  function hire(job) {
    dismiss();
    const address = URL.createObjectURL(new Blob([worker], { type: "text/javascript" }));
    try {
      hired = new Worker(address);
    } catch (error) {
      return failed({ why: `This page may not start a worker: ${error.message}` });
    } finally {
      URL.revokeObjectURL(address);
    }
    hired.onmessage = ({ data: { what, ...more } }) => heard[what](more);
    hired.onerror = (event) => {
      event.preventDefault();
      failed({ why: `The training stopped: ${event.message}` });
    };
    hired.postMessage({ sample, ...job });
  }
  function dismiss() {
    hired?.terminate();
    hired = null;
  }

  /** Steps of five networks; a test image costs a third of one that is trained on. */
  const steps = () => Object.keys(norms).length * epochs.value * (images.value / BATCH) * (1 + 0.5 / 3);
  function foretell() {
    const long = (w) => costs[w] * steps();
    const each = WIDTHS.map((w) => `${spell(long(w))} at width ${w}`);
    const advice = long(WIDTHS[0]) > BEARABLE ? " Fewer images or epochs take less." : "";
    say(`On this device ${epochs.value} epochs of all five take about ${each.join(", ")}.${advice}`);
  }

  function race() {
    ended.clear();
    [taken, total] = [0, steps()];
    panel.begin({ source: SOURCE, epochs: Number(epochs.value), norms: Object.keys(norms) });
    const chosen = Object.fromEntries(rates.map(([norm, input]) => [norm, Number(input.value)]));
    const numbers = Object.fromEntries(Object.entries({ width, epochs, images, seed }).map(([name, { value }]) => [name, Number(value)]));
    bar.value = 0;
    enter("running");
    say("The first step of each network takes longer: the GPU’s programs are being compiled.");
    hire({ what: "race", batch: BATCH, rates: chosen, ...numbers });
  }
  function pause(now) {
    hired.postMessage({ what: now ? "stop" : "go on" });
    enter(now ? "stopped" : "running");
    if (now) say("Stopped. It goes on where it is.");
  }

  function failed({ why }) {
    dismiss();
    for (const norm of phase === "measuring" ? [] : Object.keys(norms))
      if (!ended.has(norm)) panel.end({ source: SOURCE, norm, state: "interrupted" });
    enter(phase === "measuring" ? "none" : "over");
    say(WITHOUT[why] ?? why);
  }

  const heard = {
    failed,
    measured({ width, seconds }) {
      for (const wider of WIDTHS.filter((w) => w >= width)) costs[wider] = seconds * (wider / width) ** 2; // at most
    },
    ready() {
      dismiss();
      width.value = WIDTHS.findLast((w) => costs[w] * steps() < BEARABLE) ?? WIDTHS[0];
      enter("ready");
      foretell();
    },
    step() {
      bar.value = ++taken / total;
    },
    turn({ norm, epoch }) {
      said.textContent = `Epoch ${epoch} of ${epochs.value}: ${norms[norm].label}`;
    },
    row({ row, state }) {
      panel.push({ source: SOURCE, ...row });
      if (state === "interrupted") return;
      ended.add(row.norm);
      panel.end({ source: SOURCE, norm: row.norm, state });
    },
    done() {
      dismiss();
      enter("over");
      say("All five have run. Change a learning rate below and start again: who tolerates ten times as much?");
    },
  };

  panel.onclose(dismiss);
  enter("measuring");
  say("Asking for the GPU, and timing a few steps on it …");
  hire({ what: "measure", batch: BATCH });
}
