"""Dialogues with the model, many side by side: it speaks, its world answers, until each has ended.

What the world says is put between the model's own tokens, which stay as they were drawn; `own` tells them apart, so
that only those are learnt from. Training and evaluation lead dialogues by this one function.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from operator import call, methodcaller
from typing import Any

import orjson

from grpo_kit.agents.asked_user import spoken
from grpo_kit.agents.episodes import world_of
from grpo_kit.agents.outside import side_by_side
from grpo_kit.agents.world import GOOD, World
from grpo_kit.config.environment import SCORES
from grpo_kit.data.samples import CalledFunction, Message, Sample, ToolCall, messages_of
from grpo_kit.data.thoughts import answer_in
from grpo_kit.data.tool_calls import calls_made, words_before_calls
from grpo_kit.judges.base import Verdict
from grpo_kit.models.chat_template import chat_template_of, text_between
from grpo_kit.models.endpoint import ServedModel
from grpo_kit.models.generate import completion_text, end_tokens, generate_tokens, up_to_end
from grpo_kit.models.prompts import Prompt, prompt_tokens
from grpo_kit.models.shapes import positions_of

# Answers to prompts of tokens, and the probabilities that they were drawn with, if known. The number is that of equal
# prompts in a row.
Generate = Callable[[list[list[int]], int], tuple[list[list[int]], list[list[float]] | None]]
# Has a model speak for the user: what it is to know, and replies to it -> what it says, as asked_user.py has it.
Ask = Callable[[list[Sample], list[str]], Sequence[Verdict]]


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
    problem: str = ""  # why it could not go on, and is worth nothing that could be told: no model spoke for the user
    scores: dict[str, float | None] = field(default_factory=dict)  # once it has ended

    def is_success(self, judged: float | None) -> bool:
        """Whether it succeeded by its world, where the judge gives its last reply this score."""
        good = not self.world.needs_good_reply or (judged is not None and judged >= GOOD)
        return good and self.scores["success"] == 1


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
    ask: Ask | None = None,
) -> None:
    """Leads all of them to their end, and scores them. `room` are the tokens that may follow a prompt, `longest` those
    that the model can read with it, `ends` those that end what it says; `group` dialogues in a row have the same
    prompt; `most_turns` are the messages that the model may write; `ask` is needed where a model speaks for the
    user."""
    under_way, marks = list(dialogues), [tokenizer.convert_ids_to_tokens(end) for end in ends]
    for turn in range(1, most_turns + 1):
        asked = [each.prompt_ids + each.ids for each in under_way]
        begin_alike = all(each == asked[place - place % group] for place, each in enumerate(asked))
        alike = group if turn == 1 and begin_alike else 1  # an environment may begin each time anew
        made, logprobs = generate(asked, alike)
        with redirect_stdout(sys.stderr):  # what the worlds print
            waiting = []  # all are told before any is heard, so that worlds that lead work side by side
            for place, each in enumerate(under_way):
                said = made[place][: room - len(each.ids)]
                each.ids += said
                each.own += [1] * len(said)
                if logprobs is not None:
                    each.logprobs = (each.logprobs or []) + logprobs[place][: len(said)]
                is_cut = not said or said[-1] not in ends
                each.ended = "length" if is_cut else ""
                waiting.append(_told(each, completion_text(tokenizer, each.prompt, said), is_cut))
            answers = side_by_side(call, waiting, under_way[0].world.waits)
        for each, answer in zip(under_way, answers, strict=True):
            if not each.ended and (not answer or turn == most_turns):
                each.ended = "turns" if answer else "reply"
        for each, answer in zip(under_way, _all_said(under_way, answers, ask), strict=True):
            if not each.ended:
                _read(each, answer, tokenizer, marks, room, longest)
        under_way = [each for each in under_way if not each.ended]
        if not under_way:
            break
    found = side_by_side(lambda each: each.world.scores(each.messages, each.ended), dialogues, dialogues[0].world.waits)
    for each, scores in zip(dialogues, found, strict=True):
        each.scores = dict.fromkeys(scores) if each.problem else scores


def _all_said(dialogues: Sequence[Dialogue], answers: Sequence[list[Message] | Sample], ask: Ask | None) -> list:
    """The answers, with what the model says that speaks for the users of dialogues which go on, all asked at once."""
    asked = {i: each for i, each in enumerate(answers) if isinstance(each, Sample) and not dialogues[i].ended}
    all_said = list(answers)
    if not asked or ask is None:
        return all_said
    replies = [dialogues[i].messages[-1]["content"] for i in asked]
    for i, said in zip(asked, ask([*asked.values()], replies), strict=True):
        all_said[i] = [Message(role="user", content=said.reason)]
        if said.score is None:
            dialogues[i].ended, dialogues[i].problem = "problem", said.reason
        elif not said.score:
            dialogues[i].ended = "reply"
    return all_said


def _told(dialogue: Dialogue, text: str, is_cut: bool) -> Callable[[], list[Message] | Sample]:
    """Adds what the model said to the dialogue's messages, and tells it its world. Returns what gives its answer, or
    what the model is to know that speaks for its user."""
    answer, world, message = answer_in(text) or "", dialogue.world, Message(role="assistant", content=text)
    if calls := calls_made(answer):
        functions = [CalledFunction(name=name, arguments=arguments) for name, arguments in calls]
        message["content"] = (text[: text.rfind(answer)] + words_before_calls(answer)).strip()
        message["tool_calls"] = [ToolCall(type="function", function=function) for function in functions]
    dialogue.messages.append(message)
    dialogue.calls += len(calls)
    if (led := world.answers({**message, "content": answer_in(message["content"]) or ""}, is_cut)) is not None:
        return led
    if calls:
        return lambda: [Message(role="tool", name=name, content=_result(dialogue, name, own)) for name, own in calls]
    said = world.hear(answer)
    if isinstance(said, Sample):
        known = said.replace(prompt=spoken([*messages_of(said.prompt), *dialogue.messages[:-1]]))
        return lambda: known
    return lambda: [] if said is None else [Message(role="user", content=said)]


def _result(dialogue: Dialogue, name: str, arguments: dict[str, Any]) -> str:
    """What the tool answers; an error for the model to read where it raises or hangs."""
    try:
        return dialogue.world.call(name, arguments)
    except Exception as error:  # whatever a tool raises
        dialogue.errors += 1
        return orjson.dumps({"error": str(error) or type(error).__name__}).decode()


def _read(
    dialogue: Dialogue, answers: Sequence[Message], tokenizer: Any, marks: Sequence[str], room: int, longest: int | None
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
    model's messages in each, the share of calls that failed, the share of dialogues that had no room, or turn, left to
    end, and the means of what else their environment measures. Those with a problem are left out."""
    sound = [i for i, each in enumerate(dialogues) if not each.problem]
    if not sound:
        return {}
    dialogues, judged, count = [dialogues[i] for i in sound], [judged[i] for i in sound], len(sound)
    calls = sum(each.calls for each in dialogues)
    own = sum(message["role"] == "assistant" for each in dialogues for message in each.messages)
    metrics = {name: None for each in dialogues for name in each.scores if name not in {*SCORES, "success"}}
    found = {name: [value for each in dialogues if (value := each.scores.get(name)) is not None] for name in metrics}
    return {
        **{f"agent/{name}": sum(values) / len(values) for name, values in found.items() if values},
        "agent/success": sum(map(Dialogue.is_success, dialogues, judged)) / count,
        "agent/calls": calls / count,
        "agent/turns": own / count,
        "agent/errors": sum(each.errors for each in dialogues) / max(1, calls),
        "agent/cut": sum(each.ended != "reply" for each in dialogues) / count,
    }


