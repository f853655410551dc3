// The paper's network in the five configurations, trained in the page on the reader's own GPU.
//
// This is wnlib's model.py, init.py and training.py once more, in JavaScript: the same layers and
// equations, by the same names, numbered as in the paper. A worker runs it after jax-js, a library that
// computes on WebGPU and differentiates what it computes.

const { numpy: np, lax, nn, random, tree, jit, grad } = jax;

// jax-js frees an array with its last use, and `a.ref` says that there will be another one. Here every
// use is of that kind: it is written for `jit`, which frees by itself what a step leaves behind.
const kept = (f) => (...args) => f(...args.map((a) => a?.ref ?? a));
const [add, sub, mul, div, pow] = [np.add, np.subtract, np.multiply, np.trueDivide, np.power].map(kept);
const [sum, mean, max, sqrt, square] = [np.sum, np.mean, np.max, np.sqrt, np.square].map(kept);
const [where, less, take, reshape, conv] = [np.where, np.less, np.take, np.reshape, lax.conv].map(kept);
const [normal, uniform, part] = [random.normal, random.uniform, (keys, i) => keys.slice(i)].map(kept);

// ── The layers ─────────────────────────────────────────────────────────────────────────────────

const PER_UNIT = [1, 2, 3]; // a unit's own dimensions in a weight (units, inputs, k, k)
const PER_CHANNEL = [0, 2, 3]; // images and pixels of t (N, channels, H, W)
const keepdims = { keepdims: true };
const channels = (b) => reshape(b, [1, -1, 1, 1]); // (C,) as t's channels

/** w = g v / ‖v‖ (2), one g per output unit. */
const weightNorm = (g, v) => mul(v, div(g, sqrt(sum(square(v), PER_UNIT, keepdims))));

/** t − μ[t] + b (7). */
const meanOnlyBatchNorm = (t, mu, b) => add(sub(t, mu), channels(b));

/** γ (t − μ[t]) / √(σ²[t] + ε) + β. */
const batchNorm = (t, mu, variance, gamma, beta) =>
  add(mul(div(sub(t, mu), sqrt(add(variance, 1e-6))), channels(gamma)), channels(beta));

const leakyReLU = (t) => where(less(t, 0), mul(t, 0.1), t);
const globalAverage = (x) => mean(x, [2, 3], keepdims); // (N, C, 1, 1)
const maxPool = (x) => {
  const [n, c, height, width] = x.shape;
  return max(reshape(x, [n, c, height / 2, 2, width / 2, 2]), [3, 5]); // (N, C, H/2, W/2)
};
const noise = (x, sigma, key) => (sigma ? add(x, mul(normal(key, x.shape), sigma)) : x);
const dropout = (x, p, key) => (p ? where(less(uniform(key, x.shape), p), 0, div(x, 1 - p)) : x);

// ── The network ────────────────────────────────────────────────────────────────────────────────

/** ConvPool-CNN-C: inputs, units, kernel and padding of each layer, and what comes before it. */
const layersOf = (w) => [
  { size: [3, w, 3, "SAME"], before: "noise" }, // (N, w, 32, 32)
  { size: [w, w, 3, "SAME"] },
  { size: [w, w, 3, "SAME"] },
  { size: [w, 2 * w, 3, "SAME"], before: "pool" }, // (N, 2w, 16, 16)
  { size: [2 * w, 2 * w, 3, "SAME"] },
  { size: [2 * w, 2 * w, 3, "SAME"] },
  { size: [2 * w, 2 * w, 3, "VALID"], before: "pool" }, // (N, 2w, 6, 6)
  { size: [2 * w, 2 * w, 1, "VALID"] },
  { size: [2 * w, 2 * w, 1, "VALID"] },
  { size: [2 * w, 10, 1, "VALID"], before: "average" }, // (N, 10, 1, 1): the dense layer, logits
];

