// Looks at a page of the built book and returns what it shows as plain data, for pages.py.
// Each function is evaluated in the page, once MathJax is done.
({
  // What can be read off the page as it stands, folds closed.
  look() {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const short = (node) => node.outerHTML.replace(/\s+/g, " ").slice(0, 160);
    const words = (node) => (node.textContent ?? "").replace(/\s+/g, " ").trim();

    // Text by paragraph, without code and without what MathJax has set.
    const OUT = "pre, code, kbd, script, style, noscript, template, mjx-container, .headerlink";
    const BLOCK = "p, li, td, th, dt, dd, h1, h2, h3, h4, figcaption, summary, text, div, body";
    const blocks = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const parent = walker.currentNode.parentElement;
      if (parent.closest(OUT)) continue;
      const block = parent.closest(BLOCK);
      blocks.set(block, (blocks.get(block) ?? "") + walker.currentNode.data);
    }

    const formulas = [...(globalThis.MathJax?.startup?.document?.math ?? [])].map((item) => {
      const root = item.typesetRoot;
      const label = root?.querySelector('[data-mml-node="mlabeledtr"] > [data-mml-node="mtd"]');
      const box = label?.getBoundingClientRect();
      const room = root?.closest("div.math, body").getBoundingClientRect();
      const spoken = root?.querySelector("mjx-assistive-mml");
      return {
        tex: item.math,
        tags: [...item.math.matchAll(/\\tag\*?\s*\{([^}]*)\}/g)].map((match) => match[1]),
        set: Boolean(root?.isConnected && root.getBoundingClientRect().width > 0)
          || Boolean(root?.closest("details:not([open])")),
        wrong: Boolean(root?.querySelector('[data-mml-node="merror"], mjx-merror, merror')),
        // An unknown command is no error to MathJax: it is set as red text.
        unknown: [...(spoken?.querySelectorAll("mtext") ?? [])].map(words)
          .filter((text) => /^\\[A-Za-z]+$/.test(text)),
        label: words(spoken?.querySelector("mlabeledtr > mtd") ?? { textContent: "" }),
        shown: Boolean(root?.closest("details:not([open])"))
          || (box !== undefined && box.width > 0 && box.right <= room.right + 1),
      };
    });

    const seen = (node) => node.checkVisibility();
    const REMOTE = "script[src], img[src], iframe[src], source[src], video[src], audio[src], " +
      "embed[src], object[data], link[href]:not([rel=canonical]):not([rel=license])";
    return {
      title: document.title,
      lang: document.documentElement.lang,
      headings: all("h1").filter(seen).map((node) => words(node).replace(/#$/, "")),
      text: [...blocks.values()].map((text) => text.replace(/\s+/g, " ").trim()).filter(Boolean),
      formulas,
      untouched: all("span.math, div.math").filter((n) => !n.querySelector("mjx-container"))
        .map(short),
      ids: all("[id]").map((node) => node.id),
      links: all("a[href]").map((a) => ({
        href: a.getAttribute("href"), url: a.href, text: words(a) || a.title || a.ariaLabel || "",
      })),
      remote: all(REMOTE).filter((n) => /^https?:/.test(n.src ?? n.href ?? n.data)).map(short),
      images: all("img").map((img) => ({
        html: short(img), alt: img.getAttribute("alt"), broken: img.complete && !img.naturalWidth,
        decorates: Boolean(img.closest("a, button")) && words(img.closest("a, button")) !== "",
      })),
      drawings: all("article svg").filter((n) => !n.closest("[aria-hidden=true], mjx-container, " +
        ".qtools-explorable, svg svg, button")).map((svg) => ({
        html: short(svg), role: svg.getAttribute("role"), alt: svg.getAttribute("aria-label"),
      })),
      statements: all(".box.statement").map((box) => ({
        id: box.id, label: words(box.querySelector(".box-label, strong") ?? box),
      })),
      quotes: all("blockquote > p:first-child > strong:first-child").map(words),
      captions: all("p > em:only-child").map((em) => ({
        id: em.parentElement.id, text: words(em.parentElement),
      })),
      explorables: all(".qtools-explorable").length,
    };
  },

  // Whether the page is wider than its window, and which elements make it so.
  overflow() {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const scrolls = (node) => {
      for (let n = node.parentElement; n && n !== document.body; n = n.parentElement)
        if (getComputedStyle(n).overflowX !== "visible") return true;
      return false;
    };
    const wide = [...document.querySelectorAll("body *")].filter((node) =>
      node.getBoundingClientRect().right > width + 1 && !scrolls(node));
    const by = document.documentElement.scrollWidth - width;
    return [`${by} px too wide at ${width} px: ` + wide.slice(-3).map((node) =>
      node.outerHTML.replace(/\s+/g, " ").slice(0, 120)).join(" | ")];
  },

  // The page's two colours as numbers between 0 (black) and 1 (white).
  lightness() {
    const value = (text) => {
      const [r, g, b] = text.match(/[\d.]+/g).map(Number);
      return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
    };
    const ground = [document.body, document.documentElement]
      .map((node) => getComputedStyle(node).backgroundColor)
      .find((colour) => !/, 0\)$|transparent/.test(colour)) ?? "rgb(255, 255, 255)";
    const text = document.querySelector("article p, main p, p") ?? document.body;
    return { ground: value(ground), text: value(getComputedStyle(text).color) };
  },

  // What has no place on paper but is there, and folded text that stays hidden.
  paper() {
    const seen = (node) => node.checkVisibility({ contentVisibilityAuto: true }) &&
      node.getBoundingClientRect().height > 0;
    const furniture = ".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, " +
      ".bd-header-article, .prev-next-footer, #pst-back-to-top, .skip-link, .copybtn";
    return {
      furniture: [...document.querySelectorAll(furniture)].filter(seen).map((n) => n.className),
      hidden: [...document.querySelectorAll("details.fold > :not(summary)")]
        .filter((node) => !seen(node)).map((node) => node.textContent.trim().slice(0, 60)),
    };
  },

  // Elements the keyboard reaches whose look stays the same when it does; one of each kind.
  unmarked() {
    const look = (node) => {
      const style = getComputedStyle(node);
      const outline = style.outlineStyle === "none" || style.outlineWidth === "0px"
        || /, 0\)$/.test(style.outlineColor) ? "" : style.outlineColor + style.outlineWidth;
      return [outline, style.boxShadow, style.borderColor, style.backgroundColor, style.stroke,
        style.strokeWidth, style.strokeOpacity, style.opacity].join("; ");
    };
    const kinds = new Map();
    for (const node of document.querySelectorAll(
      "a[href], button, input, select, summary, textarea, [tabindex='0']")) {
      // A group of an svg that is not displayed counts as visible.
      if (!node.checkVisibility({ visibilityProperty: true }) || node.disabled
        || getComputedStyle(node).display === "none") continue;
      const kind = `${node.tagName}.${node.getAttribute("class")} in ` +
        node.closest("nav, article, header, footer, aside, main, body").tagName;
      if (!kinds.has(kind)) kinds.set(kind, node);
    }
    const same = [];
    for (const [kind, node] of kinds) {
      document.activeElement?.blur();
      // Some controls draw the ring on a part of themselves.
      const parts = [node, ...node.querySelectorAll("circle, rect, span")].slice(0, 12);
      const before = parts.map(look).join();
      node.focus({ preventScroll: true });
      if (document.activeElement !== node || parts.map(look).join() === before) same.push(kind);
    }
    document.activeElement?.blur();
    scrollTo(0, 0);
    return same;
  },

  // Drop the insides of the formulas, half of a chapter's nodes, once they have been looked at: an
  // svg has the size that its attributes say and nothing in it scrolls, so the layout stays.
  empty() {
    for (const svg of document.querySelectorAll("mjx-container > svg")) svg.replaceChildren();
  },

  // Drop what axe would look at thousands of times with the same answer: the insides of figures,
  // all but three of the formulas' spoken forms, all but the first code token of each colour in
  // each kind of block, and all but thirty of the entries that were made from docstrings.
  thin() {
    const all = (selector) => [...document.querySelectorAll(selector)];
    for (const spoken of all("mjx-assistive-mml").slice(3)) spoken.remove();
    for (const node of all("svg.book-figure *")) if (!node.closest("text") &&
      !node.querySelector("text")) node.remove();
    for (const entry of all("section:not(:has(section)):has(.api-source-line)").slice(30))
      entry.remove();
    const seen = new Set();
    for (const token of all(".highlight pre span")) {
      const kind = `${token.className} ${token.closest("[class*=highlight-]")?.className} ` +
        Boolean(token.closest("details"));
      if (seen.has(kind)) token.replaceWith(...token.childNodes);
      else seen.add(kind);
    }
  },
  // Keep paragraphs, rows, items and code blocks until each kind of element in them is there three
  // times: the same tags, classes and styles, from the element out to the body, have the same
  // colours. Only for rules about colour. The empty drawings of formulas, each of its own size, go.
  sample() {
    for (const svg of document.querySelectorAll("mjx-container > svg")) svg.remove();
    const kinds = new Map();
    const kind = (node) => {
      if (node === document.body) return "";
      if (!kinds.has(node)) kinds.set(node, `${kind(node.parentElement)} > ${node.tagName}.` +
        `${node.getAttribute("class")}[${node.getAttribute("style")}]`);
      return kinds.get(node);
    };
    const [kept, seen] = [new Set(), new Map()];
    for (const node of document.querySelectorAll("p, li, tr, pre, dt, dd")) {
      if (!node.isConnected || kept.has(node) || node.closest(".qtools-explorable")) continue;
      const all = [node, ...node.querySelectorAll("*")];
      if (all.every((n) => seen.get(kind(n)) >= 3)) node.remove();
      else for (const n of all) {
        kept.add(n);
        seen.set(kind(n), (seen.get(kind(n)) ?? 0) + 1);
      }
    }
  },
})
