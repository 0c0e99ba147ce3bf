"""A Modelfile for Ollama, whose chat template is written in Go's language and not in Jinja: found by having the
model's own template write a conversation, and tried on others."""

import json
from dataclasses import dataclass
from pathlib import Path

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Message
from grpo_kit.errors import ConfigError
from grpo_kit.models.chat_template import ChatTemplate, chat_template_of
from grpo_kit.models.files import ends_in
from grpo_kit.models.llama import ask
from grpo_kit.models.load import load_tokenizer

SYSTEM, ASKED, SAID, NEXT = (f"probe-{number}-here" for number in range(4))


def modelfile(whole: Path, file: Path, trained: TrainConfig) -> str:
    """The Modelfile of the GGUF file that was made of the model in `whole`: its chat template, the texts that end an
    answer, and how it was trained to be asked. Tools are not written.

    Raises ConfigError for a model without a chat template, or with one that a turn-by-turn template can't follow.
    """
    tokenizer = load_tokenizer(str(whole), trained.chat_template_kwargs)
    if tokenizer.chat_template is None:
        raise ConfigError(f"{whole.name} has no chat template, which a Modelfile is made of", "Export it as gguf")
    parts = Parts.of(chat_template_of(tokenizer))
    begins = tokenizer.bos_token or ""
    stops = [tokenizer.decode([end]) for end in ends_in(whole)]
    settings = {
        "temperature": trained.temperature,
        "num_ctx": trained.max_prompt_length + trained.max_completion_length,
    }
    lines = [f"FROM ./{file.name}", f'TEMPLATE """{parts.in_go(begins if ask(file)["adds_bos"] else "")}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in settings.items())]) + "\n"


@dataclass(frozen=True)
class Parts:
    """What a chat template writes around the messages of a conversation."""

    begin: str  # where there is no system message
    before_system: str
    after_system: str
    after_user: str
    after_assistant: str
    after_last: str  # where the model is to answer

    @classmethod
    def of(cls, template: ChatTemplate) -> "Parts":
        """Raises ConfigError for a template that writes later turns in another way."""
        talk = _talk(ASKED, SAID, NEXT)
        begin, after_user, after_assistant, after_last = _split(template.render(talk), ASKED, SAID, NEXT)
        before_system, after_system, *_ = _split(
            template.render([Message(role="system", content=SYSTEM), *talk]), SYSTEM, ASKED
        )
        parts = cls(begin, before_system, after_system, after_user, after_assistant, after_last)
        for said in (_talk("One"), _talk("One", "Two", "Three", "Four", "Five")):
            for system in ("", "Be brief."):
                whole = [Message(role="system", content=system)] * bool(system) + said
                if parts.write(system, said) != template.render(whole):
                    what = "the chat template writes a turn in another way later on, which Ollama's can't follow"
                    raise ConfigError(what, "Export it as gguf, and write a Modelfile by hand")
        return parts

    def write(self, system: str, turns: list[Message]) -> str:
        """What `in_go` writes, by Python."""
        text = f"{self.before_system}{system}{self.after_system}" if system else self.begin
        after = {"user": self.after_user, "assistant": self.after_assistant}
        return (
            text
            + "".join(turn["content"] + after[turn["role"]] for turn in turns[:-1])
            + (turns[-1]["content"] + self.after_last)
        )

    def in_go(self, begins: str) -> str:
        """The template in Go's language, without the text that llama.cpp puts before every prompt, `begins`."""
        begin, before_system = (part.removeprefix(begins) for part in (self.begin, self.before_system))
        system = f"{{{{ if .System }}}}{before_system}{{{{ .System }}}}{self.after_system}"
        return (
            f"{system}{{{{ else }}}}{begin}{{{{ end }}}}{{{{ range $i, $_ := .Messages }}}}"
            '{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ if eq .Role "user" }}{{ .Content }}'
            f"{{{{ if $last }}}}{self.after_last}{{{{ else }}}}{self.after_user}{{{{ end }}}}"
            f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{self.after_assistant}{{{{ end }}}}{{{{ end }}}}'
        )


def _talk(*said: str) -> list[Message]:
    return [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(said)]


def _split(text: str, *words: str) -> list[str]:
    parts = []
    for word in words:
        before, _, text = text.partition(word)
        parts.append(before)
    return [*parts, text]
