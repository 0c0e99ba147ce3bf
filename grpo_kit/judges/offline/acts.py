"""Checks that a reply performs a dialogue act, in [0, 1]: that it asks for the city, states the time, says goodbye.

`check_for(act, ...)` prepares an act once; the check it returns is cheap to run on many replies.
"""

import re
from collections.abc import Callable

from grpo_kit.data.samples import Act
from grpo_kit.judges.offline.phrases import confirms, offers_to, performs
from grpo_kit.judges.offline.wording import FUNCTION_WORDS, VOCABULARY, Text, line_of, vaguely, vocabulary, words_of

Check = Callable[[Text], float]

# By kind of slot, the words by which a slot's name shows that it is of this kind, and those that ask for such a thing.
_KINDS = {kind: (vocabulary(words["named"]), vocabulary(words["asked"])) for kind, words in VOCABULARY["slots"].items()}
_FILLER = vocabulary(VOCABULARY["name_filler"])
_ANY = vocabulary("any prefer preference matter care whichever either anything")
_UNTELLING = vocabulary("name number type kind category")
_LABELS = {
    "NOTIFY_SUCCESS": "says it is done",
    "NOTIFY_FAILURE": "says it failed",
    "REQ_MORE": "asks what else",
    "GOODBYE": "says goodbye",
}


def check_for(act: Act, acts: list[Act], reference: Text) -> tuple[str, Check]:
    """A label for people ("asks for city") and the check, made once per act of a turn. `acts` are all of
    the turn's acts; `reference` shows how such a reply may be worded."""
    slot = act.slot.replace("_", " ")
    if act.act == "REQUEST":
        return f"asks for {' or '.join((act.slot, *act.alternatives))}".replace("_", " "), _asks_for_any(act, acts)
    if act.act == "OFFER_INTENT":
        intent = " ".join(part for value in act.values for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", value)).lower()
        return f"offers to {intent}", lambda text: offers_to(text, vocabulary(intent) - FUNCTION_WORDS)
    if not act.values:
        label = _LABELS.get(act.act, f"{act.act.lower()} {slot}".strip())
        return label, lambda text: float(performs(act.act, text))

    checks = [_states(act, value, acts, reference) for value in act.values]
    must_ask = act.act == "CONFIRM" and confirms(reference)

    def states_all(text: Text) -> float:
        stated = sum(check(text) for check in checks) / len(checks)
        return 0.7 * stated if must_ask and not confirms(text) else stated

    return f"states {slot} {' and '.join(act.values)}", states_all


def kind_of(slot: str) -> str | None:
    """The kind of a slot, told by its name's last words: "pickup_date" is a date, "number_of_riders" a number."""
    words = words_of(slot.replace("_", " "))
    if words[:1] == ["number"]:
        return "number"
    return next((kind for word in reversed(words) for kind, (named, _) in _KINDS.items() if word in named), None)


def _asks_for_any(act: Act, acts: list[Act]) -> Check:
    """Asks for the act's slot, or for one of its alternatives that no request before it has had.

    Alternatives count only in a reply that asks for no more than the turn does. One of the same kind as what the turn
    asks for can't be told from it.
    """
    requests = [other for other in acts if other.act == "REQUEST" and other.service == act.service]
    kinds = {kind_of(request.slot) for request in requests} - {None}
    own = [_asks_for(request) for request in requests]
    others = [_asks_for(Act(act.service, act.act, slot)) for slot in act.alternatives if kind_of(slot) not in kinds]
    place = requests.index(act)

    def check(text: Text) -> float:
        scores, spare = [asks(text) for asks in own], sorted((asks(text) for asks in others), reverse=True)
        if sum(score > 0.5 for score in scores + spare) > len(own):
            return scores[place]
        for score in scores[:place]:
            if spare and spare[0] > score:
                spare.pop(0)
        return max([scores[place], *spare[:1]])

    return check if others else own[place]


def _asks_for(act: Act) -> Check:
    kind = kind_of(act.slot)
    asked = _KINDS[kind][1] if kind else frozenset()
    topic = vocabulary(act.slot.replace("_", " ")) - _FILLER - FUNCTION_WORDS - _UNTELLING
    values = [line_of(words_of(value)) for value in act.values]

    def check(text: Text) -> float:
        return max((asks_for_it(s.words) * (1 if s.asks else 0.25) for s in text.sentences), default=0.0)

    def asks_for_it(words: list[str]) -> float:
        if any(value in line_of(words) for value in values):  # "Do you want economy or business class?"
            return 1.0
        if asked.isdisjoint(words):
            return 0.0 if topic.isdisjoint(words) else 1.0 if kind in (None, "kind", "name") else 0.5
        return 0.6 if kind == "name" else 1.0

    return check


def _states(act: Act, value: str, acts: list[Act], reference: Text) -> Check:
    if value.lower() in ("true", "false"):
        return _says_yes_or_no(act, value.lower() == "true")
    if value.lower() == "dontcare":
        return lambda text: float(not _ANY.isdisjoint(text.set))
    words = words_of(value)
    if len(words) == 1 and words[0].isdigit():
        return _states_number(words[0], acts, reference)
    line = line_of(words)
    content = [word for word in words if word not in FUNCTION_WORDS] or words

    def check(text: Text) -> float:
        if line in text.line:
            return 1.0
        found = sum(_present(word, text) for word in content) / max(1, len(content))
        return found if len(content) == 1 else 0.9 if found == 1 else 0.6 * found

    return check


def _present(word: str, text: Text) -> float:
    """1 if `word` is said; less for a price without its sign, or a time without its half of the day."""
    if word in text.set:
        return 1.0
    return max((share for form, share in vaguely(word).items() if form in text.set), default=0.0)


def _states_number(number: str, acts: list[Act], reference: Text) -> Check:
    """A bare number must not be followed by what follows the turn's other numbers in the reference."""

    def after(wanted: str, text: Text) -> set[str]:
        return {text.words[i + 1] for i, word in enumerate(text.words[:-1]) if word == wanted}

    others = {value for act in acts for value in act.values if value.isdigit() and value != number}
    rivals = {word for other in others for word in after(other, reference)} - after(number, reference)

    def check(text: Text) -> float:
        if number not in text.set:
            return 0.8 if f"${number}" in text.set else 0.0
        following = after(number, text)
        return 0.2 if following and following <= rivals else 1.0

    return check


def _says_yes_or_no(act: Act, value: bool) -> Check:
    topic = vocabulary(act.slot.replace("_", " ")) - _FILLER - FUNCTION_WORDS

    def check(text: Text) -> float:
        named = (sentence for sentence in text.sentences if not topic.isdisjoint(sentence.words))
        return float(any(sentence.denies != value for sentence in named))

    return check
