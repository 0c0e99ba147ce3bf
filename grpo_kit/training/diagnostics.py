"""Diagnoses of a run that goes wrong, from its metrics: each says what is seen and what to try."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from grpo_kit.config.train import TrainConfig

if TYPE_CHECKING:
    import pandas

FIRST_STEPS = 5  # steps whose mean is how a run begins
WINDOW = 5  # steps whose mean is how it looks now
FLAT_AFTER, FLAT_SHARE = 20, 1 / 4  # steps, and share of the run, before a reward that has not risen is worth a word
EVEN_SCORE = 0.95  # a judge's, at which there is little left to gain


def diagnose(metrics: "pandas.DataFrame", config: TrainConfig) -> list[str]:
    """What looks wrong in a run's metrics (Run.metrics()); empty where nothing does, or before FIRST_STEPS steps."""
    return list(_found(metrics, config)) if len(metrics) >= FIRST_STEPS else []


def _found(metrics: "pandas.DataFrame", config: TrainConfig) -> Iterator[str]:
    def first(name: str) -> float:
        return float(metrics[name].dropna().head(FIRST_STEPS).mean()) if name in metrics else math.nan

    def now(name: str) -> float:
        return float(metrics[name].dropna().tail(WINDOW).mean()) if name in metrics else math.nan

    # What other rewards can give at most is not known; the judges score from 0 to 1.
    judged = sum(weight * now(f"rewards/{judge}/mean") for judge, weight in config.judge.items())
    scores_nearly_all = judged >= EVEN_SCORE * sum(config.judge.values())

    if (share := now("frac_reward_zero_std")) > 0.5:
        seen = f"No spread: in {share:.0%} of groups all completions score the same, so nothing is learnt from them."
        larger = f"num_generations={2 * config.num_generations}"
        if config.completions_per_step % (2 * config.num_generations):
            larger += f" gradient_accumulation_steps={2 * config.gradient_accumulation_steps}"
        warmer = f", temperature={config.temperature + 0.2:.2g}" if config.temperature <= 1.5 else ""
        yield (
            f"{seen} They score nearly all there is: harder prompts would teach more."
            if scores_nearly_all
            else f"{seen} Try {larger}{warmer}, or a judge that gives more than all or nothing (02_prototype_rewards "
            f"shows its scores)."
        )
    yield from _flat(metrics, config, scores_nearly_all)
    if (share := now("completions/clipped_ratio")) > 0.5:
        yield (
            f"Cut off: {share:.0%} of completions reach max_completion_length={config.max_completion_length} without "
            f"an end. Try max_completion_length={2 * config.max_completion_length}; with a model that never ends, "
            f"check that it is an instruction-tuned one (…-it, …-Instruct)."
        )
    length = "completions/mean_length"
    if now(length) > 1.5 * first(length):
        yield (
            f"Length running away: {now(length):.0f} tokens a completion, {first(length):.0f} at first. If longer "
            f"answers are not better ones, the judge pays for length: try reward_funcs=length=0.2, or a rubric that "
            f"asks for brevity."
        )
    if now("entropy") < 0.1 * first("entropy"):
        yield (
            f"Entropy gone: {now('entropy'):.3f} nats a token, {first('entropy'):.3f} at first, so the model says the "
            f"same again and again. Try learning_rate={config.learning_rate / 3:.1g}, or stop at an earlier checkpoint."
        )
    for judge in config.judge:
        name = f"judge/{judge}/failures"
        if name in metrics and (failures := metrics[name].dropna().tail(WINDOW)).sum():
            fewer = config.gemini_max_in_flight // 2 or 1
            less = f" Where it is asked too much at a time, try gemini_max_in_flight={fewer}."
            yield (
                f"Judge failing: {judge} left {int(failures.sum())} completions of the last {len(failures)} steps "
                f"without a score. They take no part in learning. The reasons beside the completions say why it "
                f"failed.{less if judge == 'gemini' else ''}"
            )


def _flat(metrics: "pandas.DataFrame", config: TrainConfig, scores_nearly_all: bool) -> Iterator[str]:
    """Whether the later half's mean reward is above the earlier half's by more than its own noise, two standard
    errors of the difference."""
    reward = metrics["reward"].dropna() if "reward" in metrics else metrics["step"].head(0)
    if len(reward) < max(FLAT_AFTER, FLAT_SHARE * config.max_steps):
        return
    half = len(reward) // 2
    early, late = reward.iloc[:half], reward.iloc[half:]
    noise = 2 * math.sqrt(early.var() / len(early) + late.var() / len(late))
    gain = late.mean() - early.mean()
    if gain > noise or scores_nearly_all:
        return
    seen = f"from {early.mean():.3f} in the first {half} steps to {late.mean():.3f} in the last {len(late)}"
    if gain < -noise:
        yield (
            f"Reward falls: {seen}. Try learning_rate={config.learning_rate / 3:.1g}, or beta=0.04, which holds the "
            f"model near where it began."
        )
    else:
        yield (
            f"Reward flat: {seen}, no more than its noise. Read the completions: does the judge tell good from bad? If "
            f"so, try learning_rate={config.learning_rate * 3:.1g} or more prompts a step "
            f"(gradient_accumulation_steps={2 * config.gradient_accumulation_steps})."
        )
