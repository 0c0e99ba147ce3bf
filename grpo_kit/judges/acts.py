"""Whether a reply performs a dialogue act, as a number in [0, 1]: asks for the city, states the time, says goodbye.

`check_for(act, ...)` prepares an act once; the check it returns is cheap to run on many replies.
"""

import re
from collections.abc import Callable

from grpo_kit.judges import phrases
from grpo_kit.judges.slots import COUNTED, KINDS, NAME_FILLER, kind_of, slot_words
from grpo_kit.judges.wording import FUNCTION_WORDS, NEGATION, STOCK_WORDS, Text, line_of, vocabulary, words_of
from grpo_kit.samples import Act

Check = Callable[[Text], float]

_ASK_NEAR = vocabulary(
    "have please tell need name what which whose your preferred favorite desired any particular specific certain"
)
_ASK_ANYWHERE = vocabulary("mind prefer preference particular specific certain know")
_ASK_ALONE = vocabulary("when where much long until")
_ANY = vocabulary("any prefer preference matter care whichever either anything")


def check_for(act: Act, acts: list[Act], reference: Text, last_user: Text) -> tuple[str, Check]:
    """A label for people ("asks for city") and the check, made once per act of a turn.

    `acts` are all of the turn's acts; `reference` shows how such a reply may be worded; `last_user` is what the
    reply answers.
    """
    slot = act.slot.replace("_", " ")
    if act.act == "REQUEST":
        return f"asks for {slot}", _asks_for(act, acts, reference)
    if act.act == "OFFER_INTENT":
        intent = " ".join(part for value in act.values for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", value)).lower()
        return f"offers to {intent}", lambda text: phrases.offers_to(text, vocabulary(intent) - FUNCTION_WORDS)
    if act.values:
        checks = [_states(act, value, acts, reference, last_user) for value in act.values]
        label = f"states {slot} {' and '.join(act.values)}"
        if act.act == "CONFIRM" and phrases.asks_to_confirm(reference):
            return label, lambda text: _mean(checks, text) * (1 if phrases.asks_to_confirm(text) else 0.7)
        return label, lambda text: _mean(checks, text)
    by_phrase = {
        "NOTIFY_SUCCESS": ("says it is done", phrases.says_done),
        "NOTIFY_FAILURE": ("says it failed", phrases.says_failed),
        "REQ_MORE": ("asks what else", phrases.asks_what_else),
        "GOODBYE": ("says goodbye", phrases.says_goodbye),
    }
    return by_phrase.get(act.act, (f"{act.act.lower()} {slot}".strip(), _nothing_known))


def _mean(checks: list[Check], text: Text) -> float:
    return sum(check(text) for check in checks) / len(checks)


def _asks_for(act: Act, acts: list[Act], reference: Text) -> Check:
    kind = kind_of(act.slot)
    named, asked = KINDS.get(kind, (frozenset(), frozenset()))
    own = vocabulary(act.slot.replace("_", " ")) - NAME_FILLER - frozenset(["name", "number"])
    topic = slot_words(act.slot) - FUNCTION_WORDS - frozenset(["name", "number", "type", "kind", "category"])
    counted = next((family for family in COUNTED if family & own), own)
    uncounted = frozenset().union(*COUNTED) - counted
    values = [line_of(words_of(value)) for value in act.values]
    # Two dates or two places asked for at once must be told apart.
    twins = [a for a in acts if a.act == "REQUEST" and a.slot != act.slot and kind_of(a.slot) == kind and kind]
    telling = slot_words(act.slot) - named - frozenset().union(*(slot_words(a.slot) for a in twins))
    context = frozenset(w for s in reference.sentences if s.asks for w in s.words) - STOCK_WORDS

    def names(words: list[str]) -> float:
        present = frozenset(words)
        if kind == "number":
            if "many" in present:
                after = words[words.index("many") + 1 :][:2]
                return 0.0 if not uncounted.isdisjoint(after) else 1.0
            return 1.0 if present & asked and (present & counted or not present & uncounted) else 0.0
        if kind in ("date", "time", "place", "price"):
            found = present & asked
            if not _ASK_ALONE.isdisjoint(found):
                return 1.0
            return max((_focus(words, word) for word in found | present & topic & named), default=0.0)
        if kind == "kind":
            if present & topic:
                return 1.0
            return 0.0 if not present & asked else 1.0 if present & context else 0.6
        if kind == "name":
            return max([0.0, *(_focus(words, word) for word in present & topic), 0.6 if present & named else 0.0])
        return len(present & own) / len(own) if present & own else 0.8 if present & topic else 0.0

    def check(text: Text) -> float:
        best = 0.0
        for sentence in text.sentences:
            if sentence.asks:
                line = line_of(sentence.words) if values else ""
                score = 1.0 if any(value in line for value in values) else names(sentence.words)
            else:
                score = 0.25 * names(sentence.words)
            if twins and score and telling.isdisjoint(sentence.words):
                score *= 0.6
            best = max(best, score)
        if best == 0.6 and sum(not asked.isdisjoint(s.words) for s in text.sentences if s.asks) > len(twins):
            return 1.0
        return best

    return check


def _focus(words: list[str], word: str) -> float:
    """How plainly a question is about `word`: "which city" asks for it, "do you like the city" hardly."""
    at = words.index(word)
    before = words[max(0, at - 4) : at]
    plain = len(words) <= 4 or not _ASK_NEAR.isdisjoint(before) or not _ASK_ANYWHERE.isdisjoint(words)
    return 1.0 if plain else 0.5


def _states(act: Act, value: str, acts: list[Act], reference: Text, last_user: Text) -> Check:
    if value.lower() in ("true", "false"):
        return _says_yes_or_no(act, value.lower() == "true", last_user)
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
        if found < 1:
            return 0.6 * found
        return 0.9 if _within(content, text.words, len(words) + 3) else 0.6

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


def _within(wanted: list[str], words: list[str], window: int) -> bool:
    return any(all(w in words[i : i + window] for w in wanted) for i in range(max(1, len(words) - window + 1)))


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
    """The slot's words, things counted in its place, and what follows the number in the reference."""
    words = slot_words(act.slot)
    words = words.union(*(family for family in COUNTED if family & words))
    after = (reference.masked[at + 1 : at + 2] for at, word in enumerate(reference.masked) if word == number)
    return words.union(*after) - FUNCTION_WORDS


def _distance(words: list[str], at: int, wanted: frozenset[str]) -> float:
    """How far the nearest of the wanted words is; one that follows counts as nearer than one before."""
    return min((i - at - 0.5 if i > at else at - i for i, word in enumerate(words) if word in wanted), default=9)


_AGREES = re.compile(r"^\W*(?:yes|yeah|yep|yup|they do|it is|it does|there is)\b")
_CLAUSE = re.compile(r"[,;:.!?]| but | and | or ")


def _says_yes_or_no(act: Act, value: bool, last_user: Text) -> Check:
    topic = slot_words(act.slot) - FUNCTION_WORDS
    was_asked = not topic.isdisjoint(last_user.set)

    def check(text: Text) -> float:
        best = 0.0
        for sentence in text.sentences:
            if sentence.asks and act.act == "INFORM":
                continue
            named = not topic.isdisjoint(sentence.words)
            if named and not sentence.denies:
                best = max(best, float(value))
            elif named:
                for clause in _CLAUSE.split(sentence.plain):
                    words = words_of(clause)
                    if not topic.isdisjoint(words):
                        best = max(best, float(NEGATION.isdisjoint(words) == value))
            elif (
                was_asked and (sentence.denies or _AGREES.search(sentence.plain)) and "no problem" not in sentence.plain
            ):
                best = max(best, 0.8 * (sentence.denies != value))
        return best

    return check


def _nothing_known(text: Text) -> float:
    return 0.0
