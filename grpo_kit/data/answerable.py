"""Which turns can be answered from their prompts: what stands nowhere in its prompt, no model can state."""

from typing import Any

from grpo_kit.data.samples import Act, Sample, messages_of

STATING = {"OFFER", "INFORM", "INFORM_COUNT"}
OUTCOMES = {"NOTIFY_SUCCESS", "NOTIFY_FAILURE"}
CHECKED = STATING | OUTCOMES  # the acts that a prompt may not support


def unknown_acts(sample: Sample) -> list[Act]:
    """The acts of the reply that its prompt does not support.

    Those are an OFFER, INFORM or INFORM_COUNT with a value that stands nowhere in the prompt, and a NOTIFY_SUCCESS or
    NOTIFY_FAILURE that no tool's message led to. A value stands there as that slot's value in a tool's JSON (as the
    service has it: "17:00" for "5 pm"), or, unless it is True or False, as words of a message.
    """
    messages = messages_of(sample.prompt)
    results = [message["content"] for message in reversed(messages) if message["role"] == "tool"]
    unknown, text = [], ""
    for act in sample.acts:
        if act.act in STATING:
            for value, own in zip(act.values, act.canonical or act.values, strict=False):
                pair = f'"count":{value},' if act.act == "INFORM_COUNT" else f'"{act.slot}":"{own}"'
                for result in results:
                    if pair in result:
                        break
                else:
                    text = text or "\n".join([message["content"] for message in messages])
                    if not (_says(text, value) or (own is not value and _says(text, own))):
                        unknown.append(act)
                        break
        elif act.act in OUTCOMES and messages[-1]["role"] != "tool":
            unknown.append(act)
    return unknown


def answerable_in_words(card: dict[str, Any]) -> str:
    """A line for people, of what a data card counts as "answerable"."""
    found = card["answerable"]
    told = f"{found['from_prompt']:,} of {found['turns']:,} turns that offer, inform or count can be answered"
    unknown = ", ".join(f"{count:,} {act}" for act, count in found["not_by_act"].items())
    return f"{told} from their prompts" + f"; turns with an act that cannot: {unknown}" * bool(unknown)


def _says(text: str, value: str) -> bool:
    """Whether the value is a word, or words, of the text; True and False are none that anybody says."""
    at = text.find(value) if value not in ("True", "False") else -1
    while at >= 0:
        if not (text[at - 1 : at].isalnum() or text[at + len(value) : at + len(value) + 1].isalnum()):
            return True
        at = text.find(value, at + 1)
    return False


def act_text(act: Act) -> str:
    """The act as one reads it: "OFFER restaurant_name = Sipan"."""
    return f"{act.act} {act.slot} = {', '.join(act.values)}" if act.slot else act.act
