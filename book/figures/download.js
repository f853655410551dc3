// A figure as a file: what is on the page, by itself.
import { h, s } from "./base.js";

/** A file name from a title. */
export function slug(title) {
  const words =
    title
      .normalize("NFKD")
      .toLowerCase()
      .match(/[a-z0-9]+/g) ?? [];
  return words.join("-").slice(0, 60).replace(/-$/, "") || "figure";
}

/** Let the reader keep this. */
export function save(name, blob) {
  const link = h("a", { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const STYLED = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "opacity"];
const LETTERS = ["font-size", "font-weight", "font-family", "text-anchor"];

/** The drawing as an SVG file's text: styles resolved, a title above, a background below. */
export function standalone(svg, title, background) {
  const copy = svg.cloneNode(true);
  const nodes = [...copy.querySelectorAll("*")];
  [...svg.querySelectorAll("*")].forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of node.localName === "text" ? [...STYLED, ...LETTERS] : STYLED)
      nodes[i].setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "tabindex", "role", "aria-roledescription"]) nodes[i].removeAttribute(name);
  });
  for (const node of copy.querySelectorAll("[data-live]")) node.remove();
  const [width, height] = ["width", "height"].map((name) => Number(svg.getAttribute(name)));
  const color = getComputedStyle(svg).color;
  const heading = s(
    "text",
    { x: 14, y: -12, fill: color, "font-size": 15, "font-weight": 600, "font-family": getComputedStyle(svg).fontFamily },
    title,
  );
  copy.prepend(s("title", {}, title), s("rect", { y: -36, width, height: height + 36, fill: background }), heading);
  const size = { width, height: height + 36, viewBox: `0 -36 ${width} ${height + 36}` };
  for (const [name, value] of Object.entries(size)) copy.setAttribute(name, value);
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
}

/** The same as a PNG, at twice the size. */
export async function png(text) {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  await image.decode();
  const canvas = h("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
