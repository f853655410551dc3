// Folded cells that follow each other have one bar: it opens and closes all of them.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const fold = (cell) => cell?.matches("div.cell") && cell.querySelector(":scope > details.above-input");
  for (const cell of document.querySelectorAll("div.cell")) {
    const before = cell.previousElementSibling;
    const [first, own] = [fold(before), fold(cell)];
    if (!first || !own || before.querySelector(":scope > .cell_output")) continue;
    own.classList.add("wn-joined");
    for (const [one, other] of [
      [first, own],
      [own, first],
    ])
      one.addEventListener("toggle", () => (other.open = one.open));
  }
});
