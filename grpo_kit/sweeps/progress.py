"""The table that shows how a sweep goes, and a line about each run that ends."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from grpo_kit.sweeps.run import PlannedRun
from grpo_kit.utils.text import dollars

COLUMNS = "run state step reward score seconds usd".split()


def progress_table(rows: Iterable[dict[str, str]]) -> Table:
    """Rows of `row_of` as a table, which rich shows in terminals and notebooks alike."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name in ("step", "seconds", "usd") else "left")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in COLUMNS))  # nothing in it is markup
    return table


def row_of(run: PlannedRun, seconds: float = 0.0) -> dict[str, str]:
    """A run as text. `seconds` is how long it has been under way now."""
    record, status = run.record, run.status()
    step = f"{status['step']}/{status['max_steps']}" if run.config and status else ""
    state, reward, score = record["state"], status.get("reward") if run.config else None, ""
    if state == "running" and run.config:
        state = "evaluating" if run.stages[0].name in record["finished"] else "training" if step else "starting"
    elif state == "failed":
        state = f"failed: {record['error']}"
    elif state == "complete" and (evaluated := run.evaluated()):
        score = f"{evaluated['trained']['mean']:.2f}"
        if versus := evaluated["trained"]["versus_base"]:
            score += " ({:+.2f} [{:+.2f}, {:+.2f}])".format(versus["difference"], *versus["interval"])
    seconds, usd = record["seconds"] + seconds * (record["state"] == "running"), run.usd(status)
    return {
        "run": run.name,
        "state": state,
        "step": step,
        "reward": "" if reward is None else f"{reward:.2f}",
        "score": score,
        "seconds": f"{seconds:.0f}" if seconds else "",
        "usd": dollars(usd) if usd else "",
    }


def line_of(run: PlannedRun) -> str:
    """`seed-1: complete, 0.64 (+0.30 [+0.22, +0.39]), 41 s, $0.12`."""
    row = row_of(run)
    seconds = row["seconds"] and f"{row['seconds']} s"
    return f"{run.name}: {', '.join(filter(None, [row['state'], row['score'], seconds, row['usd']]))}"
