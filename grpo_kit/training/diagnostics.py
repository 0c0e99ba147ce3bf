"""Diagnoses of a run that goes wrong, from its metrics: each says what is seen and what to try."""

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import Problem
from grpo_kit.judges.measures import EARNS

if TYPE_CHECKING:
    import pandas

WINDOW = 5  # steps whose mean is how a run begins, and how it looks now
FLAT_AFTER, FLAT_SHARE = 20, 1 / 4  # steps, and share of the run, before a reward that has not risen is worth a word
MISMATCH = 0.1  # nats a token between vLLM and the trainer; NeMo-RL warns at a factor of 1.1, which is 0.095
FAR = 0.5  # nats a token of KL, with which the model has left its base
EVEN_SCORE = 0.95  # a judge's, at which there is little left to gain


def diagnose(metrics: "pandas.DataFrame", config: TrainConfig) -> list[Problem]:
    """The problems that a run's metrics (Run.metrics()) show; none before its first WINDOW steps, or its last one."""
    if len(metrics) < min(WINDOW, config.max_steps):
        return []
    nothing = _nothing_earned(metrics, config)
    return [*nothing, *(_problems(metrics, config, bool(nothing)) if len(metrics) >= WINDOW else ())]


def _nothing_earned(metrics: "pandas.DataFrame", config: TrainConfig) -> list[Problem]:
    """Whether the judges' mean score was near 0 at every step, or the reward, where no judge has a part in it. No other
    learning rate helps against that."""
    names, total = {name: f"rewards/{name}/mean" for name in config.judge}, sum(config.judge.values())
    if not metrics.columns.isin([*names.values()] if total else ["reward"]).any():
        return []
    judged = sum(weight * metrics[names[name]] for name, weight in config.judge.items() if names[name] in metrics)
    judged = cast("pandas.Series", judged / total if total else metrics["reward"].abs()).dropna()
    if judged.empty or judged.max() > EARNS:
        return []
    warm = "" if config.sft_steps else "Imitate the traces first (sft_steps=20), use "
    return [
        Problem(
            f"No answer earns anything: the mean score was {judged.mean():.3f} and never above {judged.max():.3f}, so "
            f"there is nothing to learn from",
            f"{warm or 'Use '}another model, or a {'judge' if total else 'reward'} that gives partial credit; "
            f"`grpo-kit doctor --probe` tells before a run whether answers earn anything",
        )
    ]