// One configuration at one width. Its model has three lists of one object per layer: what is `learned`,
// the `running` statistics for evaluation, and what is `frozen` once it is initialized (g of "plain").
export function network(norm, width, { sigma = 0.15, drop = 0.5 } = {}) {
  const layers = layersOf(width);
  const [byLength, meanOnly] = [["wn", "wn_mobn"].includes(norm), ["mobn", "wn_mobn"].includes(norm)];

  /** v ~ N(0, 0.05²), every g and γ one, every b and β zero. */
  function build(key) {
    const keys = random.split(key, layers.length);
    const learned = layers.map(({ size: [inputs, units, k] }, i) => ({
      v: mul(normal(part(keys, i), [units, inputs, k, k]), 0.05),
      b: np.zeros([units]),
      ...(byLength ? { g: np.ones([units, 1, 1, 1]) } : norm === "bn" ? { gamma: np.ones([units]) } : {}),
    }));
    const frozen = layers.map(({ size: [, units] }) => (norm === "none" ? { g: np.ones([units, 1, 1, 1]) } : {}));
    return { learned, frozen };
  }

  function weight({ g, v }, frozen) {
    if (byLength) return weightNorm(g, v);
    return norm === "none" ? mul(frozen.g, v) : v; // as in the paper's code, which calls this "normal"
  }

  /** What training takes from the minibatch, and evaluation from the running means. */
  function statistics(t) {
    const mu = mean(t, PER_CHANNEL, keepdims); // (1, C, 1, 1)
    if (norm === "bn") return { mu, variance: mean(square(sub(t, mu)), PER_CHANNEL, keepdims) };
    return meanOnly ? { mu } : {};
  }

  function normalize(t, { b, gamma }, { mu, variance }) {
    if (meanOnly) return meanOnlyBatchNorm(t, mu, b);
    return norm === "bn" ? batchNorm(t, mu, variance, gamma, b) : add(t, channels(b));
  }

  // From images (N, 3, 32, 32) to logits (N, 10). `visit(t, i)` says what becomes of layer i's
  // pre-activations t; `key` draws noise and dropout, null is for evaluation.
  function forward({ learned, frozen }, x, key, visit) {
    const keys = key && random.split(key.ref, layers.length);
    layers.forEach(({ size: [, , , padding], before }, i) => {
      if (before === "noise" && key) x = noise(x, sigma, part(keys, i));
      if (before === "average") x = globalAverage(x);
      if (before === "pool") x = maxPool(x);
      if (before === "pool" && key) x = dropout(x, drop, part(keys, i));
      const t = visit(conv(x, weight(learned[i], frozen[i]), [1, 1], padding), i);
      x = before === "average" ? t : leakyReLU(t);
    });
    return reshape(x, [-1, 10]);
  }

  /** Data-dependent initialization (6): pre-activations start with mean 0 and variance 1. */
  function initialize({ learned, frozen }, x, key) {
    const running = [];
    forward({ learned, frozen }, x, key, (t, i) => {
      const mu = mean(t, PER_CHANNEL, keepdims);
      const sigma = sqrt(mean(square(sub(t, mu)), PER_CHANNEL, keepdims));
      const [perUnit, { g, v }] = [reshape(sigma, [-1, 1, 1, 1]), learned[i]];
      if (byLength) learned[i] = { ...learned[i], g: div(g, perUnit) }; // g ← 1 / σ[t]
      if (norm === "none") frozen[i] = { g: div(frozen[i].g, perUnit) };
      if (norm === "mobn") learned[i] = { ...learned[i], v: div(v, perUnit) };
      if (norm === "bn") running[i] = { mu, variance: square(sigma) }; // it scales and centers by itself
      else if (meanOnly) running[i] = { mu: div(mu, sigma) }; // it centers by itself
      else {
        running[i] = {};
        learned[i] = { ...learned[i], b: reshape(div(sub(0, mu), sigma), [-1]) }; // b ← −μ[t] / σ[t]
      }
      return div(sub(t, mu), sigma);
    });
    return { learned, running, frozen };
  }

  /** Mean cross-entropy and the number of errors, of logits (N, 10) and labels (N,). */
  function judge(logits, y) {
    const loss = sub(0, mean(sum(mul(nn.logSoftmax(logits.ref), nn.oneHot(y.ref, 10)), 1)));
    return { loss, wrong: sum(np.notEqual(np.argmax(logits.ref, 1), y.ref).astype(np.float32)) };
  }

  // What becomes of pre-activations in training: normalized by their minibatch, whose statistics `seen`
  // keeps; and in evaluation, by the running means.
  const byMinibatch = ({ learned }, seen) => (t, i) => normalize(t, learned[i], (seen[i] = statistics(t)));
  const byRunning = ({ learned, running }) => (t, i) => normalize(t, learned[i], running[i]);

  /** The loss's gradient by what is learned; beside it loss, errors and what was seen. */
  function gradients(model, x, y, key) {
    const lossOf = (learned) => {
      const [now, seen] = [{ ...model, learned }, []];
      const { loss, wrong } = judge(forward(now, x, key, byMinibatch(now, seen)), y);
      return [loss, { loss: loss.ref, wrong, seen: tree.ref(seen) }];
    };
    const [gradient, beside] = grad(lossOf, { hasAux: true })(tree.ref(model.learned));
    return { gradient, ...beside };
  }

  const evaluate = (model, x, y) => judge(forward(model, x, null, byRunning(model)), y);

  return { build, initialize, forward, byMinibatch, gradients, evaluate };
}

// ── Training ───────────────────────────────────────────────────────────────────────────────────

const [BETA1, BETA2, EPSILON] = [0.9, 0.999, 1e-4];
const DIVERGED = 10 * Math.log(10); // ten times the loss of guessing: no network comes back from it
export const indices = (numbers) => np.array(Int32Array.from(numbers), { dtype: np.int32 });
const read = (scalars) => Promise.all(scalars.map(async (one) => (await one.data())[0]));

