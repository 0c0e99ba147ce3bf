"""The results of a sweep: a table of its runs, seeds of one setting pooled, and the best setting as a config for 03.

How sure a difference is: it is paired over the prompts that all runs of a sweep answered, with seeds of a setting
averaged. So chance is over prompts; only more seeds say what another seed would do.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas

from grpo_kit.errors import RunError
from grpo_kit.plots.tables import table
from grpo_kit.sweeps.grid import varied
from grpo_kit.sweeps.run import PlannedRun
from grpo_kit.utils.files import write_bytes, write_json
from grpo_kit.utils.statistics import bootstrap_interval
from grpo_kit.utils.text import settings_text

RESULTS_FILE, BEST_FILE = "results.csv", "best.json"
SCORE = "trained"
LAST_COLUMNS = ["seconds", "usd", "ended", "error"]
OWN_CONDITIONS = ("data", "max_prompt_length", "max_completion_length")  # which 04 takes from the run

Pool = tuple[dict[str, Any], list[PlannedRun]]  # a row of `pooled`, and its runs


class Results:
    """Reads what the runs of a sweep have left in their folders."""

    def __init__(self, folder: Path, runs: Sequence[PlannedRun]):
        self.folder, self.out = folder, folder.resolve()  # as it is shown, and as it is used
        self.runs, self.backend = list(runs), runs[0].backend
        self.varied = varied([run.settings for run in runs])

    @property
    def settings(self) -> list[str]:
        """The settings that differ between runs, seeds apart: runs alike in them are pooled."""
        return [name for name in self.varied if name != "seed"]

    def counts(self) -> str:
        """ "3 complete, 1 failed"."""
        states = [run.record["state"] for run in self.runs]
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))

    def results(self) -> pandas.DataFrame:
        """A row per run: settings that differ, state, step, scores, seconds, dollars, and its error where it failed.

        For runs of 03 that are complete: held-out scores by the first judge (base, trained with its 95% interval, their
        paired difference with its own), the second judge's difference, and the last reward. For others: the numbers in
        their result.json.
        """
        table = pandas.DataFrame([self._row(run) for run in self.runs])
        return table[[*table.columns.difference(LAST_COLUMNS, sort=False), *LAST_COLUMNS]]

    def pooled(self, score: str = SCORE) -> pandas.DataFrame:
        """A row per setting, its seeds together, the best first: runs that are complete, mean, standard deviation,
        lowest and highest of `score`, a column of `results`, and the means of difference, seconds and usd.

        Raises RunError where no run has such a score.
        """
        return pandas.DataFrame([row for row, _ in self._pools(score)])

    def best(self, score: str = SCORE) -> dict[str, Any]:
        """The best setting: `settings` that differ, `mean` of its score, `why` in words, and for 03 its `config`.

        The rule: the highest mean score over the seeds of a setting; `why` says whether the next is surely worse.
        Raises RunError where no run has such a score.
        """
        top, *others = self._pools(score)
        row, runs = top
        why = f"{self._said(top)} is the highest mean {'held-out score' if score == SCORE else score}"
        if others:
            why += f". The next is {self._said(others[0])}: {_comparison(top, others[0], score)}. Chosen among "
            why += f"{len(others) + 1} settings by this score, the best one's is a little flattered"
        if own := [name for name in OWN_CONDITIONS if name in self.varied and score == SCORE]:
            why += f". Each setting is scored under its own {', '.join(own)}"
        best = {"settings": {name: runs[0].settings.get(name) for name in self.settings}, "mean": row["mean"]}
        if config := runs[0].config:
            left_out = ("run_id", "seed", "max_usd")
            best["config"] = {name: value for name, value in config.given.items() if name not in left_out}
        return {**best, "why": why}

    def summary(self) -> str:
        """How it ended, as text: each error, the pooled scores, the best setting, and where everything is."""
        lines = [self.counts(), *(f"{run.name} {run.how_it_ended()}" for run in self.runs if run.record["error"])]
        with suppress(RunError):  # no run has a score
            lines.append(str(table(self.pooled())))
            lines.append(self.best()["why"])
        return "\n".join([*lines, f"{self.folder / RESULTS_FILE}, and the executed notebooks in {self.folder}/*/"])

    def write(self) -> None:
        """Writes results.csv, and best.json where there is a best setting: settings that 03 loads as config_file."""
        write_bytes(self.out / RESULTS_FILE, self.results().to_csv(index=False).encode())
        with suppress(RunError):  # no run has a score
            if config := self.best().get("config"):
                write_json(self.out / BEST_FILE, config)

    def _row(self, run: PlannedRun) -> dict[str, Any]:
        record, status, scores = run.record, run.status(), dict[str, Any]()
        own = [(name, run.settings.get(name)) for name in self.varied]  # by which a table is to group
        row = {name: value if isinstance(value, int | float | str | None) else str(value) for name, value in own}
        row = {"run": run.name, **row, "state": record["state"]}
        if record["state"] == "complete":
            result = run.evaluated() or run.result()
            is_evaluation = isinstance(result.get("trained"), dict)
            numbers = {name: value for name, value in result.items() if type(value) in (int, float)}
            scores = _scores(result) if is_evaluation else numbers
        if run.config:
            row["step"] = f"{status['step']}/{status['max_steps']}" if status else ""
            scores["reward"] = status.get("reward")
        row = row | scores | row  # the notebook's own numbers replace no setting
        return row | {name: record[name] for name in ("seconds", "ended", "error")} | {"usd": run.usd(status)}

    def _pools(self, score: str) -> list[Pool]:
        """The complete runs by setting, the best first."""
        table = self.results()
        done = table[table["state"] == "complete"]
        if score not in done or done[score].isna().all():
            numbers = ", ".join(table.select_dtypes("number").columns)
            raise RunError(f"no run in {self.folder} has a {score} yet", f"Choose one of: {numbers}")
        pools = []
        for _, part in done.dropna(subset=score).groupby(self.settings or "state", dropna=False, sort=False):
            runs, scores = [self.runs[at] for at in part.index], part[score]
            row = {name: part[name].iloc[0] for name in self.settings}
            row |= {"runs": len(runs), "mean": scores.mean(), "sd": scores.std()}
            row |= {"low": scores.min(), "high": scores.max()}
            if "difference" in part and score != "difference":
                row["difference"] = part["difference"].mean()
                row["difference_low"], row["difference_high"] = _paired(runs, runs, "base")[1:3]
            row |= {name: part[name].astype(float).mean() for name in ("seconds", "usd") if name != score}
            pools.append((row, runs))
        return sorted(pools, key=lambda pool: -pool[0]["mean"])

    def _said(self, pool: Pool) -> str:
        """ "learning_rate=0.002, 0.504 (2 runs, 0.492 to 0.517)"."""
        row, runs = pool
        settings = settings_text({name: runs[0].settings.get(name) for name in self.settings})
        spread = f"{len(runs)} runs, {row['low']:.3f} to {row['high']:.3f}" if len(runs) > 1 else "1 run"
        return f"{settings}, {row['mean']:.3f} ({spread})".removeprefix(", ")


def _comparison(top: Pool, second: Pool, score: str) -> str:
    """Whether the best setting is better than the next, over prompts and over seeds."""
    few, said = min(len(runs) for _, runs in (top, second)), ""
    if score == SCORE and (gain := _paired(top[1], second[1]))[-1] > 1:
        said = "{:+.3f} [{:+.3f}, {:+.3f}] on the same {} prompts, ".format(*gain)
        if gain[1] <= 0:
            return f"{said}which chance can explain"
    if few < 2:
        return f"{said}with one run of each, so another seed may change the order"
    if second[0]["high"] >= top[0]["low"]:
        return f"{said}but their runs overlap, so more seeds may change the order"
    return f"{said}and each of its runs is below all of the best" + ("; two seeds are few" if few < 3 else "")


def _paired(
    first: list[PlannedRun], second: list[PlannedRun], model: str = "trained"
) -> tuple[float, float, float, int]:
    """The gain of the trained models of `first` over `model` ("trained" or "base") of `second`: mean over prompts that
    all have a score for, low and high end of its 95% interval, number of prompts; NaN for fewer than two prompts."""

    def means(runs: list[PlannedRun], name: str) -> pandas.Series:
        scores = pandas.DataFrame([run.evaluated().get("scores", {}).get(name, {}) for run in runs])
        return scores.astype(float).mean(skipna=False)

    gains = (means(first, "trained") - means(second, model)).dropna().sort_index().to_numpy()
    low, high = bootstrap_interval(gains, seed=0)
    return gains.mean() if len(gains) else math.nan, low, high, len(gains)


def _scores(evaluated: dict[str, Any]) -> dict[str, Any]:
    """The scores of an evaluation by which runs are compared."""
    base, trained, second = evaluated["base"], evaluated["trained"], evaluated["trained"]["second"]
    scores = {"base": base["mean"]} if base else {}
    scores |= zip([SCORE, "trained_low", "trained_high"], [trained["mean"], *trained["interval"]], strict=True)
    if versus := trained["versus_base"]:
        values = [versus["difference"], *versus["interval"]]
        scores |= zip(["difference", "difference_low", "difference_high"], values, strict=True)
    if second and second["versus_base"]:
        scores["second_difference"] = second["versus_base"]["difference"]
    return scores
