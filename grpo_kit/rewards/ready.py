"""Ready rewards: plain functions that `--reward-funcs` names. A new one is a function here and its entry in READY."""

import re
from collections.abc import Callable
from functools import wraps
from itertools import zip_longest

from grpo_kit.config.environment import SCORES
from grpo_kit.data.samples import Message, call_text
from grpo_kit.data.tool_calls import call_score
from grpo_kit.utils.words import is_finished, words


def text_of(completion: str | list[Message]) -> str:
    """The answer's text: TRL hands a conversational completion over as a list of one assistant message. Calls that the
    tokenizer has taken out of it follow, a line each."""
    if isinstance(completion, str):
        return completion
    calls = [dict(call["function"]) for call in completion[-1].get("tool_calls") or ()]
    return "\n".join(filter(None, [completion[-1]["content"], call_text(calls)]))


def _of_words(reward: Callable[..., list[float]]) -> Callable[..., list[float | None]]:
    """The reward with None, "not judged", for samples that ask for tool calls in place of words."""

    @wraps(reward)
    def scored(completions, *args, tool_calls=(), **columns):
        scores = reward(completions, *args, **columns)
        return [None if calls else score for score, calls in zip_longest(scores, tool_calls)]

    return scored


def length(completions, ground_truth, **_) -> list[float]:
    """1 for half to one and a half times as many words as the reference; falls evenly to 0 at none and at three times
    as many."""
    scores = []
    for completion, reference in zip(completions, ground_truth, strict=True):
        ratio = len(words(text_of(completion))) / max(1, len(words(reference)))
        scores.append(min(1.0, ratio / 0.5, max(0.0, (3 - ratio) / 1.5)))
    return scores


_NOT_A_REPLY = re.compile(
    r"(?:^|\n)\s*(?:user|assistant|system|human|model|customer|thought process|answer|response)\s*[:：]"
    r"|<[/|a-z_]+>|```|(?:^|\n)#",
    re.IGNORECASE,
)


def format(completions, **_) -> list[float]:
    """1 for a finished sentence spoken by one person: no speaker's label, tag, code or heading; else 0."""
    texts = [text_of(completion).strip() for completion in completions]
    return [float(is_finished(text) and not _NOT_A_REPLY.search(text)) for text in texts]


def repetition(completions, **_) -> list[float]:
    """TRL's repetition penalty over words: 0 where no three words in a row come twice, towards -1 where all do. Of a
    script without blanks, six in a row, since those are hardly more than letters (see utils.words)."""
    from trl.rewards.other_rewards import get_repetition_penalty_reward

    texts = [text_of(completion).lower() for completion in completions]
    sizes = [6 if len(words(text)) > 2 * len(text.split()) else 3 for text in texts]
    penalty = {size: get_repetition_penalty_reward(ngram_size=size) for size in set(sizes)}
    return [penalty[size]([words(text)])[0] for size, text in zip(sizes, texts, strict=True)]


def tool_call(completions, tool_calls, **_) -> list[float | None]:
    """1 where a completion makes the sample's calls, whatever their order, else 0; None for a sample without calls."""
    pairs = zip(completions, tool_calls, strict=True)
    return [call_score(text_of(completion), calls) if calls else None for completion, calls in pairs]


def _of_environment(name: str) -> Callable[..., list[float | None]]:
    """That score of each finished dialogue."""

    def score(environment_scores, **_) -> list[float | None]:
        return [scores[name] for scores in environment_scores]

    score.__name__ = name
    return score


READY = {function.__name__: function for function in (*map(_of_words, (length, format, repetition)), tool_call)}
READY |= {name: _of_environment(name) for name in sorted(SCORES)}