/** One step of Adam, the n-th from 1: m and s are running means of the gradient and of its square. */
export function adam(parameter, gradient, m, s, n, lr) {
  m = add(mul(m, BETA1), mul(gradient, 1 - BETA1));
  s = add(mul(s, BETA2), mul(square(gradient), 1 - BETA2));
  const [mHat, sHat] = [div(m, sub(1, pow(BETA1, n))), div(s, sub(1, pow(BETA2, n)))];
  return [sub(parameter, mul(lr, div(mHat, add(sqrt(sHat), EPSILON)))), m, s];
}

/** Everything that the next epoch of one network depends on, as in wnlib's `Training`. */
export class Training {
  #net;
  #step;
  #evaluate;
  #data;
  rows = [];
  state = "interrupted"; // or "finished", "diverged"

  /** `data`: images (N, 3, 32, 32), labels (N,), testImages, testLabels, all on the GPU. */
  constructor(norm, data, { width, lr, epochs, seed = 0, batch = 100, ...options }) {
    Object.assign(this, { norm, lr, epochs, seed, batch, taken: 0 });
    this.#data = data;
    this.#net = network(norm, width, options);
    this.#step = jit((...all) => this.#stepped(...all));
    this.#evaluate = jit(this.#net.evaluate);
  }

  /** Two words that jax-js draws from: another stream for each use, another number for each time. */
  #key = (stream, n) => np.array(new Uint32Array([4 * this.seed + stream, n]), { dtype: np.uint32 });

  start() {
    const images = this.#data.images.ref.slice([0, Math.min(500, this.#data.images.shape[0])]);
    this.model = jit(this.#net.initialize)(jit(this.#net.build)(this.#key(0, 0)), images, this.#key(1, 0));
    const zeros = () => tree.map((p) => np.zeros(p.shape), this.model.learned);
    [this.m, this.s] = [zeros(), zeros()];
  }

  /** A step as one program for the GPU; `chosen` are the minibatch's places among the images. */
  #stepped(model, m, s, images, labels, chosen, key, n, lr) {
    const [x, y] = [take(images, chosen, 0), take(labels, chosen, 0)];
    const { gradient, loss, wrong, seen } = this.#net.gradients(model, x, y, key);
    const running = tree.map((old, now) => add(mul(old, 0.9), mul(now, 0.1)), model.running, seen);
    const [leaves, structure] = tree.flatten(model.learned);
    const [gs, ms, ss] = [gradient, m, s].map(tree.leaves);
    const updated = leaves.map((p, i) => adam(p, gs[i], ms[i], ss[i], n, lr));
    const [learned, m1, s1] = [0, 1, 2].map((k) => tree.unflatten(structure, updated.map((u) => u[k])));
    return [{ ...model, learned, running }, m1, s1, loss, wrong];
  }

  /** One step on these images; mean loss and number of errors. */
  async step(chosen, lr) {
    const { images, labels } = this.#data;
    const now = [this.model, this.m, this.s, images.ref, labels.ref, indices(chosen)];
    const [model, m, s, ...found] = this.#step(...now, this.#key(3, this.taken), ++this.taken, lr);
    Object.assign(this, { model, m, s });
    return read(found);
  }

  dispose() {
    tree.dispose([this.model, this.m, this.s]);
  }

  /** The learning rate of an epoch, from 0: constant for one half, then it falls to zero. */
  lrAt = (epoch) => this.lr * Math.min(2 - (2 * epoch) / this.epochs, 1);

  /** Train on for an epoch and return its row; `tick` is awaited before each step. */
  async epoch(tick = async () => {}) {
    if (!this.model) this.start();
    const { images, testImages, testLabels } = this.#data;
    const [epoch, lr] = [this.rows.length + 1, this.lrAt(this.rows.length)];
    const order = await random.permutation(this.#key(2, epoch), images.shape[0]).data();
    const steps = Math.floor(order.length / this.batch);
    let [trainLoss, trainWrong, testLoss, testWrong] = [0, 0, 0, 0];
    for (let i = 0; i < steps; i++) {
      await tick();
      const [loss, wrong] = await this.step(order.slice(i * this.batch, (i + 1) * this.batch), lr);
      trainLoss += loss / steps;
      trainWrong += wrong;
    }
    const tests = testImages.shape[0];
    for (let i = 0; i < tests; i += this.batch) {
      await tick();
      const part = [i, Math.min(i + this.batch, tests)];
      const found = this.#evaluate(tree.ref(this.model), testImages.ref.slice(part), testLabels.ref.slice(part));
      const [loss, wrong] = await read([found.loss, found.wrong]);
      testLoss += (loss * (part[1] - part[0])) / tests;
      testWrong += wrong;
    }
    const errors = { train_error: trainWrong / (steps * this.batch), test_error: testWrong / tests };
    this.rows.push({ norm: this.norm, epoch, lr, train_loss: trainLoss, test_loss: testLoss, ...errors });
    const lost = !(trainLoss < DIVERGED && Number.isFinite(testLoss)); // NaN is neither
    this.state = lost ? "diverged" : epoch < this.epochs ? "interrupted" : "finished";
    return this.rows.at(-1);
  }
}
