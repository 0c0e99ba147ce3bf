"""Judges and plain Python functions -> reward functions that TRL calls."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from grpo_kit.cache import RewardCache, judge_with_cache
from grpo_kit.config import ConfigError
from grpo_kit.judges import Judge
from grpo_kit.judges.offline import OfflineJudge
from grpo_kit.samples import Message, Sample, sample_from

# TRL calls it with prompts, completions, completion_ids, the sample's other fields as lists, trainer_state,
# log_extra and log_metric; it gives back a score for each completion, None where it has none to give.
RewardFunction = Callable[..., Sequence[float | None]]


def make_judge(name: str) -> Judge:
    judges = {"offline": OfflineJudge}
    if name not in judges:
        raise ConfigError(f"there is no judge {name!r}; the judges are: {', '.join(judges)}")
    return judges[name]()


def judge_reward(judge: Judge, cache: RewardCache) -> RewardFunction:
    """The judge as an async TRL reward function, named for the judge in the metrics.

    Answers that were judged before come from the cache. A failed judgement is None, which TRL leaves out.
    """
    sample_fields = [field.name for field in fields(Sample) if field.name != "prompt"]

    async def reward(prompts, completions, log_extra, log_metric, **columns) -> list[float | None]:
        samples = [
            sample_from({"prompt": prompt, **{name: columns[name][i] for name in sample_fields}}, default_id="")
            for i, prompt in enumerate(prompts)
        ]
        verdicts, hits = await judge_with_cache(judge, cache, samples, [text_of(c) for c in completions])
        log_extra("reason", [verdict.reason for verdict in verdicts])
        log_metric(f"judge/{judge.name}/cache_hits", hits)
        log_metric(f"judge/{judge.name}/failures", sum(verdict.score is None for verdict in verdicts))
        return [verdict.score for verdict in verdicts]

    reward.__name__ = judge.name
    return reward


def text_of(completion: str | list[Message]) -> str:
    """The answer's text: TRL hands a conversational completion over as a list of one assistant message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
