"""Signs that a run goes wrong, read off its metrics: each says in words what is seen and what to try."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from grpo_kit.config.train import TrainConfig

FIRST_STEPS = 5  # what a run looks like at its start
WINDOW = 5  # steps whose mean counts as how it looks now
FLAT_AFTER, FLAT_SHARE = 20, 1 / 4  # steps, and share of the run, before a reward that has not risen is worth a word
EVEN_SCORE = 0.95  # a judge's, at which there is little left to gain


def signs(metrics: "pandas.DataFrame", config: "TrainConfig") -> list[str]:
    """What looks wrong in a run's metrics (Run.metrics()); empty where nothing does, or before FIRST_STEPS steps."""
    if len(metrics) < FIRST_STEPS:
        return []
    found = [
        _no_spread(metrics, config),
        _flat(metrics, config),
        _cut_off(metrics, config),
        _running_away(metrics, config),
        _narrowing(metrics, config),
        *(_judge_failing(metrics, judge, config) for judge in config.judge),
    ]
    return [sign for sign in found if sign]


def _now(metrics: "pandas.DataFrame", name: str) -> float:
    """Mean over the last steps; NaN where it was not measured."""
    return metrics[name].dropna().tail(WINDOW).mean() if name in metrics else math.nan


def _at_first(metrics: "pandas.DataFrame", name: str) -> float:
    return metrics[name].dropna().head(FIRST_STEPS).mean() if name in metrics else math.nan


def _no_spread(metrics: "pandas.DataFrame", config: "TrainConfig") -> str | None:
    share = _now(metrics, "frac_reward_zero_std")
    if not share > 0.5:
        return None
    seen = f"No spread: in {share:.0%} of groups all completions score the same, so nothing is learnt from them."
    if _is_nearly_all(metrics, config):
        return f"{seen} They score nearly all there is: harder prompts would teach more."
    larger = f"num_generations={2 * config.num_generations}"
    if config.completions_per_step % (2 * config.num_generations):
        larger += f" gradient_accumulation_steps={2 * config.gradient_accumulation_steps}"
    warmer = f", temperature={config.temperature + 0.2:.2g}" if config.temperature <= 1.5 else ""
    return (
        f"{seen} Try {larger}{warmer}, or a judge that gives more than all or nothing (02_prototype_rewards shows its "
        f"scores)."
    )


def _flat(metrics: "pandas.DataFrame", config: "TrainConfig") -> str | None:
    """Whether the later half's mean reward is above the earlier half's by more than its own noise, two standard
    errors of the difference."""
    reward = metrics["reward"].dropna() if "reward" in metrics else []
    if len(reward) < max(FLAT_AFTER, FLAT_SHARE * config.max_steps):
        return None
    half = len(reward) // 2
    early, late = reward.iloc[:half], reward.iloc[half:]
    noise = 2 * math.sqrt(early.var() / len(early) + late.var() / len(late))
    gain = late.mean() - early.mean()
    if gain > noise or _is_nearly_all(metrics, config):
        return None
    seen = f"from {early.mean():.3f} in the first {half} steps to {late.mean():.3f} in the last {len(late)}"
    if gain < -noise:
        return (
            f"Reward falls: {seen}. Try learning_rate={config.learning_rate / 3:.1g}, or beta=0.04, which holds the "
            f"model near where it began."
        )
    return (
        f"Reward flat: {seen}, no more than its noise. Read the completions: does the judge tell good from bad? If so, "
        f"try learning_rate={config.learning_rate * 3:.1g} or more prompts a step "
        f"(gradient_accumulation_steps={2 * config.gradient_accumulation_steps})."
    )


def _is_nearly_all(metrics: "pandas.DataFrame", config: "TrainConfig") -> bool:
    """Whether the judges, who score from 0 to 1, give nearly 1. What other rewards can give at most is not known."""
    given = sum(weight * _now(metrics, f"rewards/{judge}/mean") for judge, weight in config.judge.items())
    return given >= EVEN_SCORE * sum(config.judge.values())


def _cut_off(metrics: "pandas.DataFrame", config: "TrainConfig") -> str | None:
    share = _now(metrics, "completions/clipped_ratio")
    if not share > 0.5:
        return None
    return (
        f"Cut off: {share:.0%} of completions reach max_completion_length={config.max_completion_length} without an "
        f"end. Try max_completion_length={2 * config.max_completion_length}; with a model that never ends, check that "
        f"it is an instruction-tuned one (…-it, …-Instruct)."
    )


def _running_away(metrics: "pandas.DataFrame", config: "TrainConfig") -> str | None:
    first, now = (mean(metrics, "completions/mean_length") for mean in (_at_first, _now))
    if not now > 1.5 * first:
        return None
    return (
        f"Length running away: {now:.0f} tokens a completion, {first:.0f} at first. If longer answers are not better "
        f"ones, the judge pays for length: try reward_funcs=length=0.2, or a rubric that asks for brevity."
    )


def _narrowing(metrics: "pandas.DataFrame", config: "TrainConfig") -> str | None:
    first, now = (mean(metrics, "entropy") for mean in (_at_first, _now))
    if not now < 0.1 * first:
        return None
    return (
        f"Entropy gone: {now:.3f} nats a token, {first:.3f} at first, so the model says the same again and again. Try "
        f"learning_rate={config.learning_rate / 3:.1g}, or stop at an earlier checkpoint."
    )


def _judge_failing(metrics: "pandas.DataFrame", judge: str, config: "TrainConfig") -> str | None:
    failures = metrics[f"judge/{judge}/failures"].dropna().tail(WINDOW) if f"judge/{judge}/failures" in metrics else []
    if not sum(failures):
        return None
    fewer = f" Where it is asked too much at a time, try gemini_max_in_flight={config.gemini_max_in_flight // 2 or 1}."
    return (
        f"Judge failing: {judge} left {int(sum(failures))} completions of the last {len(failures)} steps without a "
        f"score. They take no part in learning. The reasons beside the completions say why it failed."
        f"{fewer if judge == 'gemini' else ''}"
    )
