"""Forecasts of a run's time and of its judge's dollars: by earlier runs where there are any, else by one rough line.

The rough line is counted operations by a machine's usual speed; nothing of it was measured on a GPU.
"""

import os
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import NamedTuple

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import listed_gpu
from grpo_kit.config.judge import CLOUD, rungs
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import EarlierRun, like_run
from grpo_kit.costs.memory import device_of, in_one_pass, prompts_at_once, uses_vllm
from grpo_kit.judges.chat.prices import judge_price, prices_of, unknown_price
from grpo_kit.models.shapes import Shape, shape_of

Range = tuple[float, float, float]  # low, likely, high

# Low and high as shares of what is likely: by counting, by steps of other sizes, of these sizes, by a first step alone.
ROUGH, SCALED, SAME, ONE_STEP = (1 / 3, 1, 3), (1 / 2, 1, 2), (0.8, 1, 1.25), (1 / 2, 1, 1.25)
GPU_SHARE = 0.3  # of a GPU's published speed that training comes to
PASSES = 3  # over a step's tokens: there, back, and once more for checkpointing or the probabilities that drew them
CALL_SECONDS = 2.0  # of a call to a judge
STARTING_SECONDS, STARTING_HERE_SECONDS = 150.0, 10.0  # of a container with its model and vLLM; of a process here
SFT_SHARE = 0.6  # of a GRPO step's seconds, for as many samples: no generating, and no judging
TOKENS_ASKED, TOKENS_WRITTEN = 560, 160  # of a judgement: chat/absolute.txt at 4 letters a token, and a rubric


class Estimate(NamedTuple):
    """A range and where it comes from; None where nothing can be said."""

    range: Range | None
    source: str


def times(value: float, factors: Range) -> Range:
    low, likely, high = (value * factor for factor in factors)
    return low, likely, high


def range_text(values: Range, shown: Callable[[float], str]) -> str:
    """ "3.0 min (1.5 min to 6.0 min)"; `shown` writes one value."""
    low, likely, high = map(shown, values)
    return f"{likely} ({low} to {high})"


def minutes(config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None) -> Estimate:
    """Minutes from the start to the end of a run on Modal's `gpu`, or on this machine where that is None."""
    if run := like_run(config, runs, gpu, "step", "size") or like_run(config, runs, gpu, "step"):
        first, *others = run.cycles  # the first step is slower than the others
        factors, ratio, source = SAME, 1.0, f"the steps of {run.id}, which had the same sizes"
        if not run.is_like(config, "size"):
            factors, source = SCALED, f"the steps of {run.id}, scaled to this size: rough"
            ratio = _size(config) / _size(TrainConfig.model_construct(**run.settings))
        elif not others:
            factors, source = ONE_STEP, f"the first step of {run.id}, which is slower than later ones: likely less"
        every, usual = config.num_iterations, STARTING_SECONDS if gpu else STARTING_HERE_SECONDS
        before = usual if run.before is None else run.before
        # A resumed run has several first steps among the others, which the median leaves aside.
        later = median(others) if run.is_resumed and others else mean(others or [first])
        beside = run.between * (config.max_steps if others else every)  # a single step's is mostly the end of its run
        steps = every * first + max(0, config.max_steps - every) * later + beside
        steps += config.evaluations() * _evaluation_share(config) * run.answering
        warm = config.sft_steps * _sft_seconds(config, run, ratio * later)
        return Estimate(times((before + ratio * steps + warm) / 60, factors), source)
    if (shape := shape_of(config.model_name)) is None:
        return Estimate(None, "the model's shape is not, and there is no earlier run of it")
    if gpu and not listed_gpu(gpu):
        return Estimate(None, f"the speed of {gpu} is not, and there is no earlier run of this model on it")
    if gpu is None and device_of(config, gpu).is_gpu:
        return Estimate(None, "there is no earlier run of this model on this machine's GPU")
    speed = f"{gpu}'s published speed" if gpu else "a usual CPU's speed"
    likely = rough_seconds(config, shape, gpu) / 60
    return Estimate(times(likely, ROUGH), f"counted operations and {speed}: very rough, nothing was measured")


def _sft_seconds(config: TrainConfig, run: EarlierRun, step: float) -> float:
    """Seconds of a step of the warm start: by the run's own, else as a share of a GRPO step's that takes `step`."""
    if run.sft_seconds and run.is_like(config, "size"):
        return run.sft_seconds * config.samples_per_sft_step / (run.settings["sft_batch_size"] or _per_step(run))
    return SFT_SHARE * step * config.samples_per_sft_step / config.completions_per_step


