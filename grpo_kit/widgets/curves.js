// Panels of lines by step. What is drawn, and how it is named, is Python's to say (curves.py); here are hovering, zooming,
// smoothing and clicking. A run's rows are float32, a step after the other, as its columns say.
const EDGE = { left: 48, right: 12, top: 8, bottom: 20 };
const HEIGHT = 240, SMALL = 120, CLICK = 4; // pixels

// A browser that has the runs is sent only rows that are new. They are put in place: what is set would be sent back.
function initialize({ model }) {
  model.on("msg:custom", (said, [fresh]) => {
    const run = model.get("runs")[said.run], old = run ? bytes(run.rows) : [];
    if (old.length > said.after) return; // the page was loaded anew meanwhile, and has them
    if (!run || old.length < said.after) return model.send("all"); // Jupyter gave it an older state meanwhile
    const rows = new Uint8Array(old.length + fresh.byteLength);
    rows.set(old);
    rows.set(bytes(fresh), old.length);
    run.rows = new DataView(rows.buffer);
  });
}

const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

// The columns of a run by name.
function columns(run) {
  const values = new Float32Array(bytes(run.rows).slice().buffer), width = run.columns.length, rows = values.length / width;
  const column = (j) => Float32Array.from({ length: rows }, (_, i) => values[i * width + j]);
  return Object.fromEntries(run.columns.map((name, j) => [name, column(j)]));
}

// The mean of the last `window` steps; steps without a value are left out.
function smooth(values, window) {
  if (window === 1) return values;
  const means = new Float32Array(values.length);
  let sum = 0, count = 0;
  for (let i = 0; i < values.length; i++) {
    if (!isNaN(values[i])) (sum += values[i]), count++;
    if (i >= window && !isNaN(values[i - window])) (sum -= values[i - window]), count--;
    means[i] = count ? sum / count : NaN;
  }
  return means;
}

// Where in `steps`, which rise, the nearest to `step` is.
function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const by = power * [1, 2, 5, 10].find((each) => each * power >= rough), found = [];
  for (let i = Math.ceil(low / by); i * by <= high; i++) found.push(i * by || 0); // not -0
  return found;
}

const number = (value, digits = 5) =>
  isNaN(value) ? "–" : value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");

function make(parent, tag, name, text = "") {
  const made = parent.appendChild(document.createElement(tag));
  made.className = name;
  made.textContent = text;
  return made;
}