def _problems(metrics: "pandas.DataFrame", config: TrainConfig, earns_nothing: bool) -> Iterator[Problem]:
    # A step that learns from an earlier step's completions again has their metrics.
    first, now = (part.mean(numeric_only=True) for part in (metrics.head(WINDOW), metrics.ffill().tail(WINDOW)))
    # The highest score of other rewards is not known; the judges score from 0 to 1.
    judged = sum(weight * now.get(f"rewards/{judge}/mean", 0.0) for judge, weight in config.judge.items())
    scores_nearly_all = judged >= EVEN_SCORE * sum(config.judge.values()) > 0
    slower, longest = f"learning_rate={config.learning_rate / 3:.1g}", config.max_completion_length
    # Accumulation alone would leave a step as large as it is.
    batch, passes = config.per_device_train_batch_size, config.gradient_accumulation_steps
    more_prompts = f"per_device_train_batch_size={batch} gradient_accumulation_steps={2 * passes}"

    if (share := now.get("frac_reward_zero_std", 0.0)) > 0.5 and not earns_nothing:
        yield Problem(
            f"No spread: in {share:.0%} of groups all completions score the same, so nothing is learnt from them",
            "They have nearly the full score: use harder prompts"
            if scores_nearly_all
            else f"Try num_generations={2 * config.num_generations} {more_prompts}, or a judge that gives more than "
            f"all or nothing (02_prototype_rewards shows its scores)",
        )
    if "grad_norm" in metrics and (skipped := metrics["grad_norm"].tail(WINDOW).isna().sum()):
        yield Problem(
            f"Steps skipped: the gradient was not a number in {skipped} of the last {WINDOW} steps",
            f"Try {slower}, or bf16=false",
        )
    if not (scores_nearly_all or earns_nothing) and "reward" in metrics:
        yield from _flat(metrics["reward"].dropna(), config, slower, more_prompts)
    if "eval_versus_best/high" in metrics:
        yield from _overfitting(metrics, slower)
    if (share := now.get("thoughts/cut", 0.0)) > 0.2:
        yield Problem(
            f"Thoughts cut: {share:.0%} of completions still think at max_completion_length={longest}, and score 0",
            f"Try max_completion_length={2 * longest}, or chat_template_kwargs=enable_thinking=false",
        )
    elif (share := now.get("completions/clipped_ratio", 0.0)) > 0.5:
        advice = "with a model that never ends, check that it is an instruction-tuned one (…-it, …-Instruct)"
        yield Problem(
            f"Cut off: {share:.0%} of completions reach max_completion_length={longest} without an end",
            f"Try max_completion_length={2 * longest}; {advice}",
        )
    tokens, at_first = (means.get("completions/mean_length", 0.0) for means in (now, first))
    if tokens > 1.5 * at_first:
        yield Problem(
            f"Length running away: {tokens:.0f} tokens a completion, {at_first:.0f} at first",
            "If longer answers are not better ones, the judge pays for length: try reward_funcs=length=0.2, or a "
            "rubric that asks for brevity",
        )
    nats, at_first = (means.get("entropy", 0.0) for means in (now, first))
    if nats < 0.1 * at_first:
        seen = f"{nats:.3f} nats a token, {at_first:.3f} at first: the model says the same again and again"
        wider = "trl=epsilon_high=0.28 (rare tokens may gain more), or trl=entropy_coef=0.01"
        yield Problem(f"Entropy gone: {seen}", f"Try {slower}, {wider}, or stop at an earlier checkpoint")
    share, at_first = (means.get("completions/distinct", 1.0) for means in (now, first))
    if share < at_first / 3:  # a half is usual in a run that goes well
        yield Problem(
            f"Groups alike: {share:.0%} of a prompt's completions differ, {at_first:.0%} at first: little to compare",
            f"Try {slower} or temperature={min(5.0, config.temperature + 0.2):.1f}, or stop at an earlier checkpoint",
        )
    apart, at_first = (means.get("sampling/sampling_logp_difference/mean", 0.0) for means in (now, first))
    if apart > MISMATCH:
        grows = apart > 2 * at_first
        yield Problem(
            f"Sampling mismatch: vLLM's log-probabilities are {apart:.2f} nats a token from the trainer's, "
            f"{at_first:.2f} at first, so it learns from answers that it would not have given",
            f"It grows with training: try {slower}, or use_vllm=false"
            if grows
            else "Try use_vllm=false, or bf16=false, to see which of the two rounds or computes differently",
        )
    if config.beta and (far := now.get("kl", 0.0)) > FAR and far > 2 * first.get("kl", 0.0):
        yield Problem(
            f"KL running away: {far:.2f} nats a token from the base model, {first.get('kl', 0.0):.2f} at first",
            f"Try beta={2 * config.beta:g}, or {slower}, or stop at an earlier checkpoint",
        )
    for name in metrics.columns[metrics.isna().all()]:
        if re.fullmatch("rewards/.*/mean", name):
            what = f"Reward silent: `{name.split('/')[1]}` has given None for every completion, so it teaches nothing"
            yield Problem(what, "Try it on a few answers (study.rewards in 02_prototype_rewards), or leave it out")
    for judge in config.judge:
        name = f"judge/{judge}/failures"
        if name in metrics and (failures := metrics[name].dropna().tail(WINDOW)).sum():
            yield Problem(
                f"Judge failing: {judge} left {int(failures.sum())} completions of the last {len(failures)} steps "
                f"without a score, which take no part in learning",
                "The reasons next to the completions say why",
            )


def _overfitting(metrics: "pandas.DataFrame", slower: str) -> Iterator[Problem]:
    """Whether the last held-out score is surely below the best, and the training reward above what it was then."""
    scores, reward = metrics.set_index("step")["eval_reward"].dropna(), metrics.set_index("step")["reward"].dropna()
    best, now = cast(int, scores.idxmax()), reward.tail(WINDOW).mean()
    then = reward.loc[: max(best, WINDOW)].tail(WINDOW).mean()
    if metrics["eval_versus_best/high"].dropna().iloc[-1] < 0 and now > then:
        yield Problem(
            f"Overfitting: the held-out score fell from {scores.max():.3f} (step {best}) to {scores.iloc[-1]:.3f}, "
            f"while the training reward rose from {then:.3f} to {now:.3f}",
            f"Use an earlier checkpoint, more prompts, {slower} or beta=0.04; early_stopping_patience ends such a run",
        )


def _flat(reward: "pandas.Series", config: TrainConfig, slower: str, more_prompts: str) -> Iterator[Problem]:
    """Whether the later half's mean reward exceeds the earlier's by more than two standard errors of the difference."""
    if len(reward) < max(FLAT_AFTER, FLAT_SHARE * config.max_steps):
        return
    half = len(reward) // 2
    early, late = reward.iloc[:half], reward.iloc[half:]
    noise = 2 * math.sqrt(early.var() / len(early) + late.var() / len(late))
    gain = late.mean() - early.mean()
    seen = f"from {early.mean():.3f} in the first {half} steps to {late.mean():.3f} in the last {len(late)}"
    if gain < -noise:
        yield Problem(f"Reward falls: {seen}", f"Try {slower}, or beta=0.04, which holds the model near its beginning")
    elif gain <= noise:
        yield Problem(
            f"Reward flat: {seen}, no more than its noise",
            f"Read the completions: does the judge tell good from bad? If so, try learning_rate="
            f"{config.learning_rate * 3:.1g} or more prompts a step ({more_prompts})",
        )
