"""Schema-Guided Dialogue: a folder of dialogues_*.json and schema.json; every system turn becomes a sample.

MultiWOZ 2.2 has the same layout, without acts and calls; its splits share the schema.json of the folder above.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from grpo_kit.data.readers.base import OnBad, Piece, Reader, ReadOptions, Trace, opening
from grpo_kit.data.readers.dialogue import Dialogue, Turn, Walk
from grpo_kit.data.readers.grounding import Services
from grpo_kit.data.repair import Found, without_nulls
from grpo_kit.data.rubrics import load_schema
from grpo_kit.data.samples import BOM, Text
from grpo_kit.errors import BadTrace


class _RawDialogue(msgspec.Struct):
    dialogue_id: Text
    services: list[str]
    turns: list[msgspec.Raw]


_DIALOGUES = msgspec.json.Decoder(list[Dialogue])
_UNCHECKED = msgspec.json.Decoder(list[msgspec.Raw])
_TURN = msgspec.json.Decoder(Turn)


class SGDReader(Reader):
    files = "dialogues_*.json"
    field = "turns"

    def __init__(self, folder: Path, options: ReadOptions):
        super().__init__(folder, options)
        own, shared = folder / "schema.json", folder.parent / "schema.json"
        self._services = Services(load_schema(shared if shared.exists() and not own.exists() else own))

    def pieces(self, path: Path, on_bad: OnBad) -> Iterator[Piece]:
        content = path.read_bytes().removeprefix(BOM)
        try:
            dialogues = _DIALOGUES.decode(content)
        except (ValueError, RecursionError):
            try:
                dialogues = _UNCHECKED.decode(content)  # so that trace() finds the one that is wrong
            except (ValueError, RecursionError) as problem:
                what = f"it is not a list of dialogues in JSON, or it is cut short ({problem})"
                return on_bad(BadTrace(what, "Download it again", where=str(path)))
        for number, dialogue in enumerate(dialogues, 1):
            yield Piece(f"{path}, dialogue number {number}", f"{path.stem}-{number}", dialogue)

    def trace(self, piece: Piece) -> Trace:
        dialogue, faults, repairs = piece.content, [], {}
        if not isinstance(dialogue, Dialogue):
            dialogue, faults = _readable_part(dialogue)
        if dialogue.turns and dialogue.turns[0].speaker == "SYSTEM":
            found = Found(self.options.strict)
            found.repaired("greetings_first")
            repairs = found.repairs
        for service in dialogue.services:
            self._services.check(service)
        walk = Walk(dialogue, self._services, self.options)
        faults = walk.faults + faults
        if not walk.samples:
            raise ValueError(faults[0] if faults else "no SYSTEM turn after a USER's, so there is no answer to learn")
        made = {"is_apart": True, "faults": tuple(faults), "repairs": repairs}
        return Trace(dialogue.dialogue_id, walk.samples, opening(walk.samples[0]), **made)


def _readable_part(content: msgspec.Raw) -> tuple[Dialogue, list[str]]:
    """A dialogue up to its first turn that can't be read, and what is wrong with that turn."""
    given = msgspec.json.encode(without_nulls(msgspec.json.decode(content)))
    dialogue, turns = msgspec.json.decode(given, type=_RawDialogue), []
    for index, turn in enumerate(dialogue.turns):
        try:
            turns.append(_TURN.decode(turn))
        except ValueError as problem:
            return Dialogue(dialogue.dialogue_id, dialogue.services, turns), [f"turn {index}: {problem}"]
    return Dialogue(dialogue.dialogue_id, dialogue.services, turns), []
