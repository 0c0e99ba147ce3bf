"""Prompts and answers: a row has one field of PROMPTS, one of ANSWERS and maybe the other fields of Sample."""

from difflib import get_close_matches
from typing import Any

import msgspec

from grpo_kit.data.readers.base import Piece, Reader, Trace, opening
from grpo_kit.data.readers.chat import chat_trace, columns_of
from grpo_kit.data.readers.messages import as_text, from_json, messages_in, tools_in, without_reasoning
from grpo_kit.data.repair import Found, read_dialogue
from grpo_kit.data.samples import Sample

# The first of these that a row has is taken; the others are columns.
PROMPTS = ("prompt", "question", "instruction", "problem", "query", "text_input", "input")
ANSWERS = ("ground_truth", "completion", "answer", "output", "response", "solution", "chosen", "answers")
BESIDE = ("input", "context")  # what an instruction or question is about; it stands below it
SYSTEMS = ("system", "system_prompt")
_OWN = set(Sample.__struct_fields__) - {"prompt", "ground_truth", "columns"}
_TEXTS = ("id", "dialogue_id", "rubric", "task_description")
_FINAL = "####"  # in GSM8K's answers, before the number


class SampleReader(Reader):
    fields = (*PROMPTS, "chosen")

    def trace(self, piece: Piece) -> Trace:
        given, rule = piece.content.items(), from_json(piece.content.get("reward_model"))
        row = {name: value for name, value in given if name not in self.fields or as_text(value).strip()}
        if isinstance(rule, dict) and row.get("ground_truth") is None:  # verl's
            row["ground_truth"] = rule.get("ground_truth")
        found = Found(self.options.strict)
        asked = next((name for name in PROMPTS if name in row), "")
        answered = next((name for name in ANSWERS if as_text(row.get(name)).strip()), "")
        prompt, answer = _chat(row.get(asked)), _chat(row.get(answered))
        if not answered or not (asked or isinstance(answer, list)):
            raise ValueError(_missing(*(("prompt", PROMPTS) if answered else ("answer", ANSWERS)), piece.content))
        if isinstance(answer, dict) and isinstance(answer.get("text"), list):  # SQuAD's, all of them right
            answer = next(iter(answer["text"]), "")
            if not answer:
                raise ValueError("the question has no answer: SQuAD's answers.text is empty")
        used = {asked, answered, *SYSTEMS, *_OWN}
        if asked in ("instruction", "question", "query") and not isinstance(prompt, list):
            about = BESIDE if asked == "instruction" else BESIDE[1:]
            prompt = "\n\n".join(filter(None, map(as_text, (prompt, *map(row.get, about)))))
            used.update(about)
        if system := next((row[name] for name in SYSTEMS if row.get(name)), None):
            prompt = [{"role": "system", "content": system}, *_as_messages(prompt)]
        is_chat = isinstance(answer, list)
        columns = columns_of(row, used, found, learns_calls=is_chat and self.options.learn == "calls")
        if is_chat:
            if not all(isinstance(each, dict) for each in answer):
                raise ValueError(f"{answered!r} is a list, where one text or messages are needed")
            return self._dialogue(piece._replace(content=row), prompt, answer, columns, found)
        if isinstance(prompt, list):
            prompt = read_dialogue(prompt, messages_in, found)
            if found.is_cut or not prompt or prompt[-1]["role"] not in ("user", "tool"):
                raise ValueError("; ".join(found.faults) or "the prompt must end with the user's message, or a tool's")
        answer = without_reasoning(as_text(answer), found)
        final = answer.rstrip().rpartition("\n")[2].partition(_FINAL)[2].strip()
        if final:
            columns = {"final_answer": final} | columns
        own = {name: row[name] for name in _OWN & row.keys() if row[name] not in (None, "")}
        own |= {name: as_text(own[name]) for name in _TEXTS if name in own}
        own |= {name: from_json(own[name]) for name in ("services", "acts") if name in own}
        fields = {"id": piece.name, **own, "prompt": prompt if isinstance(prompt, list) else as_text(prompt)}
        fields |= {"ground_truth": answer, "tools": tools_in(own.get("tools"), found), "columns": columns}
        sample = msgspec.convert(fields, Sample, strict=False)
        made = {"faults": found.faults, "repairs": found.repairs, "is_by_id": bool(sample.dialogue_id)}
        return Trace(sample.id if "id" in own else "", [sample], sample.dialogue_id or opening(sample), **made)

    def _dialogue(self, piece: Piece, prompt: Any, answer: list, columns: dict, found: Found) -> Trace:
        """A prompt and the messages after it; or messages with the prompt among them, of which the last counts."""
        before = _as_messages(prompt)
        begin = len(read_dialogue(before, messages_in, Found(strict=False)))
        is_all = answer and isinstance(answer[0], dict) and answer[0].get("role") in ("system", "user")
        dialogue = read_dialogue(answer if is_all else before + answer, messages_in, found)
        return chat_trace(piece, dialogue, columns, found, self.options.learn, len(dialogue) - 1 if is_all else begin)


def _chat(value: Any) -> Any:
    """A list of messages where it is one, a message, or the JSON text of either; else the value."""
    messages = from_json(value) if isinstance(value, str) and "role" in value else value
    messages = [messages] if isinstance(messages, dict) and "role" in messages else messages
    return messages if isinstance(messages, list) and messages and isinstance(messages[0], dict) else value


def _as_messages(prompt: Any) -> list:
    return prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] * (prompt is not None)


def _missing(what: str, wanted: tuple[str, ...], row: dict[str, Any]) -> str:
    if empty := next((name for name in wanted if name in row), ""):
        return f"{empty!r} is empty"
    near = {name: get_close_matches(name.lower(), wanted, 1) for name in row if name not in PROMPTS + ANSWERS}
    name, new = next(((repr(name), names[0]) for name, names in near.items() if names), ("the one that is", wanted[0]))
    has = f"it has {', '.join(map(repr, row))}, and none of {', '.join(wanted)}"
    return f"no field has a name known for the {what}: {has}. Rename {name} to {new!r}"
