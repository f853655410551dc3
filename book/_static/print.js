// On paper a page is light, and a live figure is what it shows, without its controls.
"use strict";
(() => {
  const PAPER = "@media print { .controls, button, .more { display: none } figure { border: 0; padding: 0 } }";
  const root = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    for (const { shadowRoot } of document.querySelectorAll(".wn-figure > div"))
      if (shadowRoot && !shadowRoot.querySelector("style.paper")) {
        const style = document.createElement("style");
        style.className = "paper";
        style.textContent = PAPER;
        shadowRoot.append(style);
      }
  });
  addEventListener("afterprint", () => {
    root.dataset.theme = theme;
  });
})();
