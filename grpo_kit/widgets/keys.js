// A page, and the keys that are pressed anywhere in the panel around it: they go to the kernel, with the page's number.
// "n" goes to the panel's text field, from which Enter and Escape come back.
function render({ model, el }) {
  let panel = null, waiting = 0;

  function pressed(event) {
    if (!panel.contains(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target.matches("input, textarea, select"), key = event.key.toLowerCase();
    if (isTyping && key !== "enter" && key !== "escape") return;
    event.stopPropagation(); // JupyterLab's own "a" inserts a cell, and "x" cuts one
    if (isTyping) {
      panel.focus({ preventScroll: true }); // a field that is left sends its text
    } else if (key === "n") {
      panel.querySelector(".grpo-kit-note input")?.focus();
    } else if (model.get("heard").includes(key)) {
      if (!event.repeat) model.send({ key, number: model.get("number") });
    } else return;
    event.preventDefault();
  }

  function attach() { // once Jupyter has put this view into the panel
    panel = el.closest(".grpo-kit-keys");
    if (!panel) {
      waiting = requestAnimationFrame(attach);
      return;
    }
    panel.tabIndex = 0;
    window.addEventListener("keydown", pressed, true); // before JupyterLab, which hears the document's
  }

  function show() {
    el.firstChild.innerHTML = model.get("page");
  }

  el.innerHTML = `<div class="grpo-kit-page"></div><div class="grpo-kit-keys-help">
    <div class="off">Click here, or press Tab, to label by keyboard.</div>
    <div class="on">Press the key that a button names, or <kbd>n</kbd> to write a note, from which <kbd>Enter</kbd> comes
    back.</div></div>`;
  model.on("change:page", show);
  show();
  attach();
  return () => {
    model.off("change:page", show);
    cancelAnimationFrame(waiting);
    window.removeEventListener("keydown", pressed, true);
  };
}

export default { render };
