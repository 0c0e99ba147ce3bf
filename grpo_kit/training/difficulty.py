# pyright: basic, reportPrivateImportUsage=false
"""Prompts that teach nothing are left out before the first step: filter_difficulty.

The start model answers every prompt num_generations times, as it will in training, and the run's own judges and rewards
score the answers. GRPO learns from differences within a group: a prompt whose answers all earn (nearly) the same, since
they are always or never right, costs as much as any other and moves nothing. Its mean score alone does not tell: one
right answer among many wrong ones is what there is to learn from. So the spread decides.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.memory import decided, device_of, prompts_at_once, uses_vllm
from grpo_kit.data.samples import fingerprint
from grpo_kit.errors import ConfigError, RunStopped
from grpo_kit.judges.cache import RewardCache, digest
from grpo_kit.models.load import download_model, gpu_gib, is_of_gpu, is_out_of_memory
from grpo_kit.models.shapes import config_file, shape_of
from grpo_kit.rewards.judge_reward import TooManyFailures
from grpo_kit.runs.directory import DIFFICULTY_FILE, START
from grpo_kit.training.failures import out_of_memory
from grpo_kit.training.plan import Plan
from grpo_kit.training.progress import RunProgress
from grpo_kit.utils.environment import rank
from grpo_kit.utils.files import CACHE, write_bytes, write_json
from grpo_kit.utils.json_lines import as_lines, read_lines
from grpo_kit.utils.text import duration

if TYPE_CHECKING:
    from grpo_kit.training.trainer import KitTrainer

TELL_SECONDS = 10  # between lines that say how far it is
TIED = 0.05  # of the full score: what sets a prompt's answers apart by less is mostly the judge's taste
KEPT, NEVER, ALWAYS, ALIKE = "kept", "left_out_too_hard", "left_out_too_easy", "left_out_alike"
WORDS = {NEVER: "never earn anything", ALWAYS: "always the most", ALIKE: "always alike"}
# The settings that decide the start model's answers, beside what "auto" comes to on this machine.
DRAWN_BY = """model_name load_in_4bit seed num_generations temperature top_p max_prompt_length max_completion_length
    chat_template_kwargs trl""".split()


def keep_what_teaches(trainer: "KitTrainer", plan: Plan, cache: RewardCache, progress: RunProgress) -> None:
    """Leaves out of the trainer's data the prompts whose answers all earn the same, and records how many and why.

    All processes take part. Each batch is in the run's folder as soon as it is judged, so that a run that is resumed
    goes on there; the kit's cache has it for other runs. Raises RunStopped where the run is asked to stop, max_usd does
    not pay for the next batch, or the judge fails, ConfigError where fewer prompts are left than a step takes.
    """
    if trainer.args.fsdp:
        raise ConfigError(
            "filter_difficulty needs the whole model in each process, and FSDP splits it",
            "Use larger GPUs, or leave filter_difficulty out",
        )
    config, started = plan.config, time.monotonic()
    auto = {"use_vllm": trainer.use_vllm, "bf16": bool(trainer.args.bf16)}
    # An adapter, or what a warm start has made, stands in the run's folder.
    starts, data = [progress.run.path / START, *map(Path, progress.run.sft_checkpoints[-1:])], plan.about["data"]
    answers = _cache_file(config, download_model(config.model_name, weights=False), starts, auto, data["fingerprint"])
    with _kept_in_cache(answers, cache, progress) as (answered, scored):
        _measure(trainer, config, progress, answered, scored)
    full = sum(weight for weight in trainer.reward_weights.tolist() if weight > 0)  # what scores of 1 come to
    kinds = [kind_of(scored[sample.id]["scores"], full) for sample in plan.samples]
    count = Counter(kinds)
    found = {"prompts_kept": count[KEPT], **{kind: count[kind] for kind in WORDS}}
    why = ", ".join(f"{count[kind]:,} {words}" for kind, words in WORDS.items() if count[kind])
    told = f"{count[KEPT]:,} of {len(kinds):,} prompts kept" + (f"; {why}" if why else "")
    progress.say(f"filter_difficulty: {told}")
    progress.measuring_seconds = time.monotonic() - started
    progress.writer.update(difficulty={**found, "seconds": round(progress.measuring_seconds, 1)})
    if not rank():
        _record(plan, progress, found)
    if count[KEPT] < config.prompts_per_step:
        what = f"filter_difficulty: a step takes {config.prompts_per_step} prompt(s), and {told}"
        smaller = "smaller steps, " if count[KEPT] else ""
        fix = f"Use other data, another model, {smaller}or filter_difficulty=false, under another run_id"
        raise ConfigError(what, fix)
    trainer.train_dataset = trainer.train_dataset.select([i for i, kind in enumerate(kinds) if kind == KEPT])


def kind_of(scores: Sequence[float | None], full: float) -> str:
    """Whether a prompt is kept or why it is left out, by its answers' scores (None: not judged), of which `full` is the
    highest. One with fewer than two scores tells nothing and is kept."""
    known = [score for score in scores if score is not None]
    if len(known) < 2 or max(known) - min(known) > TIED * full:
        return KEPT
    mean = fmean(known)
    return NEVER if mean <= TIED * full else ALWAYS if mean >= (1 - TIED) * full else ALIKE


@contextmanager
def _kept_in_cache(answers: Path, cache: RewardCache, progress: RunProgress) -> Iterator[tuple[dict, dict]]:
    """Gives the completions that are known by sample, an earlier run's among them, and the run's own scored rows. What
    was added, judgements too, is in the kit's cache after the block, also where that ended early."""
    own = progress.run.path / DIFFICULTY_FILE
    judgements, answered, scored = answers.with_suffix(".sqlite"), {}, {}
    if not rank():
        answered = {row["sample_id"]: row["completions"] for row in read_lines(answers)}
        rows = read_lines(own)
        write_bytes(own, as_lines(rows))  # without a line that a kill cut short
        scored = {row["sample_id"]: row for row in rows}
        if judgements.exists():
            cache.copy_from(judgements)
    answered, scored = progress.agree((answered, scored))
    before = len(scored)
    try:
        yield answered, scored
    finally:
        if not rank() and len(scored) > before:
            answers.parent.mkdir(parents=True, exist_ok=True)
            completions = answered | {each: row["completions"] for each, row in scored.items()}
            write_bytes(
                answers, as_lines({"sample_id": each, "completions": completions[each]} for each in completions)
            )
            with closing(RewardCache(judgements)) as kept:
                kept.copy_from(cache.path)


