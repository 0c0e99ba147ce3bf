"""Trials of a reward: which version was tried on what, and what came out, kept in a file as soon as it is there."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from grpo_kit.data.samples import Sample
from grpo_kit.errors import RunError
from grpo_kit.judges.canaries import REFERENCE, canaries
from grpo_kit.rewards.versions import Bench, Scored, Version
from grpo_kit.utils.files import write_bytes
from grpo_kit.utils.json_lines import parse_lines

KEPT = "versions.jsonl"
TRACE, TYPED, CANARY = "the reply in the trace", "typed here", "canary: "  # what an answer is


class Trial(msgspec.Struct, eq=False):
    """A version for one sample, and the scores that it and the version before it give to the same answers."""

    sample_id: str
    version: Version
    before: int | None = None  # the number, among the sample's trials, of the one that it was made from
    answers: dict[str, str] = {}  # by what they are
    scored: list[Scored] = []
    was: list[Scored] = []  # by the version before


class Trials:
    """The trials in a folder's versions.jsonl. Raises RunError for a file that is not the kit's."""

    def __init__(self, folder: Path, bench: Bench):
        self._path, self._bench = folder / KEPT, bench
        self._written = self._content()
        self._all: list[Trial] = parse_lines(self._written, self._path, Trial)

    def _content(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""

    def of(self, sample: Sample) -> list[Trial]:
        """The sample's trials, the oldest first: that is the data's own version."""
        found = [trial for trial in self._all if trial.sample_id == sample.id]
        if not found:
            self._all.append(Trial(sample.id, self._bench.own(sample)))
        return found or self._all[-1:]

    def add(self, sample: Sample, version: Version, after: Trial) -> Trial:
        """A new trial of the version, which was made from another's; that one again where they are the same."""
        if version == after.version:
            return after
        before = self.of(sample).index(after) if after.scored or after.before is None else after.before
        self._all.append(Trial(sample.id, version, before))
        self.keep()
        return self._all[-1]

    def score(self, trial: Trial, sample: Sample, answers: Mapping[str, str]) -> Callable[[], None]:
        """Scores the answers by the trial's version and by the one before, which any thread may do; what it returns
        then keeps the scores, and raises as `keep` does. Raises as Bench.score does."""
        texts, before = list(answers.values()), None if trial.before is None else self.of(sample)[trial.before]
        was = self._bench.score(before.version, sample, texts) if before else []
        scored = self._bench.score(trial.version, sample, texts)

        def keep() -> None:
            trial.scored, trial.was, trial.answers = scored, was, dict(answers)
            if before and not before.scored:
                before.scored, before.answers = was, trial.answers
            self.keep()

        return keep

    def restore(self, trial: Trial, sample: Sample) -> Trial:
        """The trial as the sample's newest."""
        if trial is not self.of(sample)[-1]:
            self._all.append(msgspec.structs.replace(trial))
            self.keep()
        return self.of(sample)[-1]

    def keep(self) -> None:
        """Writes them. Raises RunError where another panel has written to the file meanwhile."""
        if self._content() != self._written:
            fix = "Run this panel's cell again to go on from there, or give it a folder of its own: out="
            raise RunError(f"another panel has written to {self._path}", fix)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.Encoder().encode_lines(self._all)
        write_bytes(self._path, content)
        self._written = content

    def shared(self) -> tuple[str, str]:
        """The prompt and the Python reward of the newest trial, or else those of the settings."""
        last = self._all[-1].version if self._all else Version("", "", "", self._bench.prompt)
        return last.prompt, last.reward

    def latest(self) -> dict[str, Version]:
        """The newest version of each sample that has one, by the sample's id."""
        return {trial.sample_id: trial.version for trial in self._all}


def answers_to(sample: Sample, version: Version, models: Sequence[str], typed: str) -> dict[str, str]:
    """The answers to score, by what they are: the trace's, the one that was typed, if any, the model's, the canaries of
    the edited sample."""
    found = {TRACE: sample.ground_truth} | ({TYPED: typed} if typed else {})
    found |= {f"the model’s answer {number}": str(text) for number, text in enumerate(models, 1)}
    tried = canaries(version.applied(sample))
    return found | {f"{CANARY}{name}": text for name, text in tried.items() if name != REFERENCE}
