"""Forecasts of a run's time: what a step takes is counted, and set right by what an earlier run on the machine took.

Operations, and layers that are started, are counted by a usual machine's speed. Where nothing was measured that is very
rough; the ratio of two runs is less so. So generating and updating are each multiplied by what the earlier run took of
its own count: one of the same sizes gives its own seconds that way.
"""

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple, cast

from grpo_kit.config.environment import RULES
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.gpus import listed_gpu
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import HERE, EarlierRun, like_run
from grpo_kit.costs.judging import judge_calls, replies_in_each
from grpo_kit.costs.memory import device_of, in_one_pass, prompts_at_once, uses_vllm
from grpo_kit.costs.ranges import Estimate, Range, times, total
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import conversation_text, numbered_lines, sample_from
from grpo_kit.errors import KitError
from grpo_kit.models.shapes import Shape, shape_of

# Low and high as shares of what is likely: by counting, by other settings, by other sizes, by these, by a step alone.
ROUGH, OTHER, SCALED, SAME = (1 / 3, 1, 3), (0.4, 1, 2.5), (1 / 2, 1, 2), (0.75, 1, 1.4)
ONE_STEP, START = (1 / 2, 1, 1.25), (0.6, 1, 2)
PASSES = 3  # over a step's tokens: there, back, and once more for checkpointing or the probabilities that drew them
GPU_SHARE = 0.3  # of a GPU's published speed that training comes to
MOVES = 8  # times that transformers reads or copies a position's keys and values for each new token
SFT_SHARE = 1.2  # of the seconds of an update, for as many samples as it has completions
CALL_SECONDS = 2.0  # of a call to a judge
STARTING_SECONDS, STARTING_HERE_SECONDS = 150.0, 6.0  # of a container with its model and vLLM; of a process here
LOOKED_AT, LETTERS, AROUND = 200, 4, 20  # prompts of the data; letters a token; tokens of a chat template


class Known(NamedTuple):
    """What an earlier run tells of the next, or what is assumed where there is none."""

    source: str
    factors: Range
    generating: float = 1.0  # what it took of what is counted
    updating: float = 1.0
    starting: float = STARTING_HERE_SECONDS
    first: float = 0.0  # by how much its first step is slower
    beside: float = 0.0  # seconds of a step for saving and recording
    call: float | None = None  # seconds of a wave of calls to its judges
    answer: float = CALL_SECONDS  # seconds of a wave of calls for what users say; 0: it is among what generating took
    longest: float = math.inf  # tokens after which all its completions had ended by themselves
    sft: float = SFT_SHARE  # seconds of a sample of the warm start, of those that a completion takes in an update

    @property
    def for_answers(self) -> Range:
        """The factors of what is only answered, in batches of another size than a step's."""
        return max(self.factors, SCALED, key=lambda factors: factors[2])


