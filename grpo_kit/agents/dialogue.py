"""Dialogues with the model, many side by side: it speaks, its world answers, until each has ended.

What the world says is put between the model's own tokens, which stay as they were drawn; `own` tells them apart, so
that only those are learnt from. Training and evaluation lead dialogues by this one function.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from grpo_kit.agents.episodes import world_of
from grpo_kit.agents.world import GOOD, World
from grpo_kit.data.samples import CalledFunction, Message, Sample, ToolCall, messages_of
from grpo_kit.data.thoughts import answer_in
from grpo_kit.data.tool_calls import calls_made, words_before_calls
from grpo_kit.models.chat_template import chat_template_of, text_between
from grpo_kit.models.generate import completion_text
from grpo_kit.models.prompts import Prompt, prompt_tokens

TOOL_SECONDS = 30.0  # a tool that has not answered by then counts as one that hangs

# Answers to prompts of tokens, and the probabilities that they were drawn with, if known. The number is that of equal
# prompts in a row.
Generate = Callable[[list[list[int]], int], tuple[list[list[int]], list[list[float]] | None]]


@dataclass
class Dialogue:
    """A dialogue as far as it has gone."""

    world: World
    prompt: Prompt
    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)  # all tokens after the prompt
    own: list[int] = field(default_factory=list)  # 1 for each that the model wrote, 0 for its world's
    logprobs: list[float] | None = None  # as they were drawn; 0 for its world's
    messages: list[Message] = field(default_factory=list)  # those after the prompt
    calls: int = 0
    errors: int = 0  # calls that failed, or hung
    ended: str = ""  # "reply", or "length" where there is no more room, or "turns" where there were too many

    def is_success(self, judged: float | None) -> bool:
        """Whether it succeeded by its world, where the judge gives its last reply this score."""
        good = not self.world.needs_good_reply or (judged is not None and judged >= GOOD)
        return good and self.scores["success"] == 1

    @cached_property
    def scores(self) -> dict[str, float | None]:
        return self.world.scores(self.messages, self.ended)


def converse(
    dialogues: Sequence[Dialogue],
    tokenizer: Any,
    generate: Generate,
    ends: Sequence[int],
    *,
    group: int = 1,
    room: int,
    longest: int | None,
    most_turns: int,
) -> None:
    """Leads all of them to their end. `room` are the tokens that may follow a prompt, `longest` those that the model
    can read with it, `ends` those that end what it says; `group` dialogues in a row have the same prompt; `most_turns`
    are the messages that the model may write."""
    under_way, marks = list(dialogues), [tokenizer.convert_ids_to_tokens(end) for end in ends]
    for turn in range(1, most_turns + 1):
        made, logprobs = generate([each.prompt_ids + each.ids for each in under_way], group if turn == 1 else 1)
        for place, each in enumerate(under_way):
            said = made[place][: room - len(each.ids)]
            each.ids += said
            each.own += [1] * len(said)
            if logprobs is not None:
                each.logprobs = (each.logprobs or []) + logprobs[place][: len(said)]
            answers = _answers(each, completion_text(tokenizer, each.prompt, said))
            if not said or said[-1] not in ends:
                each.ended = "length"
            elif not answers:
                each.ended = "reply"
            elif turn == most_turns:
                each.ended = "turns"
            else:
                _read(each, answers, tokenizer, marks, room, longest)
        under_way = [each for each in under_way if not each.ended]
        if not under_way:
            return


def _answers(dialogue: Dialogue, text: str) -> list[Message]:
    """Adds what the model said to the dialogue's messages, and returns what its world answers."""
    answer = answer_in(text) or ""
    if not (calls := calls_made(answer)):
        dialogue.messages.append(Message(role="assistant", content=text))
        said = dialogue.world.hear(answer)
        return [] if said is None else [Message(role="user", content=said)]
    begins = text.rfind(answer)
    words = (text[:begins] + words_before_calls(answer)).strip()
    functions = [CalledFunction(name=name, arguments=arguments) for name, arguments in calls]
    made = [ToolCall(type="function", function=function) for function in functions]
    dialogue.messages.append(Message(role="assistant", content=words, tool_calls=made))
    dialogue.calls += len(calls)
    return [Message(role="tool", name=name, content=_result(dialogue, name, given)) for name, given in calls]


def _result(dialogue: Dialogue, name: str, arguments: dict[str, Any]) -> str:
    """What the tool answers; an error for the model to read where it raises or hangs."""
    found: list[str | Exception] = []

    def ask() -> None:
        try:
            found.append(dialogue.world.call(name, arguments))
        except Exception as error:  # whatever a tool raises
            found.append(error)

    if dialogue.world.may_hang:
        asking = threading.Thread(target=ask, daemon=True)  # one that hangs must not keep the process from ending
        asking.start()
        asking.join(TOOL_SECONDS)
    else:
        ask()
    result = found[0] if found else TimeoutError(f"{name} did not answer within {TOOL_SECONDS:g} s")
    if isinstance(result, str):
        return result
    dialogue.errors += 1
    return orjson.dumps({"error": str(result) or type(result).__name__}).decode()


def _read(
    dialogue: Dialogue,
    answers: Sequence[Message],
    tokenizer: Any,
    marks: Sequence[str],
    room: int,
    longest: int | None,
) -> None:
    """Puts what the world says before the model's next tokens. Where that leaves no room for these, it ends here."""
    text = text_between(chat_template_of(tokenizer), answers, marks)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    length = len(dialogue.ids) + len(tokens)
    if length >= room or (longest and len(dialogue.prompt_ids) + length >= longest):
        dialogue.ended = "length"
        return
    dialogue.messages += answers
    dialogue.ids += tokens
    dialogue.own += [0] * len(tokens)
    if dialogue.logprobs is not None:
        dialogue.logprobs += [0.0] * len(tokens)


def measured(dialogues: Sequence[Dialogue], judged: Sequence[float | None]) -> dict[str, float]:
    """Of finished dialogues, and what the judge says of their last replies: the share that succeeded, calls and the
    model's messages in each, the share of calls that failed, and the share of dialogues that had no room, or turn, left
    to end."""
    calls, count = sum(each.calls for each in dialogues), len(dialogues)
    own = sum(message["role"] == "assistant" for each in dialogues for message in each.messages)
    return {
        "agent/success": sum(map(Dialogue.is_success, dialogues, judged)) / count,
        "agent/calls": calls / count,
        "agent/turns": own / count,
        "agent/errors": sum(each.errors for each in dialogues) / max(1, calls),
        "agent/cut": sum(each.ended != "reply" for each in dialogues) / count,
    }


def begun(sample: Sample, environment: str, tokenizer: Any) -> Dialogue:
    """A dialogue about the sample in which nothing was said yet."""
    world = world_of(sample, environment)
    if more := world.begin():
        *before, last = messages_of(sample.prompt)
        sample = sample.replace(prompt=[*before, {**last, "content": last["content"] + more}])
    return Dialogue(world, sample.prompt, prompt_tokens(tokenizer, sample.prompt, world.tools))