def begun(samples: Sequence[Sample], environment: str, tokenizer: Any, is_asked: bool = False) -> list[Dialogue]:
    """A dialogue about each sample in which nothing was said yet. `is_asked`: a model speaks for the user."""
    worlds = [world_of(sample, environment, is_asked) for sample in samples]
    begins = zip(worlds, side_by_side(methodcaller("begin"), worlds, worlds[0].waits), strict=True)
    return [Dialogue(world, prompt, prompt_tokens(tokenizer, prompt, world.tools)) for world, prompt in begins]


def dialogues_with(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    environment: str,
    *,
    max_completion_length: int,
    most_turns: int,
    ask: Ask | None = None,
    **how: Any,
) -> list[Dialogue]:
    """A dialogue with each sample outside training, in order. `ask` is as in `converse`, `how` as in `generate`."""
    ends = end_tokens(model, tokenizer)
    dialogues = begun(samples, environment, tokenizer, ask is not None)
    served, room = isinstance(model, ServedModel), max_completion_length

    def generate(asked: list[list[int]], group: int) -> tuple[list[list[int]], list[list[float]] | None]:
        drawn = [] if served else None
        made = generate_tokens(model, tokenizer, asked, ends, max_completion_length=room, log_probs=drawn, **how)
        return [up_to_end(tokens, ends) for tokens in made], drawn

    longest = (served and model.longest) or positions_of(tokenizer.name_or_path)
    converse(dialogues, tokenizer, generate, ends, room=room, longest=longest, most_turns=most_turns, ask=ask)
    return dialogues
