"""Which turns can be answered from their prompts: a reply that states what stands nowhere in its prompt can't be earned."""

from grpo_kit.data.samples import Act, Sample, messages_of

STATING = {"OFFER", "INFORM", "INFORM_COUNT"}
OUTCOMES = {"NOTIFY_SUCCESS", "NOTIFY_FAILURE"}


def unknown_acts(sample: Sample) -> list[Act]:
    """The acts of the reply that its prompt does not support.

    Those are an OFFER, INFORM or INFORM_COUNT with a value that stands nowhere in the prompt, and a NOTIFY_SUCCESS or
    NOTIFY_FAILURE that no tool's message led to. A value stands there as that slot's value in a tool's JSON (as the
    service has it: "17:00" for "5 pm"), or, unless it is True or False, as words of a message.
    """
    messages = messages_of(sample.prompt)
    unknown, results, text = [], None, ""
    for act in sample.acts:
        if act.act in STATING:
            if results is None:
                results = [message["content"] for message in reversed(messages) if message["role"] == "tool"]
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
