// Small things the pages need: paper is white and shows all proofs; a link into a fold opens it; what
// scrolls sideways can be reached with the keyboard; search works from disk.
"use strict";

(() => {
  const SCROLLERS =
    "div.math, mjx-container.wide-math, div.highlight pre, .cell_output .output, " +
    ".pst-scrollable-table-container";

  function openFor(hash) {
    if (hash.length < 2) return;
    let node = document.getElementById(decodeURIComponent(hash.slice(1)));
    const target = node;
    let opened = false;
    for (; node; node = node.parentElement) {
      if (node.tagName === "DETAILS" && !node.open) {
        node.open = true;
        opened = true;
      }
    }
    if (opened) target.scrollIntoView();
  }

  function markWideMath() {
    for (const node of document.querySelectorAll("mjx-container:not([display])")) {
      const room = node.parentElement.clientWidth;
      const wide = room > 0 && node.firstElementChild?.getBoundingClientRect().width > room + 1;
      node.classList.toggle("wide-math", Boolean(wide));
    }
  }

  function markScrollers() {
    markWideMath();
    for (const node of document.querySelectorAll(SCROLLERS)) {
      const scrolls = node.scrollWidth > node.clientWidth;
      // The theme has put -1 on blocks that did not scroll, or were folded away, on loading.
      if (scrolls && node.tabIndex < 0) {
        node.tabIndex = 0;
        node.dataset.bookScroller = "";
      } else if (!scrolls && "bookScroller" in node.dataset) {
        node.removeAttribute("tabindex");
        delete node.dataset.bookScroller;
      }
    }
  }

  // Opening all folds for print would otherwise measure the page once for each.
  let marking = 0;
  function markSoon() {
    cancelAnimationFrame(marking);
    marking = requestAnimationFrame(markScrollers);
  }

  const root = document.documentElement;
  let closed = [];
  let theme = "";
  window.addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light"; // paper is white
    closed = [...document.querySelectorAll("details.fold:not([open])")];
    for (const fold of closed) fold.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const fold of closed) fold.open = false;
    closed = [];
    root.dataset.theme = theme;
  });

  // From disk a page may not fetch another one, so results come without excerpts.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }

  window.addEventListener("hashchange", () => openFor(location.hash));
  window.addEventListener("resize", markSoon);
  // Folds change what is laid out.
  document.addEventListener("toggle", markSoon, true);
  window.addEventListener("load", () => {
    openFor(location.hash);
    markScrollers();
    window.MathJax?.startup?.promise?.then(markScrollers);
  });
})();
