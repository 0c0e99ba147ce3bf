// Sorts a table by a click on a heading: numbers by data-order, other cells by their text, what is blank last.
function sortRows(table, at, down) {
  for (const th of table.tHead.rows[0].cells) th.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[at].setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows], sign = down ? -1 : 1;
  const orders = new Map(rows.map(row => [row, row.cells[at].dataset.order ?? row.cells[at].textContent]));
  const compare = (a, b) => (a === "") - (b === "") || sign * (a - b || a.localeCompare(b, undefined, { numeric: true }));
  const sorted = [...rows].sort((one, other) => compare(orders.get(one), orders.get(other)));
  if (sorted.some((row, place) => row !== rows[place])) {
    const focused = document.activeElement;
    table.tBodies[0].append(...sorted); // which takes the focus away
    if (table.contains(focused)) focused.focus({ preventScroll: true });
  }
}

// Makes buttons of the headings; `sorted` is told by which heading, and whether downwards. Numbers: largest first.
function liven(box, sorted = () => {}) {
  const table = box.querySelector("table");
  for (const th of table.tHead.querySelectorAll("th")) {
    const button = document.createElement("button");
    button.textContent = th.textContent;
    button.onclick = () => {
      const was = th.getAttribute("aria-sort");
      const down = was ? was === "ascending" : table.tBodies[0].rows[0]?.cells[th.cellIndex].dataset.order !== undefined;
      sortRows(table, th.cellIndex, down);
      sorted(th.textContent, down);
    };
    th.replaceChildren(button);
  }
}
