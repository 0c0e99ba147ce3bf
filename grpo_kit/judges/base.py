"""The interface of a judge: samples and answers in, one verdict for each out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name

from grpo_kit.config.judge import JUDGES, LADDER, JudgeConfig, check_ladder, rungs
from grpo_kit.data.samples import Sample


@dataclass
class Usage:
    """The use of a paid judge so far. `usd` is None where the price of the model is not known."""

    calls: int = 0  # requests sent, retries among them
    retries: int = 0
    failures: int = 0  # questions that were left without an answer
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0
    settled: int | None = None  # of a ladder: new answers that needed no judgement by its last rung

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @classmethod
    def of(cls, judges: "Iterable[Judge]") -> "Usage":
        """That of the paid ones among these judges together."""
        paid = [judge.usage for judge in judges if judge.usage]
        counts = ("calls", "retries", "failures", "input_tokens", "output_tokens")
        usd = [usage.usd for usage in paid]
        total = {name: sum(getattr(usage, name) for usage in paid) for name in counts}
        return cls(**total, usd=None if None in usd else sum(each or 0.0 for each in usd))


@dataclass(frozen=True)
class Verdict:
    """A judgement of one answer.

    `score` is in [0, 1], or None when the judge could not answer: a failed judgement is no judgement, never a
    zero. `criteria` holds the part scores (each in [0, 1]) by name; `reason` is one line for people.
    """

    score: float | None
    reason: str = ""
    criteria: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    by: str = ""  # of a ladder: the rung that gave it


CUT = Verdict(0.0, "the thought was cut, so there is no answer: max_completion_length is too short for it")


@dataclass(repr=False)  # asyncio.run asks for it
class Judged:
    """The result of a batch."""

    verdicts: list[Verdict]  # one for each answer
    known: list[bool]  # whether the answer needed no judging
    fresh: list[Verdict]  # the new judgements
    each: list[list[Verdict]]  # every answer's judgements in the order of their repeats; its verdict is their mean

    @property
    def hits(self) -> int:
        return sum(self.known)


class Judge(ABC):
    """Scores a prompt's answers. The caller keeps the verdicts (cache.py), so a judge keeps nothing itself.
    One that costs nothing, has no settings and answers at once adds its name, its version and `judge`."""

    name: str  # its column in the metrics
    version: str  # changes whenever the same answer could get another score; part of the cache key
    compares = False  # an answer's score depends on the answers it is judged with, so all of a prompt's come together
    samples = 1  # how many times each answer is judged; its score is the mean
    usage: Usage | None = None  # calls, tokens and dollars so far; None for a judge that is free

    def __init__(self, config: JudgeConfig | None = None):  # noqa: B027  these three may stay as they are
        """Raises ConfigError where it can be told already that the judge cannot judge."""

    def check(self) -> None:  # noqa: B027
        """Raises ConfigError where the judge cannot judge, before anything is spent or loaded."""

    def caveat(self, samples: Sequence[Sample]) -> str:
        """What to know of its judgements of these samples, said once before they are judged; "" where nothing is."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Cancels the calls under way, when nobody waits for them any more."""

    @abstractmethod
    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        """One verdict for each answer to the sample's prompt, in order. `repeat` is which of `samples` this is.

        A judgement that failed is a Verdict whose score is None. Raises ConfigError only where no further judgement
        could be made, such as for a wrong key.
        """


def make_judge(name: str, config: JudgeConfig | None = None) -> Judge:
    """The judge of that name, of JUDGES in config/judge.py, or the ladder of several, such as offline>gemini. Raises
    ConfigError for one that can't work."""
    config = config or JudgeConfig()
    if ">" in name:
        check_ladder(name, config.judge_ladder_bounds)
        judges = [make_judge(rung, config) for rung in rungs([name])]
        return resolve_name(LADDER)(judges, config.judge_ladder_bounds)
    return resolve_name(JUDGES[name])(config)
