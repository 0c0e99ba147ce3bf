"""A measure of small words that stand in an order that English does not have."""

from itertools import pairwise

from grpo_kit.judges.offline.wording import VALUE, VOCABULARY, Text, vocabulary

_KIND_OF = {word: kind for kind, words in VOCABULARY["small_words"].items() for word in vocabulary(words)}
_KIND_OF[VALUE] = "value"
_CLASHES = {(first, second) for first, seconds in VOCABULARY["cannot_follow"].items() for second in seconds.split()}


def disorder(text: Text) -> float:
    """The share, in [0, 1], of a text's neighbouring words that English hardly ever puts side by side: "the of".

    Real replies stay below 0.15, shuffled ones lie around 0.3. Pairs that no small word is part of do not count.
    """
    clashes = pairs = 0
    for sentence in text.sentences:
        kinds = ["^", *(_KIND_OF.get(word, "") for word in sentence.masked), "$"]
        for pair in pairwise(kinds):
            pairs += any(kind not in ("", "^", "$", "value") for kind in pair)
            clashes += pair in _CLASHES
    return clashes / max(4, pairs)
