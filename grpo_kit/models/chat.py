"""`kit.chat`: the same prompts to a model before and after training, the answers side by side."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_kit.data.samples import Message, last_turn, messages_of
from grpo_kit.models.chat_template import Tools
from grpo_kit.models.checkpoints import BASE, checkpoints_of
from grpo_kit.models.generate import generate
from grpo_kit.models.load import load_tokenizer, torch_threads
from grpo_kit.models.prompts import fit_prompts
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory

if TYPE_CHECKING:
    import pandas


def chat(
    target: RunDirectory | str | Path,
    prompts: str | Sequence[str | list[Message]],
    *,
    tools: Tools = (),
    checkpoint: str | int | None = None,
    base_model: str | None = None,
    temperature: float | None = None,
    max_completion_length: int | None = None,
    seed: int = 0,
    runs_dir: str | Path = RUNS_DIR,
) -> "pandas.DataFrame":
    """Asks the base model and a checkpoint: a row per prompt, with the prompt and the answers, base and trained.

    `target` is a run (or its name, or its folder) or the folder of one model; `checkpoint` its name or step, the newest
    by default. A prompt is what a user says, or a conversation so far as messages that end with the user's or a tool's;
    `tools` are the JSON schemas that go with each. Both models draw with the same seed; temperature and length (tokens)
    are the run's unless given, and temperature 0 takes the likeliest words. A whole model whose base is not known has
    no column base.

    Raises RunError for a run that is on Modal (run.download fetches it) or has no checkpoint, ConfigError for a model
    that can't be loaded.
    """
    import pandas

    checkpoints = checkpoints_of(target, base_model, Path(runs_dir))
    folder, trained = checkpoints.folder(checkpoint), checkpoints.settings
    tokenizer = load_tokenizer(checkpoints.source if checkpoints.base else str(folder))
    prompts = [prompts] if isinstance(prompts, str) else prompts
    asked = [messages_of(prompt) if tokenizer.chat_template else prompt for prompt in prompts]
    schemas = [tools] * len(asked)
    fitted = [fit.prompt for fit in fit_prompts(asked, tokenizer, trained.max_prompt_length, schemas)]
    table = {"prompt": [last_turn(prompt) for prompt in prompts]}
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
