"""What came of a sweep: a table of its runs, seeds of one setting pooled, and the best setting as a config for 03."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_kit.runs import RunError, write_bytes, write_json
from grpo_kit.sweeps.costs import spent_on
from grpo_kit.sweeps.grid import varied
from grpo_kit.sweeps.plan import ERROR_FILE, EVALUATION_FILE, RESULT_FILE, PlannedRun, read_json, value_in_words

if TYPE_CHECKING:
    import pandas

RESULTS_FILE = "results.csv"
BEST_FILE = "best.json"
SCORE = "trained"


class Results:
    """Reads what the runs of a sweep have left in their folders."""

    def __init__(self, out: Path, runs: Sequence[PlannedRun]):
        self.out, self.runs = out, list(runs)
        self.varied = varied([run.settings for run in runs])

    @property
    def folder(self) -> Path:
        """`out` as it is shown: from the working directory where it is in there."""
        return self.out.relative_to(Path.cwd()) if self.out.is_relative_to(Path.cwd()) else self.out

    @property
    def settings(self) -> list[str]:
        """The settings that differ between runs, seeds apart: runs alike in them are pooled."""
        return [name for name in self.varied if name != "seed"]

    def results(self) -> "pandas.DataFrame":
        """A row per run: settings that differ, state, scores, seconds, dollars, and its error where it failed.

        For runs of 03: held-out scores by the first judge (base, trained with its 95% interval, their paired difference
        with its own), the second judge's difference, and the last reward. For others: the numbers in their result.json.
        """
        import pandas

        return pandas.DataFrame([self._row(run) for run in self.runs])

    def _row(self, run: PlannedRun) -> dict[str, Any]:
        record = run.record
        row = {"run": run.name, **{name: _cell(run.settings.get(name)) for name in self.varied}}
        row["state"] = record["state"]
        result = read_json(run.folder / RESULT_FILE)
        evaluated = read_json(run.folder / EVALUATION_FILE) if run.config else result
        if "trained" in evaluated:
            row |= _scores(evaluated)
        elif not run.config:
            row |= {name: value for name, value in result.items() if type(value) in (int, float) and name not in row}
        if run.config:
            row["reward"] = result.get("reward")
        ended = {name: record[name] for name in ("seconds", "ended", "error")}
        return {
            **row,
            "seconds": ended["seconds"],
            "usd": spent_on(run),
            "ended": ended["ended"],
            "error": ended["error"],
        }

    def pooled(self, score: str = SCORE) -> "pandas.DataFrame":
        """A row per setting, its seeds together, the best first: runs that are complete, mean, standard deviation,
        lowest and highest of `score`, a column of `results`, and the means of difference, seconds and usd.

        RunError where no run has such a score.
        """
        table = self.results()
        if score not in table or table[score].isna().all():
            numbers = ", ".join(table.select_dtypes("number").columns)
            raise RunError(f"no run in {self.out} has a {score} yet; there are: {numbers}")
        done = table[table["state"] == "complete"].assign(_all="all")
        groups = done.groupby(self.settings or "_all", dropna=False, sort=False)
        pooled = groups[score].agg(runs="count", mean="mean", sd="std", low="min", high="max")
        also = [name for name in ("difference", "seconds", "usd") if name in done and name != score]
        pooled = pooled.join(groups[also].mean()).reset_index()
        return pooled.drop(columns="_all", errors="ignore").sort_values("mean", ascending=False, ignore_index=True)

    def best(self, score: str = SCORE) -> dict[str, Any]:
        """The best setting: `settings` that differ, `mean` of its score, `why` in words, and for 03 its `config`.

        The rule: the highest mean score over the seeds of a setting. Whether the next is surely worse, `why` says.
        RunError where no run has such a score.
        """
        table = self.pooled(score)
        top, first = table.iloc[0], self._runs_like(table.iloc[0])[0]
        named = ", ".join(f"{name}={value_in_words(first.settings.get(name))}" for name in self.settings)
        why = f"{named} has the highest mean {_in_words(score)}, {_of_seeds(top)}"
        if not self.settings:
            why = f"only seeds differ: mean {_in_words(score)} {_of_seeds(top)}"
        if len(table) > 1:
            second = table.iloc[1]
            other = self._runs_like(second)[0].settings
            named = ", ".join(f"{name}={value_in_words(other.get(name))}" for name in self.settings)
            why += f". The next, {named}, has {_of_seeds(second)}: {_how_sure(top, second)}"
        found = {"settings": {name: first.settings.get(name) for name in self.settings}, "mean": float(top["mean"])}
        if first.config:
            found["config"] = {
                name: v for name, v in first.config.given.items() if name not in ("run_id", "seed", "max_usd")
            }
        return {**found, "why": why}

    @property
    def failed(self) -> list[PlannedRun]:
        return [run for run in self.runs if run.record["state"] == "failed"]

    def summary(self) -> str:
        """How it ended, in words: each error, the pooled scores, the best setting, and where everything is."""
        states = [run.record["state"] for run in self.runs]
        lines = [", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))]
        for run in self.runs:
            if (record := run.record)["error"]:
                where = f" ({run.folder / ERROR_FILE})" if record["state"] == "failed" else ""
                lines.append(f"{run.name} {record['state']}: {record['error']}{where}")
        try:
            pooled, best = self.pooled(), self.best()
        except RunError:
            return "\n".join([*lines, str(self.folder / RESULTS_FILE)])
        lines += [pooled.to_string(index=False, float_format=lambda value: f"{value:.4g}"), best["why"]]
        files = [self.folder / name for name in (RESULTS_FILE, BEST_FILE) if (self.out / name).exists()]
        return "\n".join([*lines, " ".join(map(str, files))])

    def write(self) -> None:
        """Writes results.csv, and best.json where there is a best setting: settings that 03 loads as config_file."""
        write_bytes(self.out / RESULTS_FILE, self.results().to_csv(index=False).encode())
        try:
            best = self.best()
        except RunError:
            return
        if "config" in best:
            write_json(self.out / BEST_FILE, best["config"])

    def _runs_like(self, row: "pandas.Series") -> list[PlannedRun]:
        """The complete runs with the settings of a row of `pooled`."""
        import pandas

        def same(value: Any, cell: Any) -> bool:
            return bool(pandas.isna(cell)) if value is None else _cell(value) == cell

        return [
            run
            for run in self.runs
            if run.record["state"] == "complete" and all(same(run.settings.get(n), row[n]) for n in self.settings)
        ]


def _scores(evaluated: dict[str, Any]) -> dict[str, Any]:
    trained, base = evaluated["trained"], evaluated["base"]
    row = {"base": base and base["mean"], "trained": trained["mean"]}
    row["trained_low"], row["trained_high"] = trained["interval"]
    if versus := trained["versus_base"]:
        row["difference"] = versus["difference"]
        row["difference_low"], row["difference_high"] = versus["interval"]
    if (second := trained["second"]) and second["versus_base"]:
        row["second_difference"] = second["versus_base"]["difference"]
    return row


def _cell(value: Any) -> Any:
    """A setting as a table can group by it."""
    return value if isinstance(value, int | float | str | None) else str(value)


def _in_words(score: str) -> str:
    return "held-out score" if score == SCORE else score


def _of_seeds(row: "pandas.Series") -> str:
    runs = int(row["runs"])
    return (
        f"{row['mean']:.3f} (1 run)"
        if runs == 1
        else f"{row['mean']:.3f} ({runs} runs, {row['low']:.3f} to {row['high']:.3f})"
    )


def _how_sure(top: "pandas.Series", second: "pandas.Series") -> str:
    if min(top["runs"], second["runs"]) < 2:
        return "with one run of a setting, chance is not ruled out. Try more seeds"
    return (
        "no run of it is as good as any of the best"
        if second["high"] < top["low"]
        else ("their runs overlap, so more seeds may turn the order round")
    )
