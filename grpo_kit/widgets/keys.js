// A page, and the keys that are pressed anywhere in the panel around it: they go to the kernel, with the page's number.
// While somebody types only those with Ctrl do. "n" goes to the note, if there is one; Enter and Escape leave a field.
function render({ model, el }) {
  let panel = null, waiting = 0;

  function pressed(event) {
    if (!panel.contains(event.target) || event.altKey) return;
    const field = event.target.matches("input, textarea, select") ? event.target : null;
    const key = (event.ctrlKey || event.metaKey ? "ctrl+" : "") + event.key.toLowerCase();
    const isHeard = model.get("heard").includes(key) && (!field || key.startsWith("ctrl+"));
    const leaves = field && (key === "escape" || (key === "enter" && field.matches("input")));
    const text = panel.querySelector(".grpo-kit-note input"), note = !field && key === "n" && text;
    const isOurs = isHeard || leaves || note;
    if (isOurs || !(field || event.ctrlKey || event.metaKey)) {
      event.stopPropagation(); // JupyterLab's own "a" inserts a cell, and "x" cuts one
    }
    if (!isOurs) return;
    event.preventDefault();
    const place = [...panel.querySelectorAll("textarea")].indexOf(field), typed = field?.value ?? "";
    if (field) {
      field.blur(); // a field that is left sends its text
      (leaves ? panel : field).focus({ preventScroll: true });
    }
    if (note) note.focus();
    else if (isHeard && !event.repeat) { // with the texts, whose own messages may come later
      model.send({ key, number: model.get("number"), note: text?.value ?? "", place, typed });
    }
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
    <div class="off">Click here, or press Tab, to use the keyboard.</div>
    <div class="on">Press ${model.get("help")}</div></div>`;
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
