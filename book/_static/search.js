// A search's result opens with its words marked, and no word is kept anywhere.
"use strict";
// A page from a file may not read other files, which is how the search shows excerpts.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
addEventListener("DOMContentLoaded", async () => {
  const results = document.getElementById("search-results");
  if (!results) {
    // The theme has the search's script on every page, so Sphinx takes each for the search page.
    await window.MathJax?.startup?.promise; // a mark within a formula's text would break it
    SphinxHighlight.highlightSearchWords();
    return;
  }
  const words = new URLSearchParams(location.search).get("q") ?? "";
  for (const kind of ["pointerdown", "focusin"])
    results.addEventListener(kind, ({ target }) => {
      const link = target.closest("a");
      if (link) link.search = new URLSearchParams({ highlight: words });
    });
  addEventListener("pagehide", () => localStorage.removeItem("sphinx_highlight_terms"));
});
