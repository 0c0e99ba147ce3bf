"""What a judge measures of a sample's answers, told without judging: it depends on what the sample has."""

from collections.abc import Iterable
from typing import Literal

from grpo_kit.config.judge import rungs
from grpo_kit.data.samples import Sample
from grpo_kit.data.tool_calls import is_to_call
from grpo_kit.judges.offline.language import is_english
from grpo_kit.judges.reference import words_of

EARNS = 0.02  # a score above it is worth something
Measure = Literal["acts", "words", "exact", "calls", "rubric", "reply", "model", "nothing"]
IN_WORDS: dict[Measure, str] = {
    "acts": "by dialogue acts",
    "words": "by word overlap alone",
    "exact": "by their last number or whole text",
    "calls": "by their tool calls",
    "rubric": "by a rubric",
    "reply": "without a rubric, beside the reply in the trace",
    "model": "by a reward model, beside what was said before",
    "nothing": "not at all",
}


def measure_of(judge: str, sample: Sample) -> Measure:
    """By what the judge of that name scores answers to the sample; a ladder by what its first rung does that can.

    The offline judge goes by the sample's acts, and without any, or in another language than English, by the words that
    an answer shares with the reference; the reference judge always does. Judges that read take the rubric, where there
    is one. Where there is neither acts nor a reference with a word, rules have nothing to judge by.
    """
    if is_to_call(sample):
        return "calls"
    if ">" in judge:
        first, _, rest = judge.partition(">")
        found = measure_of(first, sample)
        return measure_of(rest, sample) if found == "nothing" else found
    if judge == "exact":
        return "exact" if sample.ground_truth.strip() else "nothing"
    if judge == "reward_model":
        return "model"
    if judge not in ("offline", "reference"):
        return "rubric" if sample.rubric.strip() else "reply"
    if judge == "offline" and sample.acts and is_english(sample):
        return "acts"
    return "words" if words_of(sample.ground_truth) else "nothing"


def is_mostly_words(judge: str, samples: Iterable[Sample]) -> bool:
    """Whether more than half of the samples are judged by word overlap alone, whichever rung judges."""
    measures = [{measure_of(rung, sample) for rung in rungs([judge])} for sample in samples]
    return 2 * measures.count({"words"}) > len(measures)
