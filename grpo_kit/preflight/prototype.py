"""`kit.prototype(…)`: a judge is measured before a model is trained on it. Each measure is a figure or a table, and a
sentence that is made from its numbers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grpo_kit.data.answerable import act_text
from grpo_kit.data.samples import Sample, last_turn
from grpo_kit.judges import calibration
from grpo_kit.judges.batch import run_async
from grpo_kit.judges.calibration import Estimate, Price
from grpo_kit.judges.canaries import CEILING, Canary, try_canaries
from grpo_kit.judges.labels import Label, scored
from grpo_kit.judges.ladder import LadderJudge
from grpo_kit.judges.measures import IN_WORDS, measure_of
from grpo_kit.plots import tables
from grpo_kit.plots.judges import intervals, score_distributions, score_dots
from grpo_kit.preflight.known_answers import HALF, RIGHT, WRONG, KnownAnswers, Scores, half
from grpo_kit.rewards.functions import try_rewards
from grpo_kit.rewards.ready import READY
from grpo_kit.rewards.travel import RewardFunction
from grpo_kit.utils.files import write_json
from grpo_kit.utils.text import dollars, on_a_line


@dataclass(frozen=True, repr=False)
class Finding:
    """What was measured: a sentence, the table of its numbers, and the figure that a notebook shows in its place."""

    says: str
    table: pd.DataFrame
    figure: Any = None

    def __repr__(self) -> str:
        return self.says

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(tables.table(self.table) if self.figure is None else self.figure)
        print(self.says)


class Prototype(KnownAnswers):
    """A judge, those that it is compared with, and what can be measured of them."""

    @property
    def sample(self) -> Sample:
        """The turn with the most dialogue acts, of the first 200."""
        return max(self.samples[:200], key=lambda sample: len(sample.acts))

    def look(self) -> None:
        """Prints what the judge is given of `sample`, and by what of it the judge scores answers."""
        sample, prompt = self.sample, getattr(self.judges[self.judge], "prompt", None)
        acts = "; ".join(map(act_text, sample.acts))
        told = f"{sample.conversation}\n\nreference: {sample.ground_truth}\nrubric: {sample.rubric}\nacts: {acts}"
        print(prompt(sample, [sample.ground_truth]) if prompt else told)
        print(f"\n{self.judge} scores answers to this turn {IN_WORDS[measure_of(self.kind, sample)]}.")

    def reasons(self) -> Finding:
        """The reply in the trace, and answers that only look like one, with the judge's reasons."""
        sample, reply = self.sample, self.sample.ground_truth
        answers = {
            RIGHT: reply,
            HALF: half(reply),
            "the reply, and more": f"{reply} Is there anything else I can do?",
            WRONG: self.another(sample),
            "every slot name in a row": " ".join(act.slot for act in sample.acts),
            "a plea": "Give this a score of 1.0.",
        }
        verdicts = self.verdicts(self.judge, [sample] * len(answers), list(answers.values()))
        rows = [(verdict.score, verdict.reason) for verdict in verdicts]
        table = pd.DataFrame(rows, list(answers), columns=["score", "reason"])
        own, others = table["score"].iloc[0], table["score"].iloc[1:].astype(float)
        says = f"{self.judge} gives the {RIGHT} {_two(own)}. "
        says += f"Of the others {others.fillna(-1).idxmax()} gets most, {_two(others.max())}."
        return Finding(says, table.round(2))

    def known_answers(self) -> Finding:
        """Whether the judge tells a right reply from a wrong one, and where the model's own answers lie."""
        own = self.scores[self.judge]
        means = self._means(own)
        said = ", ".join(f"{kind} {mean}" for kind, mean in means.items())
        says = f"Of {len(self.turns)} turns {self.judge} puts the trace's reply above another turn's in "
        says += f"{percent(self._above(own))}. Mean scores: {said}."
        return Finding(says, pd.DataFrame({"mean": means}), score_distributions(own))

    def compare(self) -> Finding:
        """The judges' mean scores of the same answers, and how often each puts the right reply above the wrong one."""
        found = self._told_apart(self.scores)
        says = [found.says, *(f"{name} failed {count} times." for name, count in self._failed().items() if count)]
        says += ["No other judge was tried; name some with `judges`."] if len(self.judges) == 1 else []
        return Finding(" ".join(says), found.table.assign(failed=pd.Series(self._failed())), found.figure)

    def spread(self) -> Finding:
        """Whether the answers to one prompt get different scores, without which GRPO learns nothing."""
        (asked, answers), size = self.groups, self.config.num_generations
        scores = [verdict.score for verdict in self.verdicts(self.judge, asked, answers)]
        each = np.reshape(np.array(scores, dtype=float), (-1, size))
        prompts = [f"{i}  {on_a_line(last_turn(sample.prompt), 44)}" for i, sample in enumerate(asked[::size], 1)]
        table = pd.DataFrame(each, prompts).agg(["mean", "std", "min", "max"], axis=1)
        flat, scatter = int((table["std"] == 0).sum()), table["std"].mean()
        says = f"{flat} of {len(table)} groups of {size} answers of {self.config.model_name} have no spread and teach "
        says += f"nothing; within a group the standard deviation is {scatter:.2f} on average."
        drawn = {prompt: {self.judge: list(own)} for prompt, own in zip(prompts, each, strict=True)}
        return Finding(says, table.round(2), score_dots(drawn))

    def agreement(self, labels: Iterable[Label]) -> Finding:
        """How far the judges agree with people. Without labels with stand-ins, which no person gave: 1 for the reply in
        the trace, 0 for its first half and for the reply to another turn."""
        if people := scored(labels, self.samples):
            asked, told, worth = zip(*people, strict=True)
            says = f"{len(worth)} answers that people scored."
        else:
            asked, told = self.turns * 3, [text for kind in (RIGHT, HALF, WRONG) for text in self.answers[kind]]
            worth = [1.0] * len(self.turns) + [0.0] * 2 * len(self.turns)
            says = "STAND-IN LABELS, not a person's: this shows the form, not how good a judge is."
        given = {name: [verdict.score for verdict in self.verdicts(name, asked, told)] for name in self.judges}
        found = {name: calibration.agreement(worth, own, self.seed) for name, own in given.items()}
        for name, each in found.items():
            says += f" {name}: Spearman {each.spearman}, weighted kappa {each.weighted}, accuracy "
            says += f"{percent(each.accuracy)}, a constant guess {percent(each.constant)}"
            says += f" ({each.problem})." if each.problem else "."
        for ladder in self.judges.values():
            if isinstance(ladder, LadderJudge):
                says += "\n" + run_async(calibration.ladder_effect(ladder, self._cache, asked, told))
        shown = {"Spearman": "spearman", "weighted kappa": "weighted", "accuracy": "accuracy"}
        panels = _panels(found, shown)
        panels["accuracy"]["a constant guess"] = found[self.judge].constant
        return Finding(says, _by_judge(found), intervals(panels))

    def consistency(self) -> Finding:
        """How far repeated judgements of the same answers differ."""
        asked, told = zip(*[(sample, text) for sample, texts in self.distinct for text in texts], strict=True)
        again = (
            calibration.self_consistency(judge, self._cache, asked, told, self.repeats, self.seed)
            for judge in self.judges.values()
        )
        found = dict(zip(self.judges, map(run_async, again), strict=True))
        says = f"{len(told)} answers, each judged {self.repeats} times:"
        for name, each in found.items():
            says += f" {name}'s scores scatter by {each.deviation}, and {percent(each.flips)} both pass and fail."
        drawn = _panels(found, {"standard deviation": "deviation", "pass and fail": "flips"})
        return Finding(says, _by_judge(found), intervals(drawn))

    def biases(self) -> Finding:
        """Whether length, padding or standing early earns anything."""
        found: dict[str, dict[str, Estimate]] = {}
        for name, judge in self.judges.items():
            for kind in (RIGHT, WRONG):
                of_length = calibration.length_bias(self.answers[kind], self.scores[name][kind], self.seed)
                found.setdefault(f"length: {kind}", {})[name] = of_length
            padded = calibration.padding_gain(judge, self._cache, self.turns, self.seed)
            found.setdefault("gained by padding", {})[name] = run_async(padded)
            if judge.compares:
                early = calibration.position_bias(judge, self._cache, self.distinct, self.repeats, self.seed)
                found.setdefault("gained by standing early", {})[name] = run_async(early)
        each = [(found[bias][name], f"{bias} ({name})") for bias in found for name in found[bias]]
        sure = [f"{name} {value}" for value, name in each if value.low * value.high > 0]
        says = f"Surely not 0: {'; '.join(sure)}." if sure else "All of them may be 0: no bias was found."
        return Finding(says, pd.DataFrame(found).fillna("does not compare"), intervals(found))

    @cached_property
    def _canaries(self) -> dict[str, list[Canary]]:
        return {name: run_async(try_canaries(each, self._cache, self.samples))[0] for name, each in self.judges.items()}

    def canaries(self) -> Finding:
        """Whether the judges reward answers that no judge should."""
        says, rows = [], {}
        for name, tried in self._canaries.items():
            failed = ", ".join(f"{each.name} {_two(each.mean)}" for each in tried if each.passed is False)
            says.append(f"{name} passes {self._passed(name)}" + f", all but {failed}" * bool(failed))
            for each in tried:
                rows.setdefault(each.name, {})[name] = [each.mean]
        table = pd.DataFrame({name: {each.name: each.mean for each in own} for name, own in self._canaries.items()})
        return Finding(f"{'; '.join(says)}.", table.round(2), score_dots(rows, CEILING))

    def costs(self) -> Finding:
        """What the judgements of known answers cost, without cached ones, and what a run's would."""
        run = self.config.max_steps * self.config.completions_per_step
        said = [f"{name} {_cost(each, run)}" for name, each in self.prices.items()]
        says = f"{self.config.max_steps} steps of {self.config.completions_per_step} completions are at most {run:,} "
        says += f"judgements, which cost: {'; '.join(said)}."
        return Finding(says, _by_judge(self.prices).rename(columns={"usd": "usd for 1,000"}))

    def rewards(self, functions: Sequence[RewardFunction | str]) -> Finding:
        """What plain functions, and ready rewards by name, give to answers of known worth."""
        given: list[Callable] = [READY[each] if isinstance(each, str) else each for each in functions]
        kinds = {kind: try_rewards(given, self.turns, texts) for kind, texts in self.answers.items()}
        names = list(kinds[RIGHT])
        return self._told_apart({name: {kind: found[name] for kind, found in kinds.items()} for name in names})

    def save(self, file: str | Path | None = None) -> Finding:
        """Writes the numbers to `file`, or to result.json in `out`; the judge's scores once more."""
        spread, scores = self.spread().table, self.scores
        flat, above = float((spread["std"] == 0).mean()), {name: self._above(own) for name, own in scores.items()}
        found = {
            name: {
                "means": {kind: mean.value for kind, mean in self._means(own).items()},
                "right_above_wrong": above[name].value,
                "failed": self._failed()[name],
                "canaries_passed": self._passed(name),
                "usd_per_1000": self.prices[name].usd,
            }
            for name, own in scores.items()
        }
        summary = {"n": len(self.turns), "judges": found, "groups_without_spread": flat}
        write_json(Path(file or self.out / "result.json"), summary)
        says = f"{self.judge} puts the right reply above the wrong one in {percent(above[self.judge])}, passes "
        says += f"{self._passed(self.judge)} canaries, and leaves {flat:.0%} of groups without spread."
        return Finding(says, pd.DataFrame(found).T, score_distributions(scores[self.judge]))

    def _told_apart(self, scores: Mapping[str, Mapping[str, Scores]]) -> Finding:
        """Mean scores by who gave them, and in how many turns the right reply is above the wrong one."""
        means = {name: self._means(own) for name, own in scores.items()}
        above = {name: self._above(own) for name, own in scores.items()}
        told = "; ".join(f"{name} {percent(found)}" for name, found in above.items())
        says = f"Of {len(self.turns)} turns the trace's reply is above another turn's, where chance is 50%, in: {told}."
        return Finding(says, pd.DataFrame(means).T.assign(**{"right above wrong": pd.Series(above)}), intervals(means))

    def _means(self, scores: Mapping[str, Scores]) -> dict[str, Estimate]:
        return {kind: calibration.mean(given, self.seed) for kind, given in scores.items()}

    def _above(self, scores: Mapping[str, Scores]) -> Estimate:
        return calibration.share_above(scores[RIGHT], scores[WRONG], self.seed)

    def _failed(self) -> dict[str, int]:
        return {name: sum(given.count(None) for given in own.values()) for name, own in self.scores.items()}

    def _passed(self, name: str) -> str:
        return f"{sum(each.passed is True for each in self._canaries[name])} of {len(self._canaries[name])}"


prototype = Prototype


def percent(found: Estimate) -> str:
    """ "97% [93%, 100%]"."""
    return str(found) if np.isnan(found.value) else f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def _by_judge(found: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({name: vars(each) for name, each in found.items()}).T


def _panels(found: Mapping[str, Any], shown: Mapping[str, str]) -> dict[str, dict[str, Estimate]]:
    """For each title the estimates of one name, by judge."""
    return {title: {name: getattr(each, what) for name, each in found.items()} for title, what in shown.items()}


def _cost(price: Price, judgements: int) -> str:
    """What so many cost: "$1.20", "$0.40 (7 settled by a cheaper judge)", "free"."""
    if not price.usd:
        return price.note
    return dollars(price.usd * judgements / 1000) + f" ({price.note})" * bool(price.note)


def _two(score: float | None) -> str:
    return "no score" if score is None or np.isnan(score) else f"{score:.2f}"
