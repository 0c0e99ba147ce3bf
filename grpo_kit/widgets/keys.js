// A page, and the keys that are pressed anywhere in the panel around it: they go to the kernel, with the page's number.
// While somebody types only those with Ctrl do. "n" goes to the note, if there is one; Enter and Escape leave a field.
// A click on a button that does what a key does goes the same way.
const PRESSES = "grpo-kit-press-";

function render({ model, el }) {
  let panel = null, waiting = 0;
  const edited = new Set(); // the textareas that were typed in since the last key
  const note = () => panel.querySelector(".grpo-kit-note input");

  function send(key) { // with the texts, whose own messages may come later
    const places = [...panel.querySelectorAll("textarea")];
    const typed = [...edited].filter(each => places.includes(each)).map(each => [places.indexOf(each), each.value]);
    edited.clear();
    model.send({ key, number: model.get("number"), note: note()?.value ?? "", typed });
  }

  function typed(event) {
    if (panel.contains(event.target) && event.target.matches("textarea")) edited.add(event.target);
  }

  function clicked(event) {
    const button = panel.contains(event.target) && event.target.closest(`button[class*=${PRESSES}]`);
    if (!button) return;
    event.stopPropagation(); // the button's own message has no texts
    send([...button.classList].find(name => name.startsWith(PRESSES)).slice(PRESSES.length));
  }

  function pressed(event) {
    if (!panel.contains(event.target) || event.altKey) return;
    const field = event.target.matches("input, textarea, select") ? event.target : null;
    const key = (event.ctrlKey || event.metaKey ? "ctrl+" : "") + event.key.toLowerCase();
    const isHeard = model.get("heard").includes(key) && (!field || key.startsWith("ctrl+"));
    const leaves = field && (key === "escape" || (key === "enter" && field.matches("input")));
    const text = !field && key === "n" && note();
    const isOurs = isHeard || leaves || text;
    if (isOurs || !(field || event.ctrlKey || event.metaKey)) {
      event.stopPropagation(); // JupyterLab's own "a" inserts a cell, and "x" cuts one
    }
    if (!isOurs) return;
    event.preventDefault();
    if (field) {
      field.blur(); // a field that is left sends its text
      (leaves ? panel : field).focus({ preventScroll: true });
    }
    if (text) text.focus();
    else if (isHeard && !event.repeat) send(key);
  }

  const hearing = Object.entries({ keydown: pressed, input: typed, click: clicked });

  function attach() { // once Jupyter has put this view into the panel
    panel = el.closest(".grpo-kit-keys");
    if (!panel) {
      waiting = requestAnimationFrame(attach);
      return;
    }
    panel.tabIndex = 0;
    for (const [name, hears] of hearing) window.addEventListener(name, hears, true); // before JupyterLab does
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
    for (const [name, hears] of hearing) window.removeEventListener(name, hears, true);
  };
}

export default { render };