def minutes(config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None) -> Estimate:
    """Minutes from the start to the end of a run on Modal's `gpu`, or on this machine where that is None."""
    known = _known(config, runs, gpu)
    if isinstance(known, str):
        return Estimate(None, known)
    every, cycles = config.num_iterations, -(-config.max_steps // config.num_iterations)
    generating, updating, judging = _step(config, known, gpu)
    computing = generating + every * updating
    cycle = max(computing, judging) if config.max_staleness else computing + judging
    answering = config.evaluations() * -(-config.eval_prompts // config.completions_per_step) * (generating + judging)
    warm = config.sft_steps * known.sft * updating * config.samples_per_sft_step / config.completions_per_step
    steps = known.first + cycles * cycle + config.max_steps * known.beside + answering + warm
    whole = total(times(known.starting, START), times(steps, known.factors))
    return Estimate(times(1 / 60, whole), known.source)


def evaluation_minutes(
    config: TrainConfig, asked: EvalConfig, runs: Sequence[EarlierRun], gpu: str | None, models: int
) -> Range | None:
    """Minutes of one of Modal's `gpu`, or of this machine's processor where that is None, until so many models of a run
    with `config` have answered. None where the model's shape or the GPU's speed is not known."""
    known, shape = _known(config, runs, gpu), shape_of(config.model_name)
    if isinstance(known, str) or shape is None or (gpu and not listed_gpu(gpu)):
        return None
    names = ("max_prompt_length", "max_completion_length")
    lengths = {name: getattr(asked, name) or getattr(config, name) for name in names}
    batch = {"per_device_train_batch_size": min(asked.batch_size, asked.n), "gradient_accumulation_steps": 1}
    as_asked = config.model_copy(update={**lengths, **batch, "use_vllm": asked.use_vllm})
    a_batch = known.generating * _counted(_cut(as_asked, known.longest), shape, gpu)[0] + _hearing(as_asked, known)
    judged = {"per_device_train_batch_size": asked.n, "judge_mode": "absolute"}
    judged |= {"judge": {asked.judge: 1.0}} if asked.judge else {}
    a_model = -(-asked.n // asked.batch_size) * a_batch + _judging(as_asked.model_copy(update=judged), known)
    return times(1 / 60, total(times(known.starting, START), times(models * a_model, known.for_answers)))


def measuring_minutes(config: TrainConfig, prompts: int, runs: Sequence[EarlierRun], gpu: str | None) -> Range | None:
    """Minutes in which the start model answers so many prompts, and its answers are judged, of a process that has
    started; None as above."""
    known, shape = _known(config, runs, gpu), shape_of(config.model_name)
    if isinstance(known, str) or shape is None or (gpu and not listed_gpu(gpu)):
        return None
    together = min(max(1, prompts), prompts_at_once(config, shape, device_of(config, gpu)))
    at_once = _cut(in_one_pass(config, together), known.longest)
    batch = known.generating * _counted(at_once, shape, gpu)[0] + _judging(at_once, known)
    return times(prompts / together * batch / 60, known.for_answers)


def models_evaluated(config: TrainConfig) -> int:
    """The base model, the warm start and a run's checkpoints."""
    return 1 + bool(config.sft_steps) + -(-config.max_steps // config.save_steps)


def _step(config: TrainConfig, known: Known, gpu: str | None) -> tuple[float, float, float]:
    """Seconds in which a step's completions are generated, an update is made, and the judges called for the step."""
    generating, updating = _counted(_cut(config, known.longest), _shape(config), gpu)
    return known.generating * generating + _hearing(config, known), known.updating * updating, _judging(config, known)


def _hearing(config: TrainConfig, known: Known) -> float:
    """Seconds in which a model speaks for the users of a step's dialogues, one turn of all of them after the other."""
    waves = max(1.0, config.completions_per_process / config.judge_max_in_flight) * (replies_in_each(config) - 1)
    return 0.0 if config.simulated_user == RULES else waves * known.answer


def _judging(config: TrainConfig, known: Known) -> float:
    """Seconds in which judges are called for the completions of a step, so many at a time."""
    once = config.model_copy(update={"max_steps": 1, "num_iterations": 1, "eval_steps": None})
    waves = judge_calls(once) / config.judge_max_in_flight
    return max(1.0, waves) * (CALL_SECONDS if known.call is None else known.call) if waves else 0.0


def _known(config: TrainConfig, runs: Sequence[EarlierRun], gpu: str | None) -> Known | str:
    """By the earlier run that tells most: one of the same sizes, else of the same model, else any on the machine, the
    nearest by what is counted. Why nothing is known, where that is so."""
    if run := like_run(config, runs, gpu, "step", "size"):
        if len(run.cycles) > 1:
            return _from(config, run, gpu, SAME, f"as run {run.id} took, with steps of the same size")
        source = f"by the first step of run {run.id}, which is slower than later ones: likely less"
        return _from(config, run, gpu, ONE_STEP, source)
    shape, is_listed = shape_of(config.model_name), not gpu or bool(listed_gpu(gpu))
    here = [run for run in runs if run.machine == (gpu or HERE)]
    alike = [run for run in here if run.is_like(config, "step")]
    if shape and is_listed:
        alike = alike or [run for run in here if shape_of(run.settings["model_name"])]
        seconds = sum(_counted(config, shape, gpu))
        alike.sort(key=lambda run: abs(math.log(sum(_counted_of(run, gpu)) / seconds)))
    if alike and alike[0].is_like(config, "step"):
        return _from(config, alike[0], gpu, SCALED, f"rough, by run {alike[0].id}, whose steps had another size")
    if alike:
        source = f"very rough, by run {alike[0].id}, which had another model or other settings"
        return _from(config, alike[0], gpu, OTHER, source)
    if shape is None:
        return "the model's shape is not, and there is no earlier run of it"
    if not is_listed:
        return f"the speed of {gpu} is not, and there is no earlier run of this model on it"
    if gpu is None and device_of(config, gpu).is_gpu:
        return "there is no earlier run on this machine's GPU"
    by = f"the model's size and {gpu}'s published speed" if gpu else "the model's size"
    return Known(f"guessed from {by}, as there is no earlier run to go by", ROUGH, starting=_starting(gpu))


def _from(config: TrainConfig, run: EarlierRun, gpu: str | None, factors: Range, source: str) -> Known:
    """What a run tells of one with `config`."""
    own = TrainConfig.model_construct(**run.settings)
    (counted_generating, counted_updating), every = _counted_of(run, gpu), own.num_iterations
    first, *others = run.cycles  # the first step is slower than the others
    # A resumed run has several first steps among the others, which the median leaves aside.
    later = every * (median(others) if run.is_resumed and others else mean(others or [first]))
    waited = run.judging if own.cloud_judges and not own.max_staleness else 0.0  # else it is among the rest
    answering = run.generating + run.judging - waited
    updating = max(0.0, later - answering - waited) / every
    ended = run.longest if run.longest and own.model_name == config.model_name else math.inf
    waves = _judging(own, Known("", SAME, call=1.0))
    sft = (run.sft_seconds or 0.0) / own.samples_per_sft_step / max(updating, 1e-9) * own.completions_per_step
    return Known(
        source,
        factors,
        generating=answering / counted_generating,
        updating=updating / counted_updating,
        starting=_starting(gpu) if run.before is None else run.before,
        # Beside a single step is mostly the end of its run.
        first=max(0.0, every * first - later) + (0.0 if others else every * run.between),
        beside=run.between if others else 0.0,
        call=waited / waves if waves and own.cloud_judges == config.cloud_judges else None,
        answer=0.0 if own.simulated_user == config.simulated_user else CALL_SECONDS,
        longest=ended if ended < 0.9 * own.max_completion_length else math.inf,
        sft=sft or SFT_SHARE,
    )


def _counted(config: TrainConfig, shape: Shape, gpu: str | None) -> tuple[float, float]:
    """Seconds in which a batch of completions is generated, and an update is made: two operations a parameter and
    token; each new token reads all weights and moves all keys and values, or computes for longer."""
    operations, bytes_read, a_layer = _speed(config, gpu)
    together, weights, prompt = config.completions_per_process, 2 * shape.parameters, _prompt_tokens(config)
    kept = together * shape.cache_bytes(round(prompt + config.max_completion_length / 2), 2)
    moved = weights + kept * (1 if uses_vllm(config, device_of(config, gpu)) else MOVES)
    a_token = a_layer * shape.layers + max(moved / bytes_read, weights * together / operations)
    reading = weights * together * prompt / operations
    computing = PASSES * weights * together * (prompt + config.max_completion_length) / operations
    starting = PASSES * a_layer * shape.layers * config.gradient_accumulation_steps
    return config.max_completion_length * a_token + reading, computing + starting


def _counted_of(run: EarlierRun, gpu: str | None) -> tuple[float, float]:
    own = TrainConfig.model_construct(**run.settings)
    return _counted(_cut(own, run.longest or math.inf), _shape(own), gpu)


def _shape(config: TrainConfig) -> Shape:
    """A model whose shape is not known is only compared with itself, where any shape will do."""
    return shape_of(config.model_name) or cast(Shape, shape_of("tiny"))


def _cut(config: TrainConfig, longest: float) -> TrainConfig:
    """With completions of so many tokens at most."""
    return config.model_copy(update={"max_completion_length": min(config.max_completion_length, longest)})


def _prompt_tokens(config: TrainConfig) -> float:
    """Tokens to which a batch's prompts are padded: those of its longest; half of the most where the data is not
    here."""
    try:
        train = data_folder(config.data) / "train.jsonl"
        letters = _letters(train, train.stat().st_mtime_ns)
    except (KitError, OSError, ValueError):
        return config.max_prompt_length / 2
    prompts = max(1, config.completions_per_process // config.num_generations)
    shares = [(i / len(letters)) ** prompts for i in range(len(letters) + 1)]
    longest = sum(each * (shares[i + 1] - shares[i]) for i, each in enumerate(letters))
    return min(config.max_prompt_length, longest / LETTERS + AROUND)


@lru_cache(8)
def _letters(path: Path, modified: int) -> list[int]:
    """Of the data's first prompts, the shortest first."""
    lines = islice(numbered_lines(path), LOOKED_AT)
    return sorted(len(conversation_text(sample_from(line, "").prompt)) for _, line in lines)


def _speed(config: TrainConfig, gpu: str | None) -> tuple[float, float, float]:
    """A process's operations and bytes read a second; seconds to start a layer for one token."""
    if gpu is None:  # by the tiny model and SmolLM2-135M on 2 cores of an AMD EPYC (docs/benchmarks.md)
        cores = min(config.torch_threads or 64, (os.cpu_count() or 1) / config.num_processes)
        return 40e9 * cores, 1e10, 0.001
    listed = listed_gpu(gpu)
    a_layer = 0.0002 if uses_vllm(config, device_of(config, gpu)) else 0.0015
    return GPU_SHARE * listed["teraflops"] * 1e12, listed["gb_per_second"] * 1e9, a_layer


def _starting(gpu: str | None) -> float:
    return STARTING_SECONDS if gpu else STARTING_HERE_SECONDS