def answered_before(config: TrainConfig, train: Path) -> int:
    """How many prompts of `train`, the data, were answered by an earlier run's start model, which this run's would
    answer alike; 0 where it starts from an adapter or makes a warm start. Asks no network."""
    if config.adapter or config.sft_steps or not (file := config_file(config.model_name)):
        return 0
    device = device_of(config, None)
    auto = {"use_vllm": uses_vllm(config, device), "bf16": decided(config.bf16, device.is_gpu)}
    answers = _cache_file(config, file.parent, [], auto, fingerprint([train]))
    return len(answers.read_bytes().splitlines()) if answers.exists() else 0


def _cache_file(config: TrainConfig, model: Path, starts: Sequence[Path], auto: dict[str, bool], data: str) -> Path:
    """Where the kit keeps the start model's answers to the data of that fingerprint; another file where anything that
    decides them is another. `auto` is what "auto" comes to."""
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(model.iterdir())]
    weights = fingerprint(sorted(file for start in starts for file in start.glob("*.safetensors")))
    key = digest([{name: getattr(config, name) for name in DRAWN_BY} | auto, files, weights, data], size=16)
    return CACHE / "difficulty" / f"{key}.jsonl"


def _measure(
    trainer: "KitTrainer",
    config: TrainConfig,
    progress: RunProgress,
    answered: dict[str, list],
    scored: dict[str, dict],
) -> None:
    """Adds to `scored`, and to the run's folder, a row for each prompt that has none: its completions and scores."""
    from accelerate.utils import set_seed

    rows: list[Any] = list(trainer.train_dataset)
    todo = [(place, row) for place, row in enumerate(rows) if row["id"] not in scored]
    if not todo:
        return
    group, count = config.num_generations, trainer.accelerator.num_processes
    asked = config.model_copy(update={"use_vllm": trainer.use_vllm})
    at_once = prompts_at_once(asked, shape_of(config.model_name), device_of(config, None))
    at_once = max(1, at_once // count) * count
    # In batches of their own, so that none is answered again beside one that was not.
    known = [each for each in todo if each[1]["id"] in answered]
    parts = known, [each for each in todo if each[1]["id"] not in answered]
    batches = [part[start : start + at_once] for part in parts for start in range(0, len(part), at_once)]
    before = f", {len(known):,} of which were answered before" if known else ""
    progress.say(f"filter_difficulty: the start model answers {len(todo):,} prompts, {group} times each{before}")
    stage = _Stage(progress, len(todo), len(rows))
    trainer.model.eval()
    try:
        for placed in batches:
            batch = [row for _, row in placed]
            new = _answers(trainer, config, batch, answered, seed=config.seed + placed[0][0] * count)
            scored.update({row["sample_id"]: row for row in new})
            progress.writer.append(DIFFICULTY_FILE, new)
            stage.measured(len(batch))
    except (TooManyFailures, ConfigError) as error:
        raise RunStopped(f"{error}. {stage.stopped}") from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = out_of_memory(asked, progress.run.id, is_of_gpu(error), progress.part, 1, gpu_gib())
        raise RunStopped(f"{problem.what}. {stage.stopped}", problem.fix) from None
    finally:
        trainer.model.train()
        for kept in (trainer._metrics["eval"], trainer._pending_metrics, trainer._pending_extra_logs):
            kept.clear()
        set_seed(config.seed, device_specific=True)  # as TRL does: the first step draws alike, measured here or before


class _Stage:
    """How far measuring is."""

    def __init__(self, progress: RunProgress, left: int, prompts: int):
        self._progress, self._before, self._left, self._prompts = progress, prompts - left, left, prompts
        self._began = self._told = time.monotonic()
        progress.budget.see_measuring(0)

    @property
    def stopped(self) -> str:
        done, run = self._prompts - self._left, self._progress.run.id
        return f"Stopped before the first step; {done} of {self._prompts} prompts are measured, run_id {run} goes on"

    def measured(self, batch: int) -> None:
        """Called after each batch of so many prompts. Raises RunStopped where the run was asked to stop, or max_usd
        does not pay for the next."""
        progress, now = self._progress, time.monotonic()
        self._left -= batch
        done = self._prompts - self._left
        progress.writer.update(difficulty={"measured": done, "prompts": self._prompts})
        if not self._left:
            return
        if now - self._told > TELL_SECONDS:
            self._told, seconds = now, (now - self._began) / (done - self._before) * self._left
            told = f"{done:,} of {self._prompts:,} prompts measured, some {duration(seconds)} left"
            progress.say(f"filter_difficulty: {told}")
        unpaid = progress.budget.see_measuring(self._left / batch)
        if why := progress.agree("stopped, as asked" if progress.is_asked_to_stop else unpaid):
            raise RunStopped(f"{why}. {self.stopped}")


def _answers(
    trainer: "KitTrainer", config: TrainConfig, batch: list[dict[str, Any]], answered: dict[str, list], seed: int
) -> list[dict[str, Any]]:
    """A row for each prompt of the batch. Every process makes and judges as many, the last ones twice if need be."""
    import torch
    from accelerate.utils import gather_object

    group, count, own = config.num_generations, trainer.accelerator.num_processes, trainer.accelerator.process_index
    each = -(-len(batch) // count)
    mine = (batch * count)[own * each : (own + 1) * each]
    inputs = [row for row in mine for _ in range(group)]
    prompts, trainer._rows = [row["prompt"] for row in inputs], inputs
    if batch[0]["id"] in answered:  # and so are the others
        completions = [completion for row in mine for completion in answered[row["id"]]]
        texts = [each if isinstance(each, str) else each[-1]["content"] for each in completions]
        tokenizer: Any = trainer.processing_class
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    else:
        torch.manual_seed(seed + own)
        _, ids, _, completions, *_ = trainer._generate(prompts)
    by_reward = trainer._scores_of_all(inputs, prompts, completions, ids).cpu()
    whole = (by_reward * trainer.reward_weights.cpu()).nansum(dim=1)
    missing = by_reward[:, : len(config.judge)].isnan().any(dim=1) | by_reward.isnan().all(dim=1)
    scores = [None if isnan(score) else round(score, 6) for score in whole.masked_fill(missing, nan).tolist()]
    completions = gather_object(completions)
    return [
        {
            "sample_id": row["id"],
            "completions": completions[i * group : (i + 1) * group],
            "scores": scores[i * group : (i + 1) * group],
        }
        for i, row in enumerate(batch)
    ]


def _record(plan: Plan, progress: RunProgress, found: dict[str, int]) -> None:
    """Writes what was found into the run's config.json, and into the card of data that is the user's own."""
    run, config, prompts = progress.run, plan.config, len(plan.samples)
    about = run.about
    write_json(run.path / "config.json", about | {"data": about["data"] | found})
    card = Path(about["data"]["folder"]) / "data_card.json"
    if card.is_absolute() and card.exists():
        shares = {"never_right": NEVER, "always_right": ALWAYS, "always_alike": ALIKE}
        names = ("adapter", "sft_steps", "judge", "num_generations")
        told = {"model": config.model_name, **{name: getattr(config, name) for name in names}}
        told |= {"run": run.id, "prompts": prompts, "kept": found["prompts_kept"]}
        told |= {f"share_{name}": round(found[kind] / prompts, 4) for name, kind in shares.items()}
        with suppress(OSError):  # a folder that is only to be read
            write_json(card, {**json.loads(card.read_text()), "difficulty": told})
