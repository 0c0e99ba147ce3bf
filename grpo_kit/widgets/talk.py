"""`talk(run)`: a box to type in, and a checkpoint that answers, here or where it is served."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ipywidgets

from grpo_kit.backends.run import Run
from grpo_kit.backends.serving import endpoint_of
from grpo_kit.data.samples import Message
from grpo_kit.models.chat import NO_TOOLS, Conversation, EndpointConversation
from grpo_kit.models.endpoint import Endpoint
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.widgets.parts import Panel, button, error_html, note_html
from grpo_kit.widgets.samples import prompt_html


class TalkPanel(Panel):
    """A conversation with a checkpoint of a run, by the run's endpoint where it is being served. Else the model is
    loaded at the first message, once. A thread answers, so that the kernel is free."""

    def __init__(
        self,
        run: Run | Endpoint | str | Path,
        checkpoint: str | None = None,
        temperature: float | None = None,
        seed: int = 0,
        runs_dir: str | Path = RUNS_DIR,
    ):
        """`run` is a run, its name or an endpoint; `checkpoint` the newest by default, `temperature` the run's. Raises
        RunError for a run that is neither here nor served, or has no such checkpoint."""
        run = run if isinstance(run, Endpoint) else Run.of(run, runs_dir)
        endpoint = run if isinstance(run, Endpoint) else endpoint_of(run)
        how: Any = (checkpoint, temperature, seed)
        self.conversation = EndpointConversation(endpoint, *how) if endpoint else Conversation(run, *how)  # pyright: ignore[reportArgumentType]
        self.name = checkpoint or "the newest"
        self.box = ipywidgets.Text(placeholder="Say something, Enter", layout={"width": "auto", "flex": "1 1 320px"})
        self.send_button = button("Send", "or press Enter", "primary")
        self.new_button = button("Start anew", "Forget what was said")
        where = f"answers at {endpoint.url}." if endpoint else "is loaded when you first say something."
        if isinstance(run, Run) and run.config.environment:
            where += f" {NO_TOOLS}"
        self.said = ipywidgets.HTML(note_html(f"{self.name} {where}"))
        self._worker = ThreadPoolExecutor(1)
        self.box.on_msg(lambda _, told, __: self.ask() if told.get("event") == "submit" else None)
        self.send_button.on_click(lambda _: self.ask())
        self.new_button.on_click(lambda _: self._start_anew())
        super().__init__([self.said, ipywidgets.HBox([self.box, self.send_button, self.new_button])])

    def ask(self) -> None:
        """Asks what stands in the box. While an answer is being written, nothing is sent."""
        if self.send_button.disabled or not (text := self.box.value.strip()):
            return
        self.box.value, self.send_button.disabled, self.new_button.disabled = "", True, True
        asked = Message(role="user", content=text)
        self.said.value = prompt_html([*self.conversation.messages, asked], f"{self.name} is answering …")
        self._worker.submit(self._answer, text)

    def _answer(self, text: str) -> None:
        try:
            self.conversation.say(text)
            self.said.value = prompt_html(self.conversation.messages, self.name)
        except Exception as error:  # in a thread of a notebook nobody else would show it
            self.said.value = error_html(error)
        self.send_button.disabled = self.new_button.disabled = False

    def _start_anew(self) -> None:
        self.conversation.messages.clear()
        self.said.value = note_html(f"{self.name} has forgotten what was said.")


talk = chat = TalkPanel
