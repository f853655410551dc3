// What the worker does beside the mathematics: it reads the images, says how long it will take, lets the
// five take turns, and tells the page of every row, or in one sentence why it can't go on.

import { Training, indices } from "./train.js";

const np = jax.numpy;
const tell = (what, more = {}) => postMessage({ what, ...more });
function fail(why) {
  tell("failed", { why });
  close();
}

/** One sentence for what went wrong; the library's own words come last. */
const sentence = (error) =>
  /memory|allocat/i.test(`${error}`)
    ? "The GPU has too little free memory for this; choose a smaller width or close other pages."
    : `The GPU stopped: ${String(error?.message ?? error).split("\n")[0]}`;
// What jax-js says of the GPU's errors, it says here, and nothing else does.
console.error = console.warn = (...said) => fail(sentence(said.join(" ")));
addEventListener("error", (event) => (event.preventDefault(), fail(sentence(event.error ?? event.message))));
addEventListener("unhandledrejection", (event) => (event.preventDefault(), fail(sentence(event.reason))));

async function openGPU() {
  if (!navigator.gpu) return fail("no WebGPU");
  const there = await jax.init("webgpu");
  if (!there.includes("webgpu")) return fail("no GPU");
  jax.defaultDevice("webgpu");
  const device = jax.getWebGPUDevice();
  device.addEventListener("uncapturederror", (event) => (event.preventDefault(), fail(sentence(event.error))));
  device.lost.then(({ message }) => fail(`The GPU was lost${message ? ` (${message.split("\n")[0]})` : ""}; start again.`));
  return true;
}

/** A sheet of tiles, a PNG of as many images as labels, as bytes in planes (N, 3, 32, 32). */
export async function pixels(png, count) {
  const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const sheet = await createImageBitmap(new Blob([bytes], { type: "image/png" }), options);
  const canvas = new OffscreenCanvas(sheet.width, sheet.height).getContext("2d", { willReadFrequently: true });
  canvas.drawImage(sheet, 0, 0);
  const rgba = canvas.getImageData(0, 0, sheet.width, sheet.height).data;
  const planes = new Uint8Array(count * 3072);
  for (let i = 0; i < planes.length; i++) {
    const [image, channel, y, x] = [Math.floor(i / 3072), Math.floor(i / 1024) % 3, Math.floor(i / 32) % 32, i % 32];
    const column = image % (sheet.width / 32);
    const row = (image - column) / (sheet.width / 32);
    planes[i] = rgba[4 * ((row * 32 + y) * sheet.width + column * 32 + x) + channel];
  }
  return planes;
}

/** Mean and standard deviation of each channel. */
function moments(planes) {
  const [sums, squares, n] = [[0, 0, 0], [0, 0, 0], planes.length / 3];
  planes.forEach((value, i) => {
    const channel = Math.floor(i / 1024) % 3;
    sums[channel] += value;
    squares[channel] += value * value;
  });
  return sums.map((s, c) => [s / n, Math.sqrt(squares[c] / n - (s / n) ** 2)]);
}

/** The first images of each part on the GPU, scaled to zero mean and unit variance per channel. */
async function load(sample, images) {
  const parts = { train: images, test: images / 2 };
  const planes = {};
  for (const [part, count] of Object.entries(parts))
    planes[part] = (await pixels(sample[part].png, sample[part].labels.length)).subarray(0, count * 3072);
  const scale = moments(planes.train);
  const scaled = (part) => {
    const channel = (i) => scale[Math.floor(i / 1024) % 3];
    return np.array(Float32Array.from(planes[part], (v, i) => (v - channel(i)[0]) / channel(i)[1])).reshape([-1, 3, 32, 32]);
  };
  const labels = (part) => indices(Array.from(sample[part].labels.slice(0, parts[part]), Number));
  return { images: scaled("train"), labels: labels("train"), testImages: scaled("test"), testLabels: labels("test") };
}

/** Seconds of a step of the slowest configuration, by width, as long as it stays bearable. */
async function measure({ sample, batch }) {
  const data = await load(sample, 2 * batch);
  const chosen = Array.from({ length: batch }, (_, i) => i);
  for (const width of [4, 8, 16]) {
    const training = new Training("wn_mobn", data, { width, batch, lr: 0.003, epochs: 1 });
    training.start();
    await training.step(chosen, 0); // compiles
    const [begin, steps] = [performance.now(), 3];
    for (let i = 0; i < steps; i++) await training.step(chosen, 0);
    const seconds = (performance.now() - begin) / 1000 / steps;
    training.dispose();
    tell("measured", { width, seconds });
    if (seconds > 0.3) break;
  }
  tell("ready");
}

/** The five take turns, an epoch each, until each has finished or diverged. */
async function race({ sample, images, epochs, rates, ...settings }) {
  const data = await load(sample, images);
  const runs = Object.entries(rates).map(([norm, lr]) => new Training(norm, data, { ...settings, epochs, lr }));
  for (let epoch = 1; epoch <= epochs; epoch++)
    for (const run of runs.filter(({ state }) => state === "interrupted")) {
      tell("turn", { norm: run.norm, epoch });
      const row = await run.epoch(tick);
      tell("row", { row, state: run.state });
    }
  tell("done");
}

let [stopped, goOn] = [false, () => {}];

/** Before each step: count it, and wait here while the reader has stopped. */
async function tick() {
  tell("step");
  while (stopped) await new Promise((resolve) => (goOn = resolve));
}

addEventListener("message", async ({ data: { what, ...job } }) => {
  if (what === "measure" && (await openGPU())) await measure(job);
  if (what === "race" && (await openGPU())) await race(job);
  if (what === "stop") stopped = true;
  if (what === "go on") [stopped] = [false, goOn()];
});
