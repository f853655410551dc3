// Where labels go, so that they cover neither each other nor what they name.

const AROUND = Array.from({ length: 16 }, (_, k) => (k * Math.PI) / 8);

/** The box of each label: of the places around its point the freest within the frame; in two rounds, since they give way. */
export function arrange(labels, blocked, frame) {
  const anchors = labels.map(({ at }) => [clamp(at[0], frame.left, frame.right), clamp(at[1], frame.top, frame.bottom)]);
  const placed = labels.map(() => null);
  for (let round = 0; round < 2; round++)
    for (const [i, label] of labels.entries()) {
      const others = placed.filter((box, j) => box && j !== i);
      const strangers = anchors.filter((_, j) => j !== i);
      let least = Infinity;
      for (const box of around(anchors[i], label, frame)) {
        const own = distance(box, anchors[i]);
        let cost = own / 2 + box.behind;
        for (const other of others) if (overlap(box, other, 8)) cost += 100;
        for (const point of strangers) if (distance(box, point) < own + 6) cost += 30; // it would be read as theirs
        const [left, right, top, bottom] = [box.x - 3, box.x + box.width + 3, box.y - 2, box.y + box.height + 2];
        for (const [x, y] of blocked) if (x > left && x < right && y > top && y < bottom) cost += 10;
        if (cost < least) [least, placed[i]] = [cost, box];
      }
    }
  return placed;
}

/** The places around a point, and how far each is from lying ahead of the arrow that ends there. */
function* around([x, y], { toward, width, height, gap = 6 }, frame) {
  const size = Math.hypot(...toward) || 1;
  for (const far of [gap, gap + 8, gap + 20])
    for (const angle of AROUND) {
      const [dx, dy] = [Math.cos(angle), Math.sin(angle)];
      yield {
        x: clamp(x + far * dx + (dx - 1) * (width / 2), frame.left, frame.right - width),
        y: clamp(y + far * dy + (dy - 1) * (height / 2), frame.top, frame.bottom - height),
        width,
        height,
        behind: 1 - (dx * toward[0] + dy * toward[1]) / size,
      };
    }
}

/** Whether two boxes share a point, or stand side by side with less room between them. */
export function overlap(a, b, room = 0) {
  return a.x < b.x + b.width + room && b.x < a.x + a.width + room && a.y < b.y + b.height && b.y < a.y + a.height;
}

function distance(box, [x, y]) {
  const [dx, dy] = [x - clamp(x, box.x, box.x + box.width), y - clamp(y, box.y, box.y + box.height)];
  return Math.sqrt(dx * dx + dy * dy);
}

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}
