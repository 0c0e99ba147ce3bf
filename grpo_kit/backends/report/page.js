// The browser of samples. What models and judges wrote becomes text in the page (textContent), never HTML.
"use strict";
const { samples, models, base, judges } = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
let rows = [], here = 0; // the samples that are found, in order, and which of them is shown

const first = (sample, model) => sample.answers[model]?.score ?? null;
const second = (sample, model) => sample.answers[model]?.second?.score ?? null;
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

function gain(sample) {
  const before = base && first(sample, base), after = first(sample, at("model").value);
  return before === null || after === null ? null : after - before;
}

function apart(sample) { // how far two judges are from each other
  const one = first(sample, at("model").value), other = second(sample, at("model").value);
  return one === null || other === null ? null : Math.abs(one - other);
}

const shows = {
  "all": () => true,
  "better than base": (sample) => gain(sample) > 0,
  "worse than base": (sample) => gain(sample) !== null && gain(sample) < 0,
  "no change": (sample) => gain(sample) === 0,
  "without a score": (sample) => first(sample, at("model").value) === null,
};
const sorts = { // by what, and 1 for the largest first
  "biggest gain": [gain, 1],
  "biggest loss": [gain, -1],
  "best score": [(sample) => first(sample, at("model").value), 1],
  "worst score": [(sample) => first(sample, at("model").value), -1],
  "judges most apart": [apart, 1],
  "as evaluated": [() => 0, 1],
};

function make(tag, look, text, ...inside) {
  const node = document.createElement(tag);
  if (look) node.className = look;
  node.append(...(text === null ? [] : [String(text)]), ...inside);
  return node;
}

function offer(id, names) {
  at(id).replaceChildren(...names.map((name) => new Option(name)));
}

function line(sample) { // in the list: the gain, or the score, and what was said last
  const value = base ? gain(sample) : first(sample, at("model").value);
  const said = sample.prompt.at(-1)?.said.replace(/\s+/g, " ").slice(0, 90) ?? "";
  return `${value === null ? "–" : base ? signed(value) : value.toFixed(2)}  ${said}`;
}

function find() {
  const text = at("find").value.trim().toLowerCase(), [by, sign] = sorts[at("sort").value];
  const value = (sample) => by(sample) ?? -sign * Infinity; // what has none comes last
  rows = samples
    .filter((sample) => shows[at("show").value](sample) && (!text || sample.text.includes(text)))
    .sort((one, other) => sign * (value(other) - value(one)) || 0);
  at("choice").replaceChildren(...rows.map((sample, i) => new Option(line(sample), i)));
  go(0);
}

function turn({ role, said }) {
  return make("div", "turn", null, make("span", "role", role), make("span", "said", said));
}

function answer(sample, model) {
  const own = sample.answers[model];
  const told = judges.map((judge, i) => [judge, i ? own.second : own]).map(([judge, { score, reason }]) =>
    make("div", "verdict", null, make("span", "score", score === null ? "–" : score.toFixed(2)),
      make("div", "", null, make("div", "label", judge), make("div", "said", reason || "no reason given"))));
  const wrote = own.turns ? make("div", "dialogue", null, ...own.turns.map(turn)) : make("div", "said", own.answer || "(nothing)");
  const box = make("div", model === base ? "answer base" : "answer", null,
    make("div", "label", model === base ? "base model" : model), wrote, ...told);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", model === base ? "base model" : model);
  return box;
}

function go(to) {
  here = Math.min(Math.max(to, 0), Math.max(rows.length - 1, 0));
  const sample = rows[here];
  at("previous").disabled = here === 0;
  at("next").disabled = here >= rows.length - 1;
  at("place").textContent = sample ? `${here + 1} of ${rows.length}` : "none";
  if (!sample) return at("sample").replaceChildren(make("p", "", "No sample holds that."));
  at("choice").selectedIndex = here;
  const chat = make("div", "chat", null, ...sample.prompt.map(turn));
  chat.tabIndex = 0;
  chat.setAttribute("role", "region");
  chat.setAttribute("aria-label", "Prompt");
  const change = gain(sample), parts = [make("p", "small", `${sample.id}`)];
  if (change !== null) {
    parts[0].append(", gain ", make("span", change > 0 ? "gain more" : change < 0 ? "gain less" : "gain", signed(change)));
  }
  const shown = [...new Set([base, at("model").value])].filter((model) => model && sample.answers[model]);
  parts.push(chat, make("div", "answers", null, ...shown.map((model) => answer(sample, model))));
  for (const [label, text] of [["the trace’s own reply", sample.ground_truth], ["rubric", sample.rubric]]) {
    if (text) parts.push(make("div", "label", label), make("p", "said", text));
  }
  at("sample").replaceChildren(...parts);
  chat.scrollTop = chat.scrollHeight; // the end is what is answered
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const scrolls = event.target.closest(".wide, pre"); // whose arrows are its own
  const by = { j: 1, k: -1, ...(scrolls ? {} : { ArrowRight: 1, ArrowLeft: -1 }) }[event.key];
  if (by) go(here + by);
  else if (event.key === "/") at("find").focus();
  else return;
  event.preventDefault();
  at("samples").scrollIntoView({ block: "nearest" });
}

const texts = ({ id, prompt, ground_truth, rubric, answers }) => [id, ground_truth, rubric,
  ...prompt.map((turn) => turn.said),
  ...Object.values(answers).flatMap(({ answer, reason, second }) => [answer, reason, second?.reason])];
for (const sample of samples) sample.text = texts(sample).join("\n").toLowerCase();
offer("model", models.filter((model) => model !== base));
at("model").selectedIndex = at("model").length - 1;
offer("show", Object.keys(shows).filter((name) => base || ["all", "without a score"].includes(name)));
offer("sort", Object.keys(sorts).filter((name) => (base || sorts[name][0] !== gain) && (judges.length > 1 || sorts[name][0] !== apart)));
for (const id of ["model", "show", "sort"]) at(id).addEventListener("change", find);
at("find").addEventListener("input", find);
at("choice").addEventListener("change", () => go(at("choice").selectedIndex));
at("previous").addEventListener("click", () => go(here - 1));
at("next").addEventListener("click", () => go(here + 1));
document.addEventListener("keydown", pressed);
find();