def _per_step(run: EarlierRun) -> int:
    return TrainConfig.model_construct(**run.settings).completions_per_step


def _evaluation_share(config: TrainConfig) -> int:
    """An evaluation's time, by the time that a step's completions take: at most so many are made together."""
    return -(-config.eval_prompts // config.completions_per_step)


def _size(config: TrainConfig) -> int:
    return config.completions_per_process * config.max_completion_length


def rough_seconds(config: TrainConfig, shape: Shape, gpu: str | None, passes: int = PASSES) -> float:
    """From the start to the end of a run; two operations a parameter and token, prompts at half their longest. Each new
    token reads all weights, or computes for longer. Without `passes` it only answers."""
    operations, bytes_read, a_layer, starting = _speed(config, gpu)
    together, weights, prompt = config.completions_per_process, 2 * shape.parameters, config.max_prompt_length / 2
    a_token = a_layer * shape.layers + max(weights / bytes_read, weights * together / operations)
    generating = config.max_completion_length * a_token + weights * together * prompt / operations
    a_sequence = passes * weights * (prompt + config.max_completion_length) / operations
    training, warm = together * a_sequence, config.sft_steps * config.samples_per_sft_step / config.num_processes
    computing = training + generating / config.num_iterations
    judging = CALL_SECONDS * judge_calls(config) / config.max_steps / config.judge_max_in_flight
    a_step = max(computing, judging) if config.max_staleness else computing + judging
    beside = warm * a_sequence + config.evaluations() * _evaluation_share(config) * generating
    return starting + config.max_steps * a_step + beside


def evaluation_minutes(config: TrainConfig, asked: EvalConfig, gpu: str | None) -> Range | None:
    """Minutes of one of Modal's `gpu`, or of this machine's processor where that is None, until the base model and each
    checkpoint have answered; very rough. None where the model's shape or the GPU's speed is not known."""
    if (shape := shape_of(config.model_name)) is None or (gpu and not listed_gpu(gpu)):
        return None
    names = ("max_prompt_length", "max_completion_length")
    lengths = {name: getattr(asked, name) or getattr(config, name) for name in names}
    batch = {"per_device_train_batch_size": asked.batch_size, "gradient_accumulation_steps": 1, "num_iterations": 1}
    batches = models_evaluated(config) * -(-asked.n // asked.batch_size)
    alone = {"use_vllm": asked.use_vllm, "judge": {}, "max_steps": batches, "eval_steps": None}
    return times(rough_seconds(config.model_copy(update=lengths | batch | alone), shape, gpu, passes=0) / 60, ROUGH)


def measuring_minutes(config: TrainConfig, prompts: int, gpu: str | None) -> Range | None:
    """Minutes in which the start model answers so many prompts, and its answers are judged; very rough, as above."""
    if (shape := shape_of(config.model_name)) is None or (gpu and not listed_gpu(gpu)):
        return None
    if gpu is None and device_of(config, gpu).is_gpu:
        return None
    together = min(max(1, prompts), prompts_at_once(config, shape, device_of(config, gpu)))
    alone = {"max_steps": -(-prompts // together), "num_iterations": 1, "max_staleness": 0, "eval_steps": None}
    seconds = (
        rough_seconds(in_one_pass(config, together).model_copy(update=alone), shape, gpu, passes=0)
        - _speed(config, gpu)[-1]
    )
    return times(seconds / 60, ROUGH)


def models_evaluated(config: TrainConfig) -> int:
    """The base model, the warm start and a run's checkpoints."""
    return 1 + bool(config.sft_steps) + -(-config.max_steps // config.save_steps)


def _speed(config: TrainConfig, gpu: str | None) -> tuple[float, float, float, float]:
    """A process's operations and bytes read a second; seconds to start a layer for one token, and to the first step."""
    if gpu is None:  # by the tiny model and SmolLM2-135M on 2 cores of an AMD EPYC (docs/results.md)
        cores = min(config.torch_threads or 64, (os.cpu_count() or 1) / config.num_processes)
        return 30e9 * cores, 1e10, 0.004, STARTING_HERE_SECONDS
    listed = listed_gpu(gpu)
    a_layer = 0.0002 if uses_vllm(config, device_of(config, gpu)) else 0.0015
    return GPU_SHARE * listed["teraflops"] * 1e12, listed["gb_per_second"] * 1e9, a_layer, STARTING_SECONDS


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
