"""`kit.chat`: the same prompts to a model before and after training, the answers side by side; and a conversation with
one checkpoint, which stays loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas

from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Message, last_turn, messages_of
from grpo_kit.data.thoughts import answer_in
from grpo_kit.models.chat_template import Tools
from grpo_kit.models.checkpoints import BASE, checkpoint_name, checkpoints_of
from grpo_kit.models.endpoint import Endpoint
from grpo_kit.models.generate import generate
from grpo_kit.models.load import load_tokenizer, torch_threads
from grpo_kit.models.prompts import fit_prompts
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory

NO_TOOLS = "It was trained to call tools, and can call none here: what it says it found is made up."


def chat(
    target: RunDirectory | Endpoint | str | Path,
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

    `target` is a run (or its name, or its folder), the folder of one model, or an endpoint, such as `kit.serve` gives;
    `checkpoint` its name or step, the newest by default. A prompt is what a user says, or a conversation so far as
    messages that end with the user's or a tool's; `tools` are the JSON schemas that go with each. Both models draw with
    the same seed. Temperature, length (tokens) and chat_template_kwargs are the run's unless given; temperature 0 takes
    the likeliest words, and chat_template_kwargs={"enable_thinking": True} shows thoughts before the answers. A whole
    model whose base is not known has no column base. An endpoint answers as the run was trained unless told otherwise.

    Raises RunError for a run that is on Modal (run.download fetches it, kit.serve serves it there) or has no checkpoint
    and for an endpoint that does not answer, ConfigError for a model that can't be loaded or is not served.
    """
    EvalConfig(temperature=temperature)  # raises for one that can't be
    prompts = [prompts] if isinstance(prompts, str) else prompts
    table: dict[str, Sequence[str]] = {"prompt": [last_turn(prompt) for prompt in prompts]}
    if isinstance(target, Endpoint):
        given = {"temperature": temperature, "max_tokens": max_completion_length, "seed": seed}
        given["chat_template_kwargs"] = chat_template_kwargs and dict(chat_template_kwargs)
        how: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        there = target.models()
        names = ({BASE: BASE} if BASE in there else {}) | {"trained": checkpoint_name(checkpoint) or there[-1]}
        for column, name in names.items():
            table[column] = [target.ask(name, messages_of(prompt), tools, **how).text for prompt in prompts]
        return pandas.DataFrame(table)
    found = checkpoints_of(target, base_model, Path(runs_dir))
    checkpoints, trained = replace(found, folders=[found.folder(checkpoint)]), found.settings
    told = trained.chat_template_kwargs if chat_template_kwargs is None else chat_template_kwargs
    tokenizer = load_tokenizer(checkpoints.source, told)
    asked = [messages_of(prompt) if tokenizer.chat_template else prompt for prompt in prompts]
    schemas = [tools] * len(asked)
    fitted = [fit.prompt for fit in fit_prompts(asked, tokenizer, trained.max_prompt_length, schemas)]
    how = _how(trained, temperature, seed, max_completion_length)
    with torch_threads(trained.torch_threads):
        for name, _, model in checkpoints.models():
            table[BASE if name == BASE else "trained"] = generate(model, tokenizer, fitted, schemas, **how)
            del model  # makes room for the next
    return pandas.DataFrame(table)


class EndpointConversation:
    """A conversation with one of an endpoint's models. `messages` are what was said. Raises as `chat` does."""

    def __init__(self, endpoint: Endpoint, checkpoint: str | int | None, temperature: float | None, seed: int):
        self._endpoint, self._name, self.messages = endpoint, checkpoint_name(checkpoint), list[Message]()
        self._how: dict[str, Any] = {"seed": seed} | ({} if temperature is None else {"temperature": temperature})

    def say(self, text: str) -> None:
        """Adds what a user says to `messages`, and the answer."""
        self.messages.append({"role": "user", "content": text})
        self._name = self._name or self._endpoint.models()[-1]
        answer = self._endpoint.ask(self._name, self.messages, **self._how).text
        self.messages.append({"role": "assistant", "content": answer_in(answer) or ""})


class Conversation:
    """A conversation with a run's checkpoint, which is loaded once, when it is first spoken to. `messages` are what was
    said. Takes what `chat` takes, and raises as it does."""

    def __init__(self, run: RunDirectory, checkpoint: str | int | None, temperature: float | None, seed: int):
        found = checkpoints_of(run, None, RUNS_DIR)
        self._checkpoints, self._trained = replace(found, folders=[found.folder(checkpoint)]), found.settings
        self._how, self.messages = _how(self._trained, temperature, seed), list[Message]()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        tokenizer = load_tokenizer(self._checkpoints.source, self._trained.chat_template_kwargs)
        models = self._checkpoints.models()  # read no further, which would take the adapter off
        return tokenizer, next(model for name, _, model in models if name != BASE)

    def say(self, text: str) -> None:
        """Adds what a user says to `messages`, and the answer."""
        self.messages.append({"role": "user", "content": text})
        tokenizer, model = self._loaded
        asked = self.messages if tokenizer.chat_template else text
        [fit] = fit_prompts([asked], tokenizer, self._trained.max_prompt_length)
        with torch_threads(self._trained.torch_threads):
            [answer] = generate(model, tokenizer, [fit.prompt], [()], **self._how)
        self.messages.append({"role": "assistant", "content": answer_in(answer) or ""})


def _how(trained: TrainConfig, temperature: float | None, seed: int, longest: int | None = None) -> dict[str, Any]:
    """How answers are drawn: as in training, unless told otherwise."""
    return {
        "max_completion_length": longest or trained.max_completion_length,
        "temperature": trained.temperature if temperature is None else temperature,
        "top_p": trained.top_p,
        "seed": seed,
        "batch_size": 1,  # so that a prompt is answered alike, whatever others there are
    }
