"""`kit.export`: a checkpoint in the form that another program reads: an adapter, a whole model, or a GGUF file."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

from grpo_kit.config.judge import NEED_MODEL, rungs
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import Sample, read_samples
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Judge, make_judge
from grpo_kit.models.checkpoints import Checkpoints, checkpoints_of, is_adapter
from grpo_kit.models.files import TOKENIZERS, is_whole, read_object
from grpo_kit.models.gguf import Comparison, check_tools, compare, write_gguf
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.merge import merge
from grpo_kit.models.ollama import modelfile
from grpo_kit.models.prompts import fit_prompts
from grpo_kit.models.start import ADAPTER_FILES
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory
from grpo_kit.utils.files import check_new_folder, replacing, write_json
from grpo_kit.utils.text import did_you_mean

Form = Literal["adapter", "merged", "gguf", "ollama"]
PROMPTS, LONGEST = 32, 64  # held out, on which a GGUF file is compared with the model; tokens of an answer at most
COMPARISON = "comparison.json"
BESIDE = (*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "*.jinja")


def export(
    target: RunDirectory | str | Path,
    form: Form,
    to: str | Path | None = None,
    *,
    quantize: str | None = None,
    data: str | None = None,
    checkpoint: str | int | None = None,
    base_model: str | None = None,
    runs_dir: str | Path = RUNS_DIR,
) -> Path:
    """Writes one checkpoint into the new folder `to`, by default exports/NAME-FORM; returns the folder.

    `form` is "adapter" (LoRA's weights with the tokenizer), "merged" (a whole model, as kit.merge makes it), "gguf" (a
    file for llama.cpp, in the model's own numbers, or with `quantize` in fewer bits, such as "q8_0" or "q4_k_m") or
    "ollama" (that file with its Modelfile). A GGUF file is loaded by llama.cpp and compared with the merged model on 32
    held-out prompts of `data`, by default the run's; what came out is in comparison.json. `target`, `checkpoint` and
    `base_model` are as in kit.merge.

    Raises RunError where `to` exists, the run is on Modal or the GGUF file is not the model that it was made of,
    ConfigError where `to` can't be made, llama.cpp is not installed or the model can't be exported so. Nothing is left
    behind then.
    """
    if form not in get_args(Form):
        fix = did_you_mean(form, get_args(Form)).strip() or f"Choose one of: {', '.join(get_args(Form))}"
        raise ConfigError(f"there is no form {form!r} to export to", fix)
    if quantize and form not in ("gguf", "ollama"):
        raise ConfigError(f"quantize={quantize!r} is for GGUF files, not for {form}", "Leave it out")
    found = checkpoints_of(target, base_model, Path(runs_dir))
    folder = found.folder(checkpoint)
    name = found.run.id if found.run else folder.resolve().name
    to = Path(to or Path("exports", f"{name}-{form}"))
    check_new_folder(to)
    if form == "adapter":
        to.parent.mkdir(parents=True, exist_ok=True)
        with replacing(to) as partial:
            copy_adapter(folder, found.base, partial)
    elif form == "merged":
        to.parent.mkdir(parents=True, exist_ok=True)
        merge(target, to, checkpoint=checkpoint, base_model=base_model, runs_dir=runs_dir)
    else:
        check_tools(quantize)
        samples = _held_out(found, data)
        to.parent.mkdir(parents=True, exist_ok=True)
        with replacing(to) as partial, tempfile.TemporaryDirectory(dir=to.parent) as scratch:
            partial.mkdir()
            whole = merge(target, Path(scratch, name), checkpoint=checkpoint, base_model=base_model, runs_dir=runs_dir)
            file = partial / f"{name}{f'-{quantize.lower()}' if quantize else ''}.gguf"
            compared = _gguf(whole, file, quantize, samples, found.settings)
            write_json(partial / COMPARISON, {"file": file.name, "quantize": quantize, **asdict(compared)})
            if form == "ollama":
                (partial / "Modelfile").write_text(modelfile(whole, file, found.settings))
            print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB; {compared}")
    return to


def copy_adapter(folder: Path, base: str | None, to: Path) -> None:
    """Copies an adapter's weights, its settings with the base's name in them, and its tokenizer into the new folder
    `to`: nothing else of a checkpoint. Raises ConfigError for a folder that holds no adapter, or a part of one."""
    if not is_adapter(folder):
        raise ConfigError(f"{folder} is a whole model, not an adapter", "Export it as merged")
    if not is_whole(folder / ADAPTER_FILES[1]) and not (folder / ADAPTER_FILES[2]).exists():
        raise ConfigError(f"{folder / ADAPTER_FILES[1]} is missing or cut", "Take another checkpoint (--checkpoint)")
    to.mkdir()
    for pattern in (*ADAPTER_FILES[1:], *BESIDE):
        for file in folder.glob(pattern):
            shutil.copyfile(file, to / file.name)
    settings = read_object(folder / ADAPTER_FILES[0])
    write_json(to / ADAPTER_FILES[0], settings | {"base_model_name_or_path": base})


def _gguf(whole: Path, file: Path, quantize: str | None, samples: list[Sample], trained: TrainConfig) -> Comparison:
    """Writes the GGUF file and compares it with the whole model."""
    tokenizer = load_tokenizer(str(whole), trained.chat_template_kwargs)
    prompts, tools = [sample.prompt for sample in samples], [sample.tools for sample in samples]
    fitted = fit_prompts(prompts, tokenizer, trained.max_prompt_length, tools)
    asked = [sample.replace(prompt=fit.prompt) for sample, fit in zip(samples, fitted, strict=True)]
    write_gguf(whole, file, quantize, asked)
    judge, longest = _free_judge(trained), min(trained.max_completion_length, LONGEST)
    return compare(file, whole, asked, judge, longest, is_quantized=quantize is not None)


def _held_out(found: Checkpoints, data: str | None) -> list[Sample]:
    own = found.run.path / "data" if found.run else None  # of a run that was made on Modal
    folder = own if own and own.exists() and not data else data_folder(data or found.settings.data)
    if not (folder / "eval.jsonl").exists():
        fix = f"Name the folder that has it: --data (`grpo-kit prepare TRACES --out {folder}` makes one)"
        raise ConfigError(f"no eval.jsonl in {folder}, whose prompts a GGUF file is compared on", fix)
    return list(read_samples(folder / "eval.jsonl"))[:PROMPTS]


def _free_judge(trained: TrainConfig) -> Judge:
    """The run's judge, where it costs nothing; else the offline one."""
    name = max(trained.judge, key=lambda each: trained.judge[each])
    return make_judge("offline" if NEED_MODEL.intersection(rungs([name])) else name, trained)
