"""Prompts as a model gets them: shortened to what it may read, written by its chat template, tokenised."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from grpo_kit.data.samples import Message, fingerprint, said_in
from grpo_kit.models.chat_template import Tools, chat_template_of
from grpo_kit.models.hub import READ
from grpo_kit.utils.files import CACHE, write_bytes
from grpo_kit.utils.text import duration

Prompt = list[Message] | str
SLOW = 2.0  # seconds, after which the user is told, and what was found is kept
MARKS = 20  # letters that a message's role takes, roughly
RULE = 1  # the number of the rule by which prompts are shortened; another number lets what was kept be


class FittedPrompt(NamedTuple):
    """A prompt of which only what fits is left."""

    prompt: Prompt
    is_shortened: bool
    is_too_long: bool  # even what always stays has more tokens than allowed


def prompt_tokens(tokenizer: Any, prompt: Any, tools: Tools | None = None) -> list[int]:
    """The tokens that the model reads, in training as in evaluation. `prompt` is a Prompt, or such tokens."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    if prompt and isinstance(prompt[0], int):
        return prompt
    text = chat_template_of(tokenizer).render(prompt, tools or ())
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has written those


def reply_tokens(
    tokenizer: Any, prompt: Prompt, reply: str, ends: Sequence[int], tools: Tools | None = None
) -> list[int]:
    """The tokens of an answer to the prompt, after `prompt_tokens`: as the chat template writes it, up to the first of
    the tokens that end an answer, `ends`."""
    text = reply
    if not isinstance(prompt, str):
        template, answered = chat_template_of(tokenizer), [*prompt, Message(role="assistant", content=reply)]
        before, whole = template.render(prompt, tools or ()), template.render(answered, tools or (), is_answered=True)
        if whole.startswith(before):  # else the template writes a conversation anew when it is answered
            text = whole.removeprefix(before)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    return [*tokens, tokenizer.eos_token_id] if end is None else tokens[: end + 1]


def fit_prompts(
    prompts: Sequence[Prompt],
    tokenizer: Any,
    max_prompt_length: int,
    tools: Sequence[Tools] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[FittedPrompt]:
    """Leaves out as little of each conversation as brings it to at most `max_prompt_length` tokens.

    Old tool results go first, with the calls that they answer, then the oldest turns. A system message, the newest turn
    and the newest results with the question before them always stay; a string stays as it is. The rest begins with a
    user's turn. `tools` are the schemas that each prompt is written with.

    What takes longer than two seconds is told to `say`, and found in the kit's cache the next time.
    """
    tools, started = tools or [()] * len(prompts), time.monotonic()
    file = CACHE / "fitted" / f"{_key(prompts, tools, tokenizer, max_prompt_length)}.json"
    if file.exists():
        cuts = orjson.loads(file.read_bytes())
    else:
        cuts, is_slow = [], False
        for cut in _cuts(prompts, tools, tokenizer, max_prompt_length):
            cuts.append(cut)
            seconds = time.monotonic() - started
            if seconds > SLOW and not is_slow:
                is_slow, left = True, seconds * (len(prompts) / len(cuts) - 1)
                say(f"Counts the tokens of {len(prompts):,} prompts, which takes some {duration(left)} more")
        if is_slow:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, orjson.dumps(cuts))
    fitted = zip(prompts, cuts, strict=True)
    return [FittedPrompt(_shortened(prompt, cut), cut > 0, is_too_long) for prompt, (cut, is_too_long) in fitted]


def _cuts(
    prompts: Sequence[Prompt], tools: Sequence[Tools], tokenizer: Any, max_prompt_length: int
) -> Iterator[tuple[int, bool]]:
    """For each prompt, how many of its `_droppable` parts go, and whether it is too long all the same."""
    tokens_a_letter = 0.25
    for prompt, schemas in zip(prompts, tools, strict=True):

        @cache
        def tokens(cut: int, prompt: Prompt = prompt, schemas: Tools = schemas) -> int:
            return len(prompt_tokens(tokenizer, _shortened(prompt, cut), schemas))

        cut, left, most = _guess(prompt, schemas, max_prompt_length / tokens_a_letter)
        tokens_a_letter = tokens(cut) / left  # for the next prompt
        while cut < most and tokens(cut) > max_prompt_length:
            cut += 1
        while cut and tokens(cut - 1) <= max_prompt_length:
            cut -= 1
        yield cut, tokens(cut) > max_prompt_length


def _guess(prompt: Prompt, tools: Tools, letters: float) -> tuple[int, int, int]:
    """How many parts must go until so many letters are left, the letters then left, and how many parts may go: the
    search begins there, so that next to nothing of what goes is tokenised."""
    messages = [] if isinstance(prompt, str) else prompt
    sizes = [MARKS + len(said_in(message)) for message in messages]
    parts, left, cut = _droppable(messages), sum(sizes) + len(str(tools)), 0
    while cut < len(parts) and left > letters:
        left -= sum(sizes[i] for i in parts[cut])
        cut += 1
    return cut, left, len(parts)


def _shortened(prompt: Prompt, cut: int) -> Prompt:
    """The prompt without the first `cut` of its parts that may go."""
    if isinstance(prompt, str) or not cut:
        return prompt
    gone = {i for part in _droppable(prompt)[:cut] for i in part}
    return [message for i, message in enumerate(prompt) if i not in gone]


def _droppable(messages: Sequence[Message]) -> list[list[int]]:
    """The positions of the messages that go together, in the order in which they go."""
    turns: list[list[int]] = [[]]  # of user and assistant, after what an assistant may have opened with
    exchanges: list[list[int]] = []  # calls with their results
    for i, message in enumerate(messages):
        if message.get("tool_calls"):
            exchanges.append([i])
        elif message["role"] == "tool":
            exchanges[-1].append(i)
        elif message["role"] == "user":
            turns.append([i])
        elif message["role"] == "assistant":
            turns[-1].append(i)
    stay = set(turns[-1])
    if exchanges:
        newest = exchanges.pop()
        stay.update([turn[0] for turn in turns[1:] if turn[0] < newest[0]][-1:])
    parts = ([i for i in part if i not in stay] for part in [*exchanges, *turns])
    return [part for part in parts if part]


def _key(prompts: Sequence[Prompt], tools: Sequence[Tools], tokenizer: Any, max_prompt_length: int) -> str:
    """A hash of all that the cuts depend on."""
    folder = Path(tokenizer.name_or_path)
    files = fingerprint(file for pattern in READ for file in sorted(folder.glob(pattern)))
    template = [str(tokenizer.chat_template), getattr(tokenizer, "chat_template_kwargs", {})]
    content = [RULE, files, template, max_prompt_length, prompts, tools]
    return hashlib.blake2b(orjson.dumps(content), digest_size=16).hexdigest()
