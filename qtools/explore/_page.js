// Stands in for the notebook's model in a page without a kernel: the part of the interface that
// explorables use. Every explorable of this kind that is on the page is drawn, once.
function pageModel(state) {
  const values = { ...state };
  const listeners = {};
  return {
    get: (name) => values[name],
    set(name, value) {
      const changes = typeof name === "string" ? { [name]: value } : name;
      for (const key of Object.keys(changes)) {
        if (values[key] === changes[key]) continue;
        values[key] = changes[key];
        for (const f of [...(listeners["change:" + key] ?? [])]) f();
      }
    },
    save_changes() {},
    on: (event, f) => (listeners[event] ??= []).push(f),
    off(event, f) {
      listeners[event] = (listeners[event] ?? []).filter((g) => g !== f);
    },
  };
}

for (const el of document.querySelectorAll(`[data-explorable="${NAME}"]:not([data-live])`)) {
  const fallback = [...el.childNodes];
  el.dataset.live = "";
  try {
    el.replaceChildren();
    explorable.render({ model: pageModel(JSON.parse(el.dataset.state)), el });
  } catch (error) {
    el.replaceChildren(...fallback);
    throw error;
  }
}
