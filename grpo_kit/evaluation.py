"""Is the trained model better? Base model and checkpoints answer the same held-out prompts and are judged alike.

Everything is paired: same prompts, same seeds, scores compared prompt by prompt. Nothing here knows of Modal.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from grpo_kit.cache import CACHE_FILE, RewardCache, caches_to_start_from
from grpo_kit.comparison import BASE, Evaluation, compare, describe, write_evaluation
from grpo_kit.config import CHANGES_NO_SCORE, ConfigError, EvalConfig, JudgeConfig, TrainConfig
from grpo_kit.demo import DEFAULT_DATA, data_folder
from grpo_kit.judging import judge_batch, run_async
from grpo_kit.models import answer, device_can_bf16, fit_prompt, load_model, load_tokenizer, torch_threads
from grpo_kit.rewards import make_judge
from grpo_kit.runs import RUNS_DIR, Run, RunError, is_run, now
from grpo_kit.samples import Sample, fingerprint, read_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate(
    target: Run | str | Path,
    config: EvalConfig | None = None,
    *,
    base_model: str | None = None,
    runs_dir: str | Path = RUNS_DIR,
    echo: Callable[[str], None] = tqdm.write,
    **settings,
) -> Evaluation:
    """Has the base model and what was trained from it answer `n` held-out prompts, and compares their scores.

    `target` is a run (or its name, or its folder), of which every checkpoint is evaluated, or the folder of one model:
    an adapter, which names its base itself, or a whole model, which is compared with the run's base where its folder
    lies in a run, else with `base_model`, else with nothing. `settings` are EvalConfig's fields by keyword.

    Writes NAME.json, NAME.samples.jsonl and NAME.png into `eval/` of the run or folder. NAME says the settings, so the
    same settings again replace them. Raises ConfigError for a model or data that is not there, RunError for a run
    that is not there or has no checkpoint yet, BadTrace for an eval.jsonl that is not valid.
    """
    config = (config or EvalConfig()).replace(**settings)
    subject = _subject(target, base_model, Path(runs_dir))
    data = _data(config, subject.run)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        echo(text)

    if subject.base is None:
        note(f"No base model is known for {subject.folders[0]}: it is evaluated alone. base_model would name one")
    if config.data is None and subject.run and _has_changed(data, subject.run):
        note(f"{data} is not what run {subject.run.id} was trained on: it may have trained on some of these prompts")
    asked, config = config, _as_trained(config, subject)
    judge = make_judge(config.judge, config)
    judge.check()
    tokenizer = load_tokenizer(subject.base or str(subject.folders[0]))
    samples = _questions(data / "eval.jsonl", config, tokenizer, config.max_prompt_length, note)
    out = subject.home / "eval"
    out.mkdir(exist_ok=True)
    starts = caches_to_start_from(config.cache_from, runs_dir)
    models, answers, verdicts = [], {}, {}
    with closing(RewardCache(subject.cache)) as cache, torch_threads(subject.settings.torch_threads):
        for path in starts:
            echo(f"{cache.copy_from(path)} judgements taken over from {path}")
        for name, source, model in _models(subject):
            started = time.perf_counter()
            answers[name] = answer(
                model,
                tokenizer,
                [sample.prompt for sample in samples],
                max_completion_length=config.max_completion_length,
                temperature=config.temperature,
                top_p=subject.settings.top_p,
                seed=config.seed,
                batch_size=config.batch_size,
            )
            del model  # makes room for the next
            verdicts[name] = run_async(judge_batch(judge, cache, samples, answers[name])).verdicts
            is_compared = subject.base is not None and name != BASE
            models.append(
                {
                    "name": name,
                    "source": source,
                    **describe(name, answers[name], verdicts[name], config.seed),
                    "versus_base": compare(verdicts[BASE], verdicts[name], config.seed) if is_compared else None,
                    "seconds": round(time.perf_counter() - started, 1),
                }
            )
            echo(f"{name}: mean score {models[-1]['mean']:.3f} on {len(samples)} prompts")
    results = {
        "made": now(),
        "target": subject.run.id if subject.run else str(subject.home),
        "n": len(samples),
        "config": config.model_dump(),
        "data": {"file": str(data / "eval.jsonl"), "fingerprint": fingerprint([data / "eval.jsonl"])},
        "judge": {
            "name": judge.name,
            "version": judge.version,
            **(asdict(judge.usage) if judge.usage else {}),
        },
        "notes": notes,
        "models": models,
    }
    path = out / f"{_name(asked, config.temperature, len(samples))}.json"
    return write_evaluation(path, results, samples, answers, verdicts)


@dataclass(frozen=True)
class _Subject:
    """What is evaluated: a base model and the folders of what was trained from it, oldest first."""

    run: Run | None  # the run that they belong to, where it is known
    home: Path  # gets eval/
    cache: Path
    base: str | None
    folders: list[Path]

    @property
    def settings(self) -> TrainConfig:
        """The run's; where there is no run, those that the model would be trained with."""
        return self.run.config if self.run else TrainConfig(model_name=self.base or str(self.folders[0]))


