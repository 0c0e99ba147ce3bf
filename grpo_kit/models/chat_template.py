"""A chat as text: the tokenizer's chat template writes what it can, and what it can't is folded into other messages.

Templates differ. Qwen's and Llama 3.1's write tools, calls and results; Gemma 2's has no system role and raises; others
leave out in silence what they don't know. So each is tried on words of its own, and counts as able where they come out.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from jinja2 import TemplateError, TemplateSyntaxError

from grpo_kit.data.samples import CalledFunction, Message, ToolCall, said_in
from grpo_kit.data.thoughts import OPEN
from grpo_kit.errors import ConfigError
from grpo_kit.models.files import default_template, special_tokens

Tools = Sequence[dict[str, Any]]  # JSON schemas, as Sample.tools
THINKING = "enable_thinking"  # by which most templates switch it on and off
# What templates are tried on.
SYSTEM, USER, SAID, TOOL, VALUE, OTHER, RESULT = (f"probe-{number}" for number in range(7))
SCHEMA = {"name": TOOL, "description": "", "parameters": {"type": "object", "properties": {}}}


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template, and which messages it can write."""

    tokenizer: Any
    text: str | None = None  # None: the tokenizer's own
    system: bool = True
    assistant_first: bool = True
    call: bool = True  # one in a message without a text, and its result
    calls: bool = True  # several, with a text beside them
    tools: bool = True  # their schemas
    kwargs: dict[str, Any] = field(default_factory=dict)  # what it is told
    opens_thought: bool = False  # a prompt ends where the model thinks

    def render(self, messages: Sequence[Message], tools: Tools = (), is_answered: bool = False) -> str:
        """The prompt's text, up to where the assistant answers; or, where it `is_answered`, to the end of the answer.
        Raises ConfigError for messages that the template refuses in any form."""
        try:
            return self._write(*self.as_written(messages, tools), is_answered)
        except TemplateError:  # at something that no template was tried on
            try:
                return self._write(*self.adapted(messages, tools, calls=False), is_answered)
            except TemplateError as problem:
                raise template_error(Path(self.tokenizer.name_or_path), problem) from None

    def as_written(self, messages: Sequence[Message], tools: Tools) -> tuple[list[Message], Tools]:
        """The messages and tools as the template can write them."""
        several = any(len(calls := each.get("tool_calls", ())) > 1 or (calls and each["content"]) for each in messages)
        return self.adapted(messages, tools, self.calls if several else self.call)

    def adapted(self, messages: Sequence[Message], tools: Tools, calls: bool) -> tuple[list[Message], Tools]:
        """The messages and tools that the template is given; where not `calls`, with calls and results as text."""
        turns = [turn for message in messages for turn in ([message] if calls else _without_calls(message))]
        head = [turns.pop(0)["content"]] if turns[0]["role"] == "system" else []
        if tools and not self.tools:
            head.append("\n".join(["Tools, as JSON schemas:", *(orjson.dumps(tool).decode() for tool in tools)]))
            tools = ()
        if turns[0]["role"] == "assistant" and not self.assistant_first:
            head.append(f"The assistant has opened the conversation: {said_in(turns.pop(0))}")
        if head:
            turns.insert(0, Message(role="system" if self.system else "user", content="\n\n".join(head)))
        return _joined(turns), tools

    def _write(self, messages: list[Message], tools: Tools, is_answered: bool = False) -> str:
        how = {"chat_template": self.text, "add_generation_prompt": not is_answered, "tokenize": False}
        return self.tokenizer.apply_chat_template(messages, tools=list(tools) or None, **how, **self.kwargs)

    def writes(self, messages: list[Message], *words: str, tools: Tools = ()) -> bool:
        """Whether the template takes the messages as they are, and the words come out. Raises ConfigError for one that
        is no Jinja."""
        try:
            text = self._write(messages, tools)
        except TemplateSyntaxError as problem:
            raise template_error(Path(self.tokenizer.name_or_path), problem) from None
        except (TemplateError, TypeError):  # DeepSeek-V3's adds a call's arguments to a text
            return False
        return all(word in text for word in words)


def text_between(template: ChatTemplate, messages: Sequence[Message], ends: Sequence[str]) -> str:
    """What stands between two turns of the assistant: after the token that ended the first, one of `ends`, these
    messages, a tool's or a user's, up to where it speaks again. Raises ConfigError where the template ends no turn."""
    called = [each.get("name", TOOL) for each in messages if each["role"] == "tool"]
    calls: list[ToolCall] = [
        {"type": "function", "function": {"name": name, "arguments": {"probe": VALUE}}} for name in called
    ]
    said = Message(role="assistant", content=VALUE)
    if calls and template.call and (len(calls) == 1 or template.calls):
        said = Message(role="assistant", content="", tool_calls=calls)
    text = template.render([Message(role="user", content=USER), said, *messages])
    after = text.rpartition(VALUE)[2]
    found = [after.index(end) + len(end) for end in ends if end in after]
    if not found:
        what = "the chat template writes no token that ends the model's turn, so that nothing can follow it"
        raise ConfigError(what, "Use a model with another template, or leave environment out")
    return after[min(found) :]


