"""What Gemini will be asked in a run, and what that will cost."""

from collections.abc import Sequence

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import EarlierRun
from grpo_kit.costs.ranges import Estimate, times
from grpo_kit.judges.gemini.prices import gemini_prices, judge_price

# Tokens of a judgement of which no earlier run tells. The prompt is gemini/absolute.txt, at 4 letters a token.
TOKENS_OF_PROMPT, TOKENS_OF_RUBRIC, TOKENS_WRITTEN = 480, 80, 160
CANARIES = 4, 8  # prompts, and answers to each (judges/canaries.py)


def judge_calls(config: TrainConfig) -> int:
    """Calls to Gemini in the whole run, without retries; answers that are equal count each."""
    if "gemini" not in config.judge:
        return 0
    answers = config.prompts_per_step if config.gemini_mode == "group" else config.completions_per_step
    return answers * config.gemini_samples * -(-config.max_steps // config.num_iterations)


def canary_calls(config: TrainConfig) -> int:
    """Calls to Gemini before the first step, in which the judge is tried on worthless answers."""
    if "gemini" not in config.judge or config.canaries == "off":
        return 0
    prompts, answers = CANARIES
    return prompts * (1 if config.gemini_mode == "group" else answers) * config.gemini_samples


def judge_usd(config: TrainConfig, runs: Sequence[EarlierRun]) -> Estimate:
    """Dollars for Gemini; (0, 0, 0) where it does not judge. What a cache holds already is not taken off, and the
    canaries are not in it."""
    calls = judge_calls(config)
    if not calls:
        return Estimate((0.0, 0.0, 0.0), "")
    alike = ("gemini_model", "gemini_mode", "num_generations", "gemini_input_price", "gemini_output_price")
    for run in runs:
        if run.usd and all(run.settings.get(name) == getattr(config, name) for name in alike):
            a_call = run.usd / run.calls
            return Estimate(
                times(calls * a_call, (0.7, 1, 1.2)), f"{calls:,} calls; ${a_call:.2g} a call, as in {run.id}"
            )
    input_price, output_price = judge_price(config)
    if input_price is None or output_price is None:
        missing = f"{config.gemini_model} has no price in grpo_kit/judges/gemini/prices.json"
        return Estimate(None, f"{missing}: give gemini_input_price and gemini_output_price")
    answers = config.num_generations if config.gemini_mode == "group" else 1
    read = TOKENS_OF_PROMPT + TOKENS_OF_RUBRIC + config.max_prompt_length // 2
    read += config.max_completion_length * (answers + 1) // 2
    written = TOKENS_WRITTEN * answers
    source = f"{calls:,} calls; assumed: {read:,} tokens read and {written:,} written a call, without thinking"
    source += "" if config.gemini_input_price is not None else f", prices of {gemini_prices()['as_of']}"
    return Estimate(times(calls * (read * input_price + written * output_price) / 1e6, (0.5, 1, 2)), source)
