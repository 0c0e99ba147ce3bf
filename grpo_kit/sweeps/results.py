"""What came of a sweep: a table of its runs, seeds of one setting pooled, and the best setting as a config for 03."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_kit.errors import RunError
from grpo_kit.sweeps.costs import spent_on
from grpo_kit.sweeps.grid import varied
from grpo_kit.sweeps.pairs import Difference, difference, scores_by_prompt
from grpo_kit.sweeps.plan import ERROR_FILE, EVALUATION_FILE, RESULT_FILE, PlannedRun, read_json, value_in_words
from grpo_kit.utils.files import write_bytes, write_json

if TYPE_CHECKING:
    import pandas

RESULTS_FILE = "results.csv"
BEST_FILE = "best.json"
SCORE = "trained"
SCORES = """base trained trained_low trained_high difference difference_low difference_high second_difference
    reward""".split()
AFTER_SCORES = "seconds usd ended error".split()
OWN_CONDITIONS = ("data", "max_prompt_length", "max_completion_length")  # which 04 takes from the run


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

        For runs of 03 that are complete: held-out scores by the first judge (base, trained with its 95% interval, their
        paired difference with its own), the second judge's difference, and the last reward. For others: the numbers in
        their result.json.
        """
        import pandas

        rows = [self._row(run) for run in self.runs]
        scores = dict.fromkeys(name for row in rows for name in row if name not in ("run", "state", *AFTER_SCORES))
        order = [name for name in SCORES if name in scores] + [name for name in scores if name not in SCORES]
        settings = [name for name in order if name in self.varied]
        numbers = [name for name in order if name not in self.varied]
        return pandas.DataFrame(rows, columns=["run", *settings, "state", *numbers, *AFTER_SCORES])

    def _row(self, run: PlannedRun) -> dict[str, Any]:
        record = run.record
        row = {"run": run.name, **{name: _cell(run.settings.get(name)) for name in self.varied}}
        row["state"] = record["state"]
        result = read_json(run.folder / RESULT_FILE)
        if record["state"] == "complete":
            evaluated = read_json(run.folder / EVALUATION_FILE) if run.config else result
            if isinstance(evaluated.get("trained"), dict):
                row |= _scores(evaluated)
            elif not run.config:
                numbers = {name: value for name, value in result.items() if type(value) in (int, float)}
                row |= {name: value for name, value in numbers.items() if name not in row}
        if run.config:
            row["reward"] = result.get("reward")
        ended = {name: record[name] for name in ("seconds", "ended", "error")}
        return {**row, **ended, "usd": spent_on(run)}

    def pooled(self, score: str = SCORE) -> "pandas.DataFrame":
        """A row per setting, its seeds together, the best first: runs that are complete, mean, standard deviation,
        lowest and highest of `score`, a column of `results`, and the means of difference, seconds and usd.

        RunError where no run has such a score.
        """
        table = self.results()
        done = table[table["state"] == "complete"]
        if score not in done or done[score].isna().all():
            numbers = ", ".join(table.select_dtypes("number").columns)
            raise RunError(f"no run in {self.folder} has a {score} yet; there are: {numbers}")
        groups = done.assign(_all="all").groupby(self.settings or "_all", dropna=False, sort=False)
        pooled = groups[score].agg(runs="count", mean="mean", sd="std", low="min", high="max")
        also = [name for name in ("difference", "seconds", "usd") if name in done and name != score]
        pooled = pooled.join(groups[also].mean()).reset_index().drop(columns="_all", errors="ignore")
        pooled = pooled.sort_values("mean", ascending=False, ignore_index=True)
        if "difference" in also:
            gains = [self._gain(row) for _, row in pooled.iterrows()]
            at = pooled.columns.get_loc("difference") + 1
            pooled.insert(at, "difference_low", [gain and gain.low for gain in gains])
            pooled.insert(at + 1, "difference_high", [gain and gain.high for gain in gains])
        return pooled

    def best(self, score: str = SCORE) -> dict[str, Any]:
        """The best setting: `settings` that differ, `mean` of its score, `why` in words, and for 03 its `config`.

        The rule: the highest mean score over the seeds of a setting. Whether the next is surely worse, `why` says.
        RunError where no run has such a score.
        """
        table = self.pooled(score)
        top, first = table.iloc[0], self._runs_like(table.iloc[0])[0]
        why = f"{self._named(first)} has the highest mean {_in_words(score)}, {_of_seeds(top)}"
        if not self.settings:
            why = f"only seeds differ: mean {_in_words(score)} {_of_seeds(top)}"
        if len(table) > 1:
            second = table.iloc[1]
            why += f". The next, {self._named(self._runs_like(second)[0])}, has {_of_seeds(second)}: "
            why += self._how_sure(top, second, score)
            why += f". Chosen among {len(table)} settings by this score, the best one's is a little flattered"
        if own := [name for name in OWN_CONDITIONS if name in self.varied and score == SCORE]:
            why += f". Each setting is scored under its own {', '.join(own)}"
        found = {"settings": {name: first.settings.get(name) for name in self.settings}, "mean": float(top["mean"])}
        if first.config:
            found["config"] = {
                name: v for name, v in first.config.given.items() if name not in ("run_id", "seed", "max_usd")
            }
        return {**found, "why": why}

    def _named(self, run: PlannedRun) -> str:
        return ", ".join(f"{name}={value_in_words(run.settings.get(name))}" for name in self.settings)

    def _gain(self, row: "pandas.Series") -> Difference | None:
        """What a setting gained over the base model."""
        evaluated = [read_json(run.folder / EVALUATION_FILE) for run in self._runs_like(row)]
        return difference(*(scores_by_prompt(evaluated, model) for model in ("trained", "base")))

    def _how_sure(self, top: "pandas.Series", second: "pandas.Series", score: str) -> str:
        """Whether the best setting is better than the next, over prompts and over seeds."""
        few, is_apart = min(top["runs"], second["runs"]), second["high"] < top["low"]
        between = None
        if score == SCORE:
            both = [[read_json(run.folder / EVALUATION_FILE) for run in self._runs_like(row)] for row in (top, second)]
            between = difference(*(scores_by_prompt(evaluated, "trained") for evaluated in both))
        said = f"{between} on the same {between.prompts} prompts, " if between else ""
        if between and between.low <= 0:
            return f"{said}which chance can explain"
        if few < 2:
            return f"{said}with one run of each, so another seed may turn the order round"
        if not is_apart:
            return f"{said}but their runs overlap, so more seeds may turn the order round"
        return f"{said}and no run of it is as good as any of the best" + ("; two seeds are few" if few < 3 else "")

    @property
    def failed(self) -> list[PlannedRun]:
        return [run for run in self.runs if run.record["state"] == "failed"]

    def summary(self) -> str:
        """How it ended, in words: each error, the pooled scores, the best setting, and where everything is."""
        states = [run.record["state"] for run in self.runs]
        lines = [", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))]
        for run in self.runs:
            if (record := run.record)["error"]:
                where = f" ({self.folder / run.name / ERROR_FILE})" if record["state"] == "failed" else ""
                lines.append(f"{run.name} {record['state']}: {record['error']}{where}")
        try:
            pooled, best = self.pooled(), self.best()
        except RunError:
            return "\n".join([*lines, str(self.folder / RESULTS_FILE)])
        lines += [pooled.to_string(index=False, float_format=lambda value: f"{value:.3g}"), best["why"]]
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