def template_error(folder: Path, problem: Exception) -> ConfigError:
    """The error of a model whose template is no Jinja, or refuses to write a prompt."""
    told = f"refuses a prompt: {problem}"
    if isinstance(problem, TemplateSyntaxError):
        told = f"can't be read, at its line {problem.lineno}: {problem.message}"
    files = [folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
    file = next((each for each in files if each.exists()), folder)
    return ConfigError(f"the chat template in {file} {told}", "Correct it, or copy the base model's template")


def try_template(folder: Path, given: Mapping[str, Any]) -> None:
    """Has the template among a model's files write a question; a folder without one is left alone. It takes a
    second, and loads transformers without torch. Raises ConfigError where it is no Jinja, or can't."""
    from transformers.utils.chat_template_utils import render_jinja_template

    if template := default_template(folder):
        asks = [[{"role": "user", "content": USER}]]
        tokens, told = special_tokens(folder), template_kwargs(template, given)
        try:
            render_jinja_template(asks, chat_template=template, add_generation_prompt=True, **tokens, **told)  # pyright: ignore[reportArgumentType]
        except Exception as problem:  # what a template does may raise anything
            raise template_error(folder, problem) from None


def chat_template_of(tokenizer: Any) -> ChatTemplate:
    """The tokenizer's chat template, tried once; TRL's patched one where that writes the calls that the own can't."""
    told = getattr(tokenizer, "chat_template_kwargs", {})
    return _tried(tokenizer, str(tokenizer.chat_template), orjson.dumps(told))


def template_kwargs(template: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a template is told: what is given, and where it can switch thinking on and off, off unless given."""
    return ({THINKING: False} if THINKING in template else {}) | dict(given)


@lru_cache(8)
def _tried(tokenizer: Any, template: str, told: bytes) -> ChatTemplate:
    own, asks = ChatTemplate(tokenizer, kwargs=orjson.loads(told)), Message(role="user", content=USER)
    system, said = Message(role="system", content=SYSTEM), Message(role="assistant", content=SAID)
    functions: list[CalledFunction] = [{"name": TOOL, "arguments": {"probe": value}} for value in (VALUE, OTHER)]
    two: list[ToolCall] = [{"type": "function", "function": function} for function in functions]
    result = Message(role="tool", content=RESULT)
    asked = [asks, Message(role="assistant", content="", tool_calls=two[:1]), result], TOOL, VALUE, RESULT
    if not own.writes(*asked) and "tool_calls" in template:
        from trl.chat_template_utils import get_training_chat_template

        with suppress(ValueError):  # TRL has none
            patched = replace(own, text=get_training_chat_template(tokenizer))
            own = patched if patched.writes(*asked) else own
    has_system = own.writes([system, asks], SYSTEM, USER)
    return replace(
        own,
        system=has_system,
        assistant_first=own.writes([*[system] * has_system, said, asks], SAID),
        call=own.writes(*asked),
        calls=own.writes([asks, {**said, "tool_calls": two}, result, result], SAID, VALUE, OTHER, RESULT),
        opens_thought=own.writes([asks]) and own.render([asks]).rstrip().endswith(OPEN),
        tools=own.writes([asks], TOOL, tools=[{"type": "function", "function": SCHEMA}]),
    )


def _without_calls(message: Message) -> list[Message]:
    """The message as messages without calls: what is called and what comes of it stand in a user's."""
    if message["role"] == "tool":
        return [Message(role="user", content=f"Tool result: {message['content']}")]
    if not (calls := message.get("tool_calls")):
        return [message]
    said = [Message(role="assistant", content=message["content"])] if message["content"] else []
    called = (f"{call['function']['name']} {orjson.dumps(call['function']['arguments']).decode()}" for call in calls)
    return [*said, Message(role="user", content="\n".join(f"Tool call: {each}" for each in called))]


def _joined(messages: list[Message]) -> list[Message]:
    """The messages, those of a user in a row as one."""
    joined: list[Message] = []
    for message in messages:
        if joined and message["role"] == joined[-1]["role"] == "user":
            message = Message(role="user", content=f"{joined.pop()['content']}\n\n{message['content']}")
        joined.append(message)
    return joined
