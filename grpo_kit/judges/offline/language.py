"""Whether a sample is in English, the one language that the offline judge's rules were made for."""

import regex

from grpo_kit.data.samples import Sample, messages_of
from grpo_kit.judges.offline.wording import VOCABULARY

FEWEST = 6  # words by which it can be told
SHARE = 0.08  # of English text at least every twelfth word tells, of other languages' hardly one in a hundred
_TELLS = dict.fromkeys(VOCABULARY["english_only"].split(), 1) | dict.fromkeys(VOCABULARY["german_or_dutch"].split(), -1)
_WORD, _LETTER = regex.compile(r"[^\W\d_]{2,}"), regex.compile(r"\p{L}")
_LATIN = regex.compile(r"\p{Latin}")


def is_english(sample: Sample) -> bool:
    """Whether what user, assistant and reference say is English, or too little to tell.

    It is not where most letters, of all of it or of the reference alone, are of another script than Latin, or where
    fewer than SHARE of its words are English function words that no neighbour has. So an English conversation with a
    reference in another language of Latin script passes for English, and so do fewer than FEWEST words.
    """
    said = (each["content"] for each in messages_of(sample.prompt) if each["role"] in ("user", "assistant"))
    text = " ".join([*said, sample.ground_truth])
    if not (_is_latin(text) and _is_latin(sample.ground_truth)):
        return False
    found = _WORD.findall(text.lower())
    return len(found) < FEWEST or sum(_TELLS.get(word, 0) for word in found) >= SHARE * len(found)


def _is_latin(text: str) -> bool:
    return text.isascii() or 2 * len(_LATIN.findall(text)) >= len(_LETTER.findall(text))
