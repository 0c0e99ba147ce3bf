"""Words and ends of sentences in any script, by Unicode's properties and boundaries (UAX #29), through `regex`.

Where a script has blanks between words they are counted, so English counts as ever: "well-known" is one word. In
Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan text, words lie between Unicode's word boundaries, which need
no dictionary: a word is one ideograph, one hiragana, a run of katakana, or one letter of Thai with its vowel signs.
Such counts can be compared with each other, and not with English ones.
"""

import regex

_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Line_Break=Complex_Context}\p{Tibetan}]")
_BOUNDARY = regex.compile(r"\b", regex.VERSION1 | regex.WORD)
_SAYS = regex.compile(r"\w")
# Greek asks with a semicolon, which ends no sentence elsewhere. A brace closes code, not speech.
_CLOSED = regex.compile(
    r"(?:[\p{Sentence_Terminal}…]|\p{Greek}[;\u037e])[[\p{Pe}--}]\p{Pi}\p{Pf}\"']*$", regex.VERSION1
)
_GOES_ON = regex.compile(r"[,:;\p{Pd}\p{Ps}]$")
_LETTER, _UNMARKED = regex.compile(r"\p{L}"), regex.compile(r"[\p{Thai}\p{Lao}\p{Tibetan}&&\p{L}]", regex.VERSION1)


def words(text: str) -> list[str]:
    """The words of `text`, in order."""
    if text.isascii() or not _UNSPACED.search(text):
        return text.split()
    found = []
    for part in text.split():
        found += filter(_SAYS.search, _BOUNDARY.split(part)) if _UNSPACED.search(part) else [part]
    return found


def is_finished(text: str) -> bool:
    """Whether `text` ends as a sentence does: with a mark of any script, and closing quotes or brackets after it.

    Thai, Lao and Tibetan sentences end without such a mark, so text that is mostly theirs is finished unless it ends in
    a comma, colon, dash or opening bracket.
    """
    text = text.rstrip()
    if _CLOSED.search(text):
        return True
    if text.isascii() or _GOES_ON.search(text):
        return False
    return 2 * len(_UNMARKED.findall(text)) > len(_LETTER.findall(text))
