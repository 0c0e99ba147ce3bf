// A table whose rows are ticked, searched and sorted, with columns to hide. What changes is changed in its place, so that
// focus, search and scrolling stay. The browser remembers order and columns by the table's name. tables.js comes first.
function render({ model, el }) {
  const name = `grpo-kit-${model.get("name")}`;
  const kept = { by: "", down: true, hidden: model.get("hidden"), ...JSON.parse(localStorage.getItem(name) ?? "{}") };
  const keep = () => localStorage.setItem(name, JSON.stringify(kept));
  const made = (tag, given, ...inside) => {
    const node = Object.assign(document.createElement(tag), given);
    node.append(...inside);
    return node;
  };
  const find = made("input", { type: "search", placeholder: "words, state:running, reward>0.5", size: 30 });
  const choices = made("div", { className: "choices" });
  const columns = made("details", {}, made("summary", { textContent: "Columns" }), choices);
  const count = made("span", { className: "count" });
  count.setAttribute("role", "status");
  const box = made("div", { className: "grpo-kit-table", tabIndex: 0 });
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", model.get("label"));
  const tools = made("div", { className: "tools" }, made("label", {}, "Find ", find), columns, count);
  el.classList.add("grpo-kit-live");
  el.append(tools, box);

  const rows = () => [...(box.querySelector("tbody")?.rows ?? [])];
  const heads = () => [...box.querySelectorAll("thead th")].map(th => th.textContent);
  const tick = row => row.cells[0].firstChild;

  const SIGNS = { ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b };

  // What a term asks of a row; null where it names no column, or compares with what is no number.
  function asks(term) {
    const [, field, sign, value] = term.match(/^([^:<>]+)(:|[<>]=?)(.*)$/) ?? [];
    const at = field ? heads().findIndex(head => head.toLowerCase().startsWith(field)) + 1 : 0;
    if (sign in SIGNS) return at && value && !isNaN(value) ? row => SIGNS[sign](parseFloat(row.cells[at].dataset.order), +value) : null;
    return row => (at ? row.cells[at].textContent.toLowerCase().includes(value) : row.textContent.toLowerCase().includes(term));
  }

  function arrange() { // order, columns, search and ticks
    const table = box.querySelector("table"), terms = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const asked = terms.map(asks), unclear = terms.filter((_, i) => !asked[i]);
    const by = heads().indexOf(kept.by) + 1;
    if (by) sortRows(table, by, kept.down);
    const hidden = heads().map(head => kept.hidden.includes(head));
    for (const row of table.rows) hidden.forEach((is, at) => (row.cells[at + 1].hidden = is));
    const ticked = model.get("ticked");
    for (const row of rows()) {
      tick(row).checked = ticked.includes(row.dataset.key);
      row.classList.toggle("ticked", tick(row).checked);
      row.hidden = !asked.every(ask => !ask || ask(row));
    }
    const all = rows(), shown = all.filter(row => !row.hidden).length;
    const told = unclear.length ? `; not understood: ${unclear.join(" ")} (as in state:running, reward>0.5)` : "";
    count.textContent = `${shown < all.length ? `${shown} of ` : ""}${all.length} shown, ${ticked.length} selected${told}`;
  }

  function offer() { // the columns to hide
    choices.replaceChildren(...heads().map(head => {
      const input = made("input", { type: "checkbox", checked: !kept.hidden.includes(head) });
      input.onchange = () => {
        kept.hidden = kept.hidden.filter(each => each !== head).concat(input.checked ? [] : [head]);
        keep();
        arrange();
      };
      return made("label", {}, input, ` ${head}`);
    }));
  }

  function fill() {
    const given = made("template", { innerHTML: model.get("html") }).content.querySelector("table");
    for (const row of given.tBodies[0].rows) {
      const input = made("input", { type: "checkbox" });
      input.setAttribute("aria-label", `select ${row.cells[0].textContent}`);
      row.prepend(made("td", {}, input));
    }
    const same = heads().join("\n") === [...given.tHead.querySelectorAll("th")].map(th => th.textContent).join("\n");
    if (same) {
      const there = new Map(rows().map(row => [row.dataset.key, row]));
      for (const row of [...given.tBodies[0].rows]) {
        const old = there.get(row.dataset.key);
        there.delete(row.dataset.key);
        if (!old) box.querySelector("tbody").prepend(row);
        else [...row.cells].forEach((cell, at) => at && cell.outerHTML !== old.cells[at].outerHTML && old.cells[at].replaceWith(cell));
      }
      there.forEach(row => row.remove());
    } else {
      given.tHead.rows[0].prepend(made("td", {}));
      box.replaceChildren(given);
      liven(box, (by, down) => { Object.assign(kept, { by, down }); keep(); });
      offer();
    }
    arrange();
  }

  function select(keys) {
    model.set("ticked", rows().map(row => row.dataset.key).filter(key => keys.includes(key)));
    model.save_changes();
    arrange();
  }

  box.onclick = event => { // on a row: it alone; on its box, or with Ctrl: it too
    columns.open = false;
    const row = event.target.closest("tbody tr"), key = row?.dataset.key, ticked = model.get("ticked");
    if (!row || event.target.closest("details")) return;
    const adds = event.target === tick(row) || event.ctrlKey || event.metaKey;
    select(adds ? (ticked.includes(key) ? ticked.filter(each => each !== key) : [...ticked, key]) : [key]);
  };
  box.onkeydown = event => { // up and down, from tick to tick
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], shown = rows().filter(row => !row.hidden);
    const at = shown.indexOf(event.target.closest("tbody tr"));
    if (!by || at < 0) return;
    event.preventDefault();
    if (shown[at + by]) tick(shown[at + by]).focus();
  };
  find.oninput = arrange;

  // JupyterLab hears no plain key that is pressed in the panel around: its "x" cuts the cell.
  const hush = event => {
    if (!(el.closest(".grpo-kit-hub") ?? el).contains(event.target)) return;
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
  };
  window.addEventListener("keydown", hush, true);
  model.on("change:html", fill);
  model.on("change:ticked", arrange);
  fill();
  return () => {
    model.off("change:html", fill);
    model.off("change:ticked", arrange);
    window.removeEventListener("keydown", hush, true);
  };
}

export default { render };
