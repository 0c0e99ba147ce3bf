"""Answers with what two versions of a reward make of them, side by side; in a narrow window one below the other."""

from grpo_kit.data.thoughts import answer_in
from grpo_kit.judges.canaries import CEILING
from grpo_kit.rewards.trials import CANARY, Trial
from grpo_kit.rewards.versions import Scored
from grpo_kit.widgets.parts import BORDER, ERROR, FAINT, SHADE, note_html, number, text_html

MORE = "var(--jp-success-color1, #388e3c)"
ROW = "display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 6px 20px; padding: 10px 2px; "
ROW += f"border-top: 1px solid {BORDER}"
CLAMPED = "max-height: 8.4em; overflow-y: auto"


def trial_html(trial: Trial, names: tuple[str, str]) -> str:
    """A row for each answer: its text, then its scores by the version before, if there is one, and by this one, which
    have these `names`."""
    rows, was = [], trial.was or [None] * len(trial.scored)
    for (name, text), before, now in zip(trial.answers.items(), was, trial.scored, strict=True):
        cells = [f"{note_html(name)}{text_html(answer_in(text) or '(nothing)', CLAMPED)}"]
        if before:
            cells.append(note_html(f"before: {names[0]}") + _scored(before, before, False))
        after = _scored(now, before or now, name.startswith(CANARY))
        cells.append((note_html(f"after: {names[1]}") if before else "") + after)
        rows.append(f'<div style="{ROW}">' + "".join(f"<div>{cell}</div>" for cell in cells) + "</div>")
    return "".join(rows)


def _scored(now: Scored, before: Scored, is_canary: bool) -> str:
    """The score with a bar and by how much it rose, then what the Python gave, the criteria and the reason."""
    score, line = now.score or 0.0, [f'<b style="font-size: 16px">{number(now.score)}</b>']
    bar = f"width: {60 * score:.0f}px; height: 6px; border-radius: 3px; background: var(--jp-brand-color1, #2196f3)"
    line.append(f'<div style="width: 60px; border-radius: 3px; background: {SHADE}"><div style="{bar}"></div></div>')
    if now.score is not None and before.score is not None and abs(by := now.score - before.score) >= 0.005:
        line.append(f'<span style="color: {MORE if (by > 0) != is_canary else ERROR}">{number(by, "+.2f")}</span>')
    if is_canary and score > CEILING:
        line.append(f'<span style="color: {ERROR}">worth nothing, and rewarded</span>')
    if now.reward is not None:
        line.append(f"<span>Python <b>{number(now.reward)}</b></span>")
    head = f'<div style="display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center">{"".join(line)}</div>'
    return head + text_html(now.reason or "(no reason given)") + text_html(_criteria(now, before), f"color: {FAINT}")


def _criteria(now: Scored, before: Scored) -> str:
    """ "acts 1.00 → 0.00, wording 0.90; 8 others 1.00": those that have changed come first."""
    changed = {name for name, value in now.criteria.items() if abs(before.criteria.get(name, value) - value) >= 0.005}
    told = [f"{name} {number(before.criteria[name])} → {number(now.criteria[name])}" for name in sorted(changed)]
    told += [f"{name} {number(value)}" for name, value in now.criteria.items() if name not in changed and value < 0.995]
    full = len(now.criteria) - len(told)
    others = f"{full} others 1.00" if told else f"all {full} criteria 1.00"
    gone = [name for name in before.criteria if name not in now.criteria]
    lost = [f"no longer looked at: {', '.join(gone)}"] if gone else []
    return "; ".join([", ".join(told)] * bool(told) + [others] * bool(full) + lost)