def _as_trained(config: EvalConfig, subject: _Subject) -> EvalConfig:
    """`config` with what it leaves open, and Gemini's settings that it does not name, taken from the run."""
    trained = subject.settings
    names = ("temperature", "max_prompt_length", "max_completion_length")
    taken = {name: getattr(trained, name) for name in names if getattr(config, name) is None}
    if config.judge is None:
        taken["judge"] = max(trained.judge, key=trained.judge.get)
    # Each answer is judged by itself here, and caches are no part of how it is judged.
    asked_alike = JudgeConfig.model_fields.keys() - config.given.keys() - {"gemini_mode", "cache_from"}
    return config.replace(**{name: getattr(trained, name) for name in asked_alike}, **taken)


def _subject(target: Run | str | Path, base_model: str | None, runs_dir: Path) -> _Subject:
    is_known = isinstance(target, Run) or is_run(runs_dir / target) or is_run(Path(target))
    if not is_known and Path(target).is_dir():
        return _lone_model(Path(target), base_model)
    run = target if isinstance(target, Run) else Run(target, runs_dir)
    folders = run.checkpoints
    if not folders and _holds_model(run.path):  # a copy of a run may lack the checkpoints
        folders = [run.path]
    if not folders:
        status = run.status
        raise RunError(
            f"run {run.id} has no checkpoint yet ({status['state']}, step {status['step']} of {status['max_steps']}, "
            f"one is saved every {run.config.save_steps}): train it first"
        )
    return _Subject(run, run.path, run.path / CACHE_FILE, base_model or run.config.model_name, folders)


def _lone_model(folder: Path, base_model: str | None) -> _Subject:
    if not _holds_model(folder):
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ConfigError(
            f"no model in {folder}. It should hold adapter_config.json and its weights, or config.json and "
            f"*.safetensors; it holds {there}"
        )
    run = Run(folder.resolve().parent) if is_run(folder.resolve().parent) else None
    base = base_model or (run.config.model_name if run else None)
    if base is None and _is_adapter(folder):
        base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
        if not base:
            raise ConfigError(f"the adapter in {folder} names no base model: give base_model (--base-model)")
    return _Subject(run, folder, folder / "eval" / CACHE_FILE, base, [folder])


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def _holds_model(folder: Path) -> bool:
    has_config = _is_adapter(folder) or (folder / "config.json").exists()
    return has_config and any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*model*.bin"))


def _data(config: EvalConfig, run: Run | None) -> Path:
    """The folder of eval.jsonl: the one asked for, or else what the run was trained on."""
    if config.data is None and run and (run.path / "data" / "eval.jsonl").exists():
        return run.path / "data"  # a run that was made on Modal has its own copy
    folder = data_folder(config.data or (run.config.data if run else DEFAULT_DATA))
    if not (folder / "eval.jsonl").exists():
        raise ConfigError(
            f"no eval.jsonl in {folder}: `grpo-kit prepare TRACES --out {folder}` makes one, or name the folder that "
            f"has it with data (--data)"
        )
    return folder


def _has_changed(data: Path, run: Run) -> bool:
    train = data / "train.jsonl"
    return train.exists() and fingerprint([train]) != run.about["data"]["fingerprint"]


def _questions(
    file: Path,
    config: EvalConfig,
    tokenizer: "PreTrainedTokenizerBase",
    max_prompt_length: int,
    note: Callable[[str], None],
) -> list[Sample]:
    """The samples that `config.seed` chooses, their prompts shortened to fit. A smaller n chooses some of the same."""
    held_out = list(read_samples(file))
    if len(held_out) < config.n:
        note(f"{file} has {len(held_out)} prompts, fewer than n={config.n}: all are used")
    chosen = [held_out[i] for i in np.random.default_rng(config.seed).permutation(len(held_out))[: config.n]]
    fitted = [fit_prompt(sample.prompt, tokenizer, max_prompt_length) for sample in chosen]
    if shortened := sum(fit.is_shortened for fit in fitted):
        note(f"{shortened} of {len(chosen)} prompts lost their oldest turns to fit max_prompt_length")
    questions = [replace(sample, prompt=fit.prompt) for sample, fit in zip(chosen, fitted, strict=True)]
    return sorted(questions, key=lambda sample: len(str(sample.prompt)))  # a batch's prompts are padded to the longest


def _models(subject: _Subject) -> Iterator[tuple[str, str, "PreTrainedModel"]]:
    """Name, source and weights of each model in turn. The base is loaded once: adapters are put on and taken off."""
    bf16 = device_can_bf16() if subject.settings.bf16 == "auto" else subject.settings.bf16
    if subject.base is not None:
        base = load_model(subject.base, bf16)
        yield BASE, subject.base, base
    for folder in subject.folders:
        name = folder.resolve().name
        name = "trained" if name == BASE else name
        if _is_adapter(folder):
            adapted = _adapted(base, folder)
            yield name, str(folder), adapted
            base = adapted.unload()
        else:
            base = None
            yield name, str(folder), load_model(str(folder), bf16)


def _adapted(base: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, str(folder))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the adapter in {folder} does not fit {base.name_or_path}; base_model (--base-model) should name what it "
            f"was trained from. peft says: {str(error).splitlines()[0]}"
        ) from error


def _name(asked: EvalConfig, temperature: float, n: int) -> str:
    """The settings in a file's name: those that were asked for, and the three that matter most always."""
    name = f"n{n}_t{temperature}_seed{asked.seed}"
    for setting, field in EvalConfig.model_fields.items():
        value = getattr(asked, setting)
        if setting in CHANGES_NO_SCORE:
            continue
        if setting not in ("n", "temperature", "seed") and value != field.default:
            name += f"_{setting}-{Path(str(value)).name}"
    return name
