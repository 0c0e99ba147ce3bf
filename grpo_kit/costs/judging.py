"""Forecasts of what judges cost: their calls, by an earlier run's price of one or by the list's."""

from collections.abc import Sequence
from statistics import mean

from grpo_kit.config.judge import CLOUD, rungs
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import EarlierRun
from grpo_kit.costs.ranges import Estimate, times
from grpo_kit.judges.chat.prices import judge_price, prices_of, unknown_price

TOKENS_ASKED, TOKENS_WRITTEN = 560, 160  # of a judgement: chat/absolute.txt at 4 letters a token, and a rubric


def judge_calls(config: TrainConfig, measured: int = 0) -> int:
    """Calls to judges in the whole run, without retries, and for so many prompts whose difficulty is measured before;
    answers that are equal count each."""
    answers = config.prompts_per_step if config.judge_mode == "group" else config.completions_per_step
    answers *= -(-config.max_steps // config.num_iterations)
    answers += measured * (1 if config.judge_mode == "group" else config.num_generations)
    return len(config.cloud_judges) * (answers + config.evaluations() * config.eval_prompts) * config.judge_samples


def judge_usd(config: TrainConfig, runs: Sequence[EarlierRun], measured: int = 0) -> Estimate:
    """Dollars for judges; (0, 0, 0) where none is paid. Without canaries; what a cache holds or a
    ladder settles below is not taken off."""
    if not (calls := judge_calls(config, measured)):
        return Estimate((0.0, 0.0, 0.0), "")
    # Of a ladder only the first rung is asked about every answer.
    surely = len(CLOUD.keys() & {name.split(">")[0] for name in config.judge}) / len(config.cloud_judges)
    told = f"{calls:,} calls" if surely == 1 else f"at most {calls:,} calls, if every answer goes up the ladder"
    alike = ("judge_model", "gemini_model", "judge_mode", "num_generations", "judge_input_price", "judge_output_price")
    for run in runs:
        same_judges = CLOUD.keys() & rungs(run.settings["judge"]) == {*config.cloud_judges}
        if run.usd and same_judges and all(run.settings.get(name) == getattr(config, name) for name in alike):
            usd = run.usd / run.calls
            return Estimate(times(calls * usd, (0.7 * surely, 1, 1.2)), f"{told}; ${usd:.2g} a call, as in {run.id}")
    if unknown := unknown_price(config, config.cloud_judges):
        return Estimate(None, f"{unknown.what}: g{unknown.fix[1:]}")
    answers = config.num_generations if config.judge_mode == "group" else 1
    read = TOKENS_ASKED + (config.max_prompt_length + config.max_completion_length * (answers + 1)) // 2
    written = TOKENS_WRITTEN * answers
    prices = [judge_price(config, judge) for judge in config.cloud_judges]
    a_call = mean(read * (price[0] or 0.0) + written * (price[1] or 0.0) for price in prices) / 1e6
    source = f"{told}; assumed: {read:,} tokens read and {written:,} written a call, without thinking"
    dates = ", ".join(dict.fromkeys(prices_of(judge)["as_of"] for judge in config.cloud_judges))
    source += "" if config.judge_input_price is not None else f", prices of {dates}"
    return Estimate(times(calls * a_call, (0.5 * surely, 1, 2)), source)
