"""The kind of thing that a slot is and the words by which people speak of it, told by its name."""

from grpo_kit.judges.offline.wording import VOCABULARY, vocabulary, words_of

# By kind, the words by which a slot's name shows that it is of this kind, and those that ask for such a thing.
KINDS = {kind: (vocabulary(words["named"]), vocabulary(words["asked"])) for kind, words in VOCABULARY["slots"].items()}
_FILLER = vocabulary(VOCABULARY["name_filler"])


def kind_of(slot: str) -> str | None:
    """The kind of a slot, told by its name's last words: "pickup_date" is a date, "number_of_riders" a number."""
    words = words_of(slot.replace("_", " "))
    if words and words[0] == "number":
        return "number"
    for word in reversed(words):
        for kind, (named, _) in KINDS.items():
            if word in named:
                return kind
    return None


def slot_words(slot: str) -> frozenset[str]:
    """The words of a slot's name by which a sentence can show that it speaks of it."""
    return vocabulary(slot.replace("_", " ")) - _FILLER
