"""Prompts that fit, and the answers that a model generates to them."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from grpo_kit.data.samples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class FittedPrompt(NamedTuple):
    """A prompt as the model gets it."""

    prompt: list[Message] | str
    is_shortened: bool
    is_too_long: bool  # even its last turn alone has more tokens than allowed


def fit_prompt(
    prompt: list[Message] | str, tokenizer: "PreTrainedTokenizerBase", max_prompt_length: int
) -> FittedPrompt:
    """Leaves out a conversation's oldest turns until it has at most `max_prompt_length` tokens.

    A system message and the last turn stay, so a single long turn stays long; a string stays as it is. The rest begins
    with a user's turn, as chat templates require; where the template has no system role, as Gemma's, that turn begins
    with the system message.
    """
    if isinstance(prompt, str):
        return FittedPrompt(prompt, False, len(tokenizer(prompt)["input_ids"]) > max_prompt_length)
    system = [message for message in prompt[:1] if message["role"] == "system"]
    turns = prompt[len(system) :]
    starts = [i for i, message in enumerate(turns) if message["role"] == "user"] or [0]
    while True:
        kept, length = _templated(system, turns[starts[0] :], tokenizer)
        if length <= max_prompt_length or len(starts) == 1:
            return FittedPrompt(kept, starts[0] > 0, length > max_prompt_length)
        starts.pop(0)


def _templated(system: list[Message], turns: list[Message], tokenizer: Any) -> tuple[list[Message], int]:
    """The messages as the tokenizer's chat template takes them, and their number of tokens."""
    from jinja2 import TemplateError

    messages = system + turns
    try:
        tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return messages, len(tokens)
    except TemplateError:
        if not system:
            raise
        first = Message(role=turns[0]["role"], content=f"{system[0]['content']}\n\n{turns[0]['content']}")
        return _templated([], [first, *turns[1:]], tokenizer)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the model's own and the tokenizer's."""
    own = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[Message] | str],
    *,
    max_completion_length: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
) -> list[str]:
    """One answer per prompt, in order, decoded in batches of `batch_size`; temperature 0 takes the likeliest token.

    `model` is a PreTrainedModel or a PeftModel. Every batch is seeded, so two models draw alike.
    """
    import torch
    from transformers import GenerationConfig

    tokenizer.padding_side = "left"
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    generation = GenerationConfig(  # as TRL generates: the model's own defaults for sampling stay out
        max_new_tokens=max_completion_length,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_tokens(model, tokenizer),
        **sampling,
    )
    templated = partial(tokenizer.apply_chat_template, add_generation_prompt=True, tokenize=False)
    answers: list[str] = []
    model.eval()
    for start in range(0, len(prompts), batch_size):
        texts = [each if isinstance(each, str) else templated(each) for each in prompts[start : start + batch_size]]
        is_chat = not isinstance(prompts[start], str)  # a chat template has written the special tokens already
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not is_chat).to(model.device)
        torch.manual_seed(seed + start)
        with torch.inference_mode():
            output: Any = model.generate(**batch, generation_config=generation)
        answers += tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers
