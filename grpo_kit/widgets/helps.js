// What ipywidgets leaves out: the help of every control, a name for each slider, folds and curves that the keyboard
// reaches, and a word when the kernel is gone.
// "restarting" and the like are statuses of JupyterLab's; other front ends keep their own word for a lost kernel.
const GONE = ["restarting", "autorestarting", "terminating", "dead"];
const FOLD = ".jupyter-widget-Collapse-header";

function render({ model, el }) {
  const session = model.widget_manager?.context?.sessionContext;
  let panel = null, waiting = 0;
  el.innerHTML = '<div role="status"></div>';

  function name() {
    const helps = model.get("helps");
    for (const image of panel.querySelectorAll("img.widget-image")) image.alt = "The run's curves, as they stand";
    for (const label of panel.querySelectorAll(".widget-label")) {
      const help = helps[label.textContent], control = label.parentElement;
      if (!help) continue;
      control.title = help;
      for (const field of control.querySelectorAll("input, select, [role=slider]")) {
        field.title = help;
        if (!field.labels?.length) field.setAttribute("aria-label", label.textContent);
      }
    }
    for (const fold of panel.querySelectorAll(FOLD)) {
      Object.assign(fold, { tabIndex: 0, role: "button" });
      fold.ariaExpanded = fold.parentElement.classList.contains("jupyter-widget-Collapse-open");
    }
  }

  // JupyterLab hears no plain key that is pressed on a fold or a curve: its arrows and Enter go to the cells.
  function press(event) {
    const part = event.target;
    if (!panel?.contains(part) || !part.matches(`${FOLD}, .grpo-kit-curves .plot`)) return;
    part.toggleAttribute("data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
    if (!part.matches(FOLD) || ![" ", "Enter"].includes(event.key)) return;
    event.preventDefault();
    part.click();
  }

  function watch(_, status) {
    if (!panel || !GONE.includes(status)) return;
    el.firstChild.textContent = "The kernel is gone: run this cell again. Runs under way go on.";
    panel.classList.add("grpo-kit-gone");
    for (const part of panel.children) part.inert = part !== el;
  }

  const observer = new MutationObserver(name); // sliders are drawn anew with their options
  function attach() { // once Jupyter has put this view into the panel
    panel = el.closest(".grpo-kit-helped");
    if (!panel) {
      waiting = requestAnimationFrame(attach);
      return;
    }
    name();
    observer.observe(panel, { childList: true, subtree: true, attributes: true, attributeFilter: ["class"] });
  }

  attach();
  session?.statusChanged.connect(watch);
  window.addEventListener("keydown", press, true);
  return () => {
    window.removeEventListener("keydown", press, true);
    cancelAnimationFrame(waiting);
    observer.disconnect();
    session?.statusChanged.disconnect(watch);
  };
}

export default { render };
