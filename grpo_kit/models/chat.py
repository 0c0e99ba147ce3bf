"""`kit.chat`: the same prompts to a model before and after training, the answers side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas

from grpo_kit.data.samples import Message, last_turn, messages_of
from grpo_kit.models.chat_template import Tools
from grpo_kit.models.checkpoints import BASE, checkpoints_of
from grpo_kit.models.generate import generate
from grpo_kit.models.load import load_tokenizer, torch_threads
from grpo_kit.models.prompts import fit_prompts
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory


def chat(
    target: RunDirectory | str | Path,
    prompts: str | Sequence[str | list[Message]],
    *,
    tools: Tools = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
    checkpoint: str | int | None = None,
    base_model: str | None = None,
    temperature: float | None = None,
    max_completion_length: int | None = None,
    seed: int = 0,
    runs_dir: str | Path = RUNS_DIR,
) -> pandas.DataFrame:
    """Asks the base model and a checkpoint: a row per prompt, with the prompt and the answers, base and trained.

    `target` is a run (or its name, or its folder) or the folder of one model; `checkpoint` its name or step, the newest
    by default. A prompt is what a user says, or a conversation so far as messages that end with the user's or a tool's;
    `tools` are the JSON schemas that go with each. Both models draw with the same seed. Temperature, length (tokens)
    and chat_template_kwargs are the run's unless given; temperature 0 takes the likeliest words, and
    chat_template_kwargs={"enable_thinking": True} shows thoughts before the answers. A whole model whose base is not
    known has no column base.

    Raises RunError for a run that is on Modal (run.download fetches it) or has no checkpoint, ConfigError for a model
    that can't be loaded.
    """
    checkpoints = checkpoints_of(target, base_model, Path(runs_dir))
    folder, trained = checkpoints.folder(checkpoint), checkpoints.settings
    told = trained.chat_template_kwargs if chat_template_kwargs is None else chat_template_kwargs
    tokenizer = load_tokenizer(checkpoints.source if checkpoints.base else str(folder), told)
    prompts = [prompts] if isinstance(prompts, str) else prompts
    asked = [messages_of(prompt) if tokenizer.chat_template else prompt for prompt in prompts]
    schemas = [tools] * len(asked)
    fitted = [fit.prompt for fit in fit_prompts(asked, tokenizer, trained.max_prompt_length, schemas)]
    table: dict[str, Sequence[str]] = {"prompt": [last_turn(prompt) for prompt in prompts]}
    with torch_threads(trained.torch_threads):
        for name, _, model in replace(checkpoints, folders=[folder]).models():
            table[BASE if name == BASE else "trained"] = generate(
                model,
                tokenizer,
                fitted,
                schemas,
                max_completion_length=max_completion_length or trained.max_completion_length,
                temperature=trained.temperature if temperature is None else temperature,
                top_p=trained.top_p,
                seed=seed,
                batch_size=1,  # so that a prompt is answered alike, whatever others there are
            )
            del model  # makes room for the next
    return pandas.DataFrame(table)
