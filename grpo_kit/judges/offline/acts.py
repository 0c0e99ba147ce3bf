"""Checks that a reply performs a dialogue act, in [0, 1]: that it asks for the city, states the time, says goodbye.

`check_for(act, ...)` prepares an act once; the check it returns is cheap to run on many replies.
"""

import re
from collections.abc import Callable

from grpo_kit.data.samples import Act
from grpo_kit.judges.offline import phrases
from grpo_kit.judges.offline.slots import KINDS, kind_of, slot_words
from grpo_kit.judges.offline.wording import FUNCTION_WORDS, Text, line_of, vocabulary, words_of

Check = Callable[[Text], float]

_ANY = vocabulary("any prefer preference matter care whichever either anything")
_UNTELLING = vocabulary("name number type kind category")


def check_for(act: Act, acts: list[Act], reference: Text) -> tuple[str, Check]:
    """A label for people ("asks for city") and the check, made once per act of a turn.

    `acts` are all of the turn's acts; `reference` shows how such a reply may be worded.
    """
    slot = act.slot.replace("_", " ")
    if act.act == "REQUEST":
        return f"asks for {slot}", _asks_for(act)
    if act.act == "OFFER_INTENT":
        intent = " ".join(part for value in act.values for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", value)).lower()
        return f"offers to {intent}", lambda text: phrases.offers_to(text, vocabulary(intent) - FUNCTION_WORDS)
    if act.values:
        checks = [_states(act, value, acts, reference) for value in act.values]
        must_ask = act.act == "CONFIRM" and phrases.asks_to_confirm(reference)

        def states_all(text: Text) -> float:
            stated = sum(check(text) for check in checks) / len(checks)
            return 0.7 * stated if must_ask and not phrases.asks_to_confirm(text) else stated

        return f"states {slot} {' and '.join(act.values)}", states_all
    by_phrase = {
        "NOTIFY_SUCCESS": ("says it is done", phrases.says_done),
        "NOTIFY_FAILURE": ("says it failed", phrases.says_failed),
        "REQ_MORE": ("asks what else", phrases.asks_what_else),
        "GOODBYE": ("says goodbye", phrases.says_goodbye),
    }
    return by_phrase.get(act.act, (f"{act.act.lower()} {slot}".strip(), _nothing_known))


def _asks_for(act: Act) -> Check:
    kind = kind_of(act.slot)
    _, asked = KINDS.get(kind, (frozenset(), frozenset()))
    topic = slot_words(act.slot) - FUNCTION_WORDS - _UNTELLING
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
        return lambda text: 0.0 if _ANY.isdisjoint(text.set) else 1.0
    words = words_of(value)
    if not words:
        return _nothing_known
    if len(words) == 1 and words[0].isdigit():
        return _states_number(act, words[0], acts, reference)
    line = line_of(words)
    content = [word for word in words if word not in FUNCTION_WORDS] or words

    def check(text: Text) -> float:
        if line in text.line:
            return 1.0
        found = sum(_present(word, text) for word in content) / len(content)
        if len(content) == 1:
            return found
        return 0.9 if found == 1 else 0.6 * found

    return check


def _present(word: str, text: Text) -> float:
    """1 if `word` is said; less for a time said vaguely: "5:30", or "at 5", for "5:30 pm"."""
    if word in text.set:
        return 1.0
    if word[0] == "$":
        return 0.8 if word[1:] in text.masked else 0.0
    if word[-1] == "h" and ":" in word:
        hour, minute = word[:-1].split(":")
        half_day = (int(hour) - 1) % 12 + 1
        if f"{half_day}:{minute}" in text.set:
            return 0.9
        return 0.6 if minute == "00" and str(half_day) in text.masked else 0.0
    return 0.0


def _states_number(act: Act, number: str, acts: list[Act], reference: Text) -> Check:
    """A bare number must stand by the words of its slot where the turn has other numbers to confuse it with."""
    own = _words_about_number(act, number, reference)
    rivals = frozenset().union(
        *(_words_about_number(a, words_of(a.values[0])[0], reference) for a in acts if a is not act and _is_number(a))
    )

    def placed(text: Text) -> bool:
        return any(
            _distance(text.masked, at, own - rivals) <= _distance(text.masked, at, rivals - own)
            for at, word in enumerate(text.masked)
            if word == number
        )

    confusable = bool(rivals) and placed(reference)

    def check(text: Text) -> float:
        if number not in text.masked:
            return 0.8 if f"${number}" in text.masked else 0.0
        return 1.0 if not confusable or placed(text) else 0.2

    return check


def _is_number(act: Act) -> bool:
    return bool(act.values) and re.fullmatch(r"\d+(?:\.\d+)?%?", act.values[0]) is not None


def _words_about_number(act: Act, number: str, reference: Text) -> frozenset[str]:
    """The slot's words, and what follows the number in the reference."""
    after = (reference.masked[at + 1 : at + 2] for at, word in enumerate(reference.masked) if word == number)
    return slot_words(act.slot).union(*after) - FUNCTION_WORDS


def _distance(words: list[str], at: int, wanted: frozenset[str]) -> float:
    """The distance to the nearest of the wanted words; one that follows counts as nearer than one before."""
    return min((i - at - 0.5 if i > at else at - i for i, word in enumerate(words) if word in wanted), default=9)


def _says_yes_or_no(act: Act, value: bool) -> Check:
    topic = slot_words(act.slot) - FUNCTION_WORDS

    def check(text: Text) -> float:
        named = (sentence for sentence in text.sentences if not topic.isdisjoint(sentence.words))
        return float(any(sentence.denies != value for sentence in named))

    return check


def _nothing_known(text: Text) -> float:
    return 0.0
