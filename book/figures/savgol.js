// Savitzky and Golay's filter (Analytical Chemistry 36, 1964), as wnlib.runs.smooth has it: in a window that
// slides along, the value of a polynomial fitted by least squares. Orthogonal polynomials keep it exact to
// rounding where scipy's raw powers lose digits: at the report's window 51 and degree 10, in the fourth.

/** The orthonormal polynomials on `window` equally spaced points, one row for each degree from 0. */
export function polynomials(window, degree) {
  const half = (window - 1) / 2;
  const rows = [];
  for (let k = 0; k <= degree; k++) {
    const row = Array.from({ length: window }, (_, i) => (k ? (rows[k - 1][i] * (i - half)) / (half || 1) : 1));
    // Twice: what rounding leaves of the earlier ones after the first time is gone after the second.
    for (const other of [...rows, ...rows]) {
      const along = row.reduce((sum, v, i) => sum + v * other[i], 0);
      for (let i = 0; i < window; i++) row[i] -= along * other[i];
    }
    const length = Math.hypot(...row);
    rows.push(row.map((v) => v / length));
  }
  return rows;
}

const hats = new Map();

/** H, (window, window): the fitted values are H times the values; its middle row is the filter. */
export function hatMatrix(window, degree) {
  const key = `${window} ${degree}`;
  if (!hats.has(key)) {
    const rows = polynomials(window, degree);
    const entry = (i, j) => rows.reduce((sum, row) => sum + row[i] * row[j], 0);
    hats.set(
      key,
      Array.from({ length: window }, (_, i) => Array.from({ length: window }, (_, j) => entry(i, j))),
    );
  }
  return hats.get(key);
}

/** The window and degree that so many values allow. */
export function cut(count, window, degree) {
  const width = Math.min(window, count - (count % 2 === 0 ? 1 : 0));
  return [width, Math.min(degree, width - 1)];
}

/** Where the window of value i begins: around it, and no further out than there are values. */
export function windowStart(i, count, window) {
  return Math.max(0, Math.min(i - (window - 1) / 2, count - window));
}

function smoothStretch(values, window, degree) {
  const [width, power] = cut(values.length, window, degree);
  const hat = hatMatrix(width, power);
  return values.map((_, i) => {
    const start = windowStart(i, values.length, width);
    const row = hat[i - start];
    let sum = 0;
    for (let j = 0; j < width; j++) sum += row[j] * values[start + j];
    return sum;
  });
}

/** The smoothed values; what is missing stays missing, and each stretch between is smoothed by itself. */
export function smooth(values, window, degree) {
  const result = Array.from({ length: values.length }, () => null);
  for (let from = 0; from < values.length;) {
    let to = from;
    while (to < values.length && Number.isFinite(values[to])) to++;
    smoothStretch(values.slice(from, to), window, degree).forEach((v, i) => (result[from + i] = v));
    from = to + 1;
  }
  return result;
}