function render({ model, el }) {
  let tables = [], window = 1, zoom = null, lit = null, grabbed = null, due = 0;
  const hidden = new Set(), keys = [];
  el.classList.add("grpo-kit-curves");
  const head = make(el, "div", "head"), legend = make(head, "div", "legend");
  const control = make(head, "label", "smoothing"), told = make(control, "span", "");
  const slider = make(control, "input", "");
  Object.assign(slider, { type: "range", min: 0, max: 0.5, step: 0.01, ariaLabel: "smoothing", title: "The share of the steps that a mean is of" });
  const grid = make(el, "div", "panels"), tip = make(el, "div", "tip");
  tip.role = "status"; // read out, as the keyboard moves it

  // What each line has, from the tables and as it is smoothed: `steps`, `values`, and `spread` of a band.
  function fill(line) {
    const table = tables[line.run], of = line.look === "mean" || line.look === "band" ? window : 1;
    const spread = line.spread && smooth(table[line.spread], of);
    return { ...line, steps: table.step, values: smooth(table[line.column], of), spread };
  }

  function read() {
    due = 0;
    tables = model.get("runs").map(columns);
    el.dataset.step = Math.max(...tables.map((table) => table.step.at(-1) ?? 0));
    if (!el.clientWidth) return; // hidden; the observer below calls again
    const share = model.get("smoothing"), longest = Math.max(0, ...tables.map((table) => table.step.length));
    window = share ? Math.max(3, Math.floor(share * longest)) : 1;
    told.textContent = window > 1 ? `mean of the last ${window} steps` : "no smoothing";
    slider.value = share;
    draw();
  }

  const later = () => (due ||= requestAnimationFrame(read)); // once, however much changes

  // The panels' places and legends, which stay while the runs go on.
  function lay() {
    el.classList.toggle("empty", !model.get("panels").length);
    grid.replaceChildren();
    legend.replaceChildren();
    keys.length = 0;
    const labels = new Set();
    for (const panel of model.get("panels")) {
      const box = make(grid, "div", panel.wide ? "panel wide" : "panel"), title = make(box, "div", "title", panel.title);
      make(box, "div", "plot");
      for (const line of panel.lines) {
        if (!line.label || labels.has(line.label)) continue;
        labels.add(line.label);
        key(panel.own ? title : legend, line);
      }
    }
    later();
  }

  function draw() {
    model.get("panels").forEach((panel, i) => plot(panel, panel.lines.map(fill), grid.children[i]));
    for (const [made, label] of keys) made.setAttribute("aria-pressed", !hidden.has(label));
    light();
  }

  // A legend's entry: hovering over it highlights its lines, a click hides them or shows them again.
  function key(parent, line) {
    const made = make(parent, "button", `key ${line.colour}`);
    made.innerHTML = `<svg width="26" height="10" aria-hidden="true">${
      line.look === "band" ? '<rect class="band" width="26" height="10"/>' : `<path class="${line.look}" ${dashes(line)} d="M0 5H26"/>`
    }</svg>`;
    make(made, "span", "", line.label);
    made.title = "Click to hide or show";
    made.onclick = () => {
      if (!hidden.delete(line.label)) hidden.add(line.label);
      leave();
      draw();
    };
    made.onmouseenter = made.onfocus = () => light(line.label);
    made.onmouseleave = made.onblur = () => light(null);
    keys.push([made, line.label]);
  }

  const dashes = (line) => (line.dash ? `stroke-dasharray="${line.dash}"` : "");

  function light(label = lit) {
    lit = label;
    for (const panel of grid.children) {
      const lines = [...panel.querySelectorAll("[data-label]")], has = lines.some((line) => line.dataset.label === lit);
      for (const line of lines) line.classList.toggle("faded", has && line.dataset.label !== lit);
    }
  }

  function plot(panel, lines, box) {
    const width = Math.max(160, box.clientWidth), height = panel.wide ? HEIGHT : SMALL;
    const shown = lines.filter((line) => !hidden.has(line.label));
    const steps = tables.flatMap((table) => (table.step.length ? [table.step[0], table.step.at(-1)] : []));
    const [from, to] = zoom ?? (steps.length ? [Math.min(...steps), Math.max(...steps)] : [0, 1]);
    const right = Math.max(to, from + 1), inner = width - EDGE.left - EDGE.right;
    const x = (step) => EDGE.left + ((step - from) / (right - from)) * inner;
    let low = panel.low ?? Infinity, high = panel.high ?? -Infinity;
    const parts = shown.map((line) => {
      const thin = thinned(line, from, right, inner, panel.clip);
      for (const [, bottom, top] of thin) (low = Math.min(low, bottom)), (high = Math.max(high, top));
      return thin;
    });
    if (!isFinite(low + high)) [low, high] = [0, 1];
    const room = (high - low || Math.abs(high) || 1) * 0.04;
    [low, high] = [low - room, high + room];
    const base = height - EDGE.bottom, y = (value) => base - ((value - low) / (high - low)) * (base - EDGE.top);
    const svg = [];
    for (const value of ticks(low, high, panel.wide ? 5 : 3))
      svg.push(`<path class="grid" d="M${EDGE.left} ${y(value)}H${width - EDGE.right}"/>
        <text x="${EDGE.left - 6}" y="${y(value) + 4}" text-anchor="end">${number(value)}</text>`);
    for (const step of ticks(from, right, panel.wide ? 9 : 3))
      if (Number.isInteger(step)) {
        const anchor = x(step) > width - 30 ? "end" : "middle", at = anchor === "end" ? width : x(step);
        svg.push(`<text x="${at}" y="${height - 5}" text-anchor="${anchor}">${step.toLocaleString("en")}</text>`);
      }
    shown.forEach((line, i) => svg.push(`<g class="line ${line.colour}" data-label="">${path(line, parts[i], x, y)}</g>`));
    const [, picked] = model.get("picked");
    if (picked >= from && picked <= right) svg.push(`<path class="picked" d="M${x(picked)} ${EDGE.top}V${base}"/>`);
    svg.push(`<path class="cross" d="M0 ${EDGE.top}V${base}"/><rect class="zoomed" y="${EDGE.top}" height="${base - EDGE.top}"/>`);
    const area = box.lastChild;
    area.innerHTML = `<svg width="${width}" height="${height}" role="img">${svg.join("")}</svg>`;
    area.firstChild.setAttribute("aria-label", `${panel.title} by step`);
    area.querySelectorAll("[data-label]").forEach((each, i) => (each.dataset.label = shown[i].label));
    const step = (event) => from + ((event.clientX - area.getBoundingClientRect().left - EDGE.left) / inner) * (right - from);
    area.onpointermove = (event) => hover(event, panel, shown, step(event), x, y, area);
    area.onpointerleave = () => !grabbed && leave();
    area.onpointerdown = (event) => {
      grabbed = { at: event.clientX, step: step(event) };
      area.setPointerCapture(event.pointerId);
    };
    area.onpointerup = (event) => release(event, step(event), area);
    area.ondblclick = () => ((zoom = null), draw());
    Object.assign(area, { tabIndex: 0, role: "application" });
    area.ariaLabel = `${panel.title}: arrows go from step to step, Enter opens its completions`;
    area.onblur = leave;
    area.onkeydown = (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], line = shown.find((each) => each.steps.length);
      if (event.key === "Enter") pick(area);
      if (!by || !line) return;
      event.preventDefault();
      const [, last] = JSON.parse(area.dataset.pick ?? "[0, 0]"), frame = area.getBoundingClientRect();
      const i = Math.max(0, Math.min(nearest(line.steps, last) + by, line.steps.length - 1)), at = line.steps[i];
      hover({ clientX: frame.left + x(at), clientY: frame.top + y(line.values[i]) }, panel, shown, at, x, y, area);
    };
  }

  // A line's points that are on the screen, as [step, lowest, highest, last]: one for each pixel where there are more.
  function thinned(line, from, to, inner, clip) {
    const found = [], end = nearest(line.steps, to), within = (value) => (clip ? Math.min(1, Math.max(0, value)) : value);
    let pixel = null;
    for (let i = nearest(line.steps, from); i <= end && i < line.steps.length; i++) {
      const value = line.values[i], by = line.spread ? line.spread[i] : 0;
      if (isNaN(value) || isNaN(by) || line.steps[i] < from || line.steps[i] > to) continue;
      const here = end > 2 * inner ? Math.floor(((line.steps[i] - from) / (to - from)) * inner) : null, last = found.at(-1);
      const [bottom, top] = line.spread ? [within(value - by), within(value + by)] : [value, value];
      if (here !== null && here === pixel)
        found[found.length - 1] = [last[0], Math.min(last[1], bottom), Math.max(last[2], top), value];
      else found.push([line.steps[i], bottom, top, value]);
      pixel = here;
    }
    return found;
  }

  function path(line, points, x, y) {
    const at = ([step], value) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    if (line.look === "band") {
      const edge = [...points.map((each) => at(each, each[2])), ...points.toReversed().map((each) => at(each, each[1]))];
      return edge.length ? `<path class="band" d="M${edge.join("L")}Z"/>` : "";
    }
    const each = points.flatMap((p) => (p[1] === p[2] ? [at(p, p[3])] : [at(p, p[1]), at(p, p[2]), at(p, p[3])]));
    const drawn = each.length > 1 ? `<path class="${line.look}" ${dashes(line)} d="M${each.join("L")}"/>` : "";
    if (line.look !== "dots" && each.length !== 1) return drawn;
    return drawn + points.map((p) => `<circle r="3" cx="${x(p[0]).toFixed(1)}" cy="${y(p[3]).toFixed(1)}"/>`).join("");
  }

  // Says what is at the step that is pointed at, of each line of the panel; the nearest line is the one that a click means.
  function hover(event, panel, lines, step, x, y, area) {
    const seen = lines.filter((line) => line.steps.length);
    if (!seen.length) return;
    const up = event.clientY - area.getBoundingClientRect().top;
    const rows = seen.map((line) => ({ line, i: nearest(line.steps, step), value: NaN }));
    for (const row of rows) row.value = row.line.values[row.i];
    const distance = (row) => (isNaN(row.value) || row.line.look === "band" ? Infinity : Math.abs(y(row.value) - up));
    const best = rows.reduce((one, other) => (distance(other) < distance(one) ? other : one)), at = best.line.steps[best.i];
    area.dataset.pick = JSON.stringify([best.line.run, at]);
    leave();
    const cross = area.querySelector(".cross");
    cross.setAttribute("transform", `translate(${x(at)})`);
    cross.classList.add("on");
    if (grabbed && Math.abs(event.clientX - grabbed.at) > CLICK) {
      const [left, right] = [x(grabbed.step), x(step)].toSorted((a, b) => a - b), marked = area.querySelector(".zoomed");
      marked.setAttribute("x", left);
      marked.setAttribute("width", right - left);
    }
    const runs = model.get("runs");
    tip.replaceChildren();
    make(tip, "b", "", `${runs.length > 1 ? "" : `${runs[0].name}, `}step ${at.toLocaleString("en")}`);
    for (const row of rows) {
      if (isNaN(row.value) && row.line.look === "dots") continue; // scores that not every step has
      const made = make(tip, "div", `${row.line.colour}${row === best ? " near" : ""}`);
      made.innerHTML = `<svg width="16" height="8" aria-hidden="true"><path class="mean" ${dashes(row.line)} d="M0 4H16"/></svg>`;
      const value = row.line.spread ? `± ${number(row.line.spread[row.i], 4)}` : number(row.value, 4);
      make(made, "span", "", ` ${row.line.label || panel.title}: ${value}`);
    }
    const frame = el.getBoundingClientRect(), isRight = event.clientX > frame.left + frame.width / 2;
    tip.className = "tip on";
    tip.style.left = `${event.clientX - frame.left + (isRight ? -tip.offsetWidth - 14 : 14)}px`;
    tip.style.top = `${event.clientY - frame.top + 12}px`;
  }

  function leave() {
    tip.className = "tip";
    for (const each of grid.querySelectorAll(".cross")) each.classList.remove("on");
  }

  // Tells Python the step that is pointed at, or where it was told before, that none is meant; goes to what it shows.
  function pick(area) {
    if (!area.dataset.pick) return;
    const found = JSON.parse(area.dataset.pick), isSame = String(found) === String(model.get("picked"));
    const opened = el.parentElement.querySelector(":scope > .grpo-kit-picked");
    const go = (_, watching) => (watching.disconnect(), opened.querySelector(":scope > div > div")?.scrollIntoView({ block: "center" }));
    if (opened && !isSame) new MutationObserver(go).observe(opened, { childList: true, subtree: true });
    model.set("picked", isSame ? [] : found);
    model.save_changes();
  }

  // The end of a drag zooms, of a click picks.
  function release(event, step, area) {
    const from = grabbed;
    grabbed = null;
    if (!from) return;
    if (Math.abs(event.clientX - from.at) > CLICK) {
      zoom = [from.step, step].toSorted((a, b) => a - b).map(Math.round);
      draw();
    } else pick(area);
  }

  slider.oninput = () => {
    model.set("smoothing", Number(slider.value));
    model.save_changes();
  };
  const watched = new ResizeObserver(later); // at once for the first time
  const changes = { "change:panels": lay, "change:picked": draw };
  for (const name of ["change:runs", "change:smoothing", "msg:custom"]) changes[name] = later;
  for (const [name, then] of Object.entries(changes)) model.on(name, then);
  lay();
  watched.observe(el);
  return () => {
    cancelAnimationFrame(due);
    watched.disconnect();
    for (const [name, then] of Object.entries(changes)) model.off(name, then);
  };
}

export default { initialize, render };
