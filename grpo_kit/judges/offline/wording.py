"""Text made comparable: words without their endings, numbers and times in one spelling, questions told apart.

Plain English only: nothing in here is particular to a data set.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from snowballstemmer.english_stemmer import EnglishStemmer

VALUE = "¤"  # stands where a value was taken out of a text

_NUMBERS: dict[str, str] = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve couple".split(),
        [*map(str, range(13)), "2"],
        strict=True,
    )
)
_MAY_HOLD_TIME = re.compile(r"\d|noon\b|midnight|\b[ap]\.?m\b|o'?clock|in the (?:morning|afternoon|evening)")
_HOUR = rf"\b(\d{{1,2}}|{'|'.join([*_NUMBERS][1:13])})(?::(\d\d))?(?: o'?clock)? ?"
_CLOCK = re.compile(_HOUR + r"([ap])(?:m\b|\.m\.)")
# Not "for 2 in the evening", which may be two people.
_DAYTIME = re.compile(rf"(?<!for ){_HOUR}(in the morning|in the afternoon|in the evening|at night)\b")
_DOLLARS = re.compile(r"\$?(\d[\d,]*(?:\.\d+)?) (?:us )?dollars?")
_PLAIN = str.maketrans("’‘`£€", "'''$$")
_LONG_FORMS = {
    "can't": "can not",
    "won't": "will not",
    "n't": " not",
    "'re": " are",
    "'m": " am",
    "'ve": " have",
    "'ll": " will",
    "'d": " would",
}
_SHORT_FORM = re.compile(r"(?:\b(?:can't|won't)|n't|'(?:re|m|ve|ll|d))\b")
_COLON = re.compile(r"(?<![\d:])(\d{1,2}):(\d\d)(?![\d:h])")
_MIDDAY = re.compile(r"\bnoon\b")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\$?\d+(?:[.,:]\d+)*h?(?:st|nd|rd|th)?\b|[^\W_]+(?:'[^\W_]+)?")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")

# A sentence that wants something from the user, even where it has lost its question mark.
_ASKS = re.compile(
    r"[?]\W*$|^(?:\W|sure|ok|okay|and|so|great|alright|all right|also|then|well|perfect|absolutely|of course)*"
    r"(?:(?:(?:in|on|at|for|from|to|by|until) )?(?:what|which|when|where|who|how)\b"
    r"|(?:do|does|did|is|are|can|could|will|would|shall|should|may|might|any|have) )"
    r"|\bplease,? (?:kindly )?(?:tell|specify|provide|give|choose|let|share|enter|indicate|name|select|pick|say)\b"
    r"|\b(?:let me|to|me) know\b|\b(?:tell|give) me\b|\bspecify\b"
    r"|\bi (?:will )?(?:also )?need (?:to know|the|your)\b"
    r"|\bplease\W*$"
)


def _plain(text: str) -> str:
    """Lower case, straight quotes, no accents, short forms in full."""
    if not text.isascii():
        text = text.translate(_PLAIN)
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = text.lower()
    if "dollar" in text:
        text = _DOLLARS.sub(r"$\1", text)
    if "'" in text:
        text = _SHORT_FORM.sub(lambda match: _LONG_FORMS[match[0]], text)
    return text


def _clock(match: re.Match) -> str:
    hour, minute = int(_NUMBERS.get(str(match[1]), str(match[1]))), int(match[2] or 0)
    if hour <= 12:
        hour = hour % 12 + 12 * (match[3] not in ("a", "in the morning"))
    return f" {hour}:{minute:02}h "


def _colon(match: re.Match) -> str:
    hour = int(match[1])
    # 5:30 may be either half of the day; 17:30 and 0:30 cannot
    return f"{hour}:{match[2]}" + ("h" if hour > 12 or hour == 0 else "")


def _times(text: str) -> str:
    """Times of day as 17:30h; one that may mean either half of the day stays 5:30."""
    text = _DAYTIME.sub(_clock, _CLOCK.sub(_clock, text))
    if ":" in text:
        text = _COLON.sub(_colon, text)
    return text


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The word without its endings, so that "tickets" is "ticket": by Porter's second English stemmer (Snowball)."""
    if word[0] in "$0123456789":
        if word.endswith("h"):
            return word
        ordinal = _ORDINAL.fullmatch(word)
        word = ordinal[1] if ordinal else word.replace(",", "")
        return word.removesuffix(".00").removesuffix(".0")
    word = word.removesuffix("'s").replace("'", "")
    return _NUMBERS.get(word) or EnglishStemmer().stemWord(word)  # one each time: it is not for several threads


def _words(plain: str) -> list[str]:
    if _MAY_HOLD_TIME.search(plain):
        plain = _times(_MIDDAY.sub("12:00 pm", plain).replace("midnight", "12:00 am"))
    return [stem(word) for word in _WORD.findall(plain)]


def words_of(text: str) -> list[str]:
    """The text's words, stemmed, with times and numbers in one spelling."""
    return _words(_plain(text))


def vocabulary(text: str) -> frozenset[str]:
    """The words of `text` as they appear in any text made comparable."""
    return frozenset(words_of(text))


VOCABULARY = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8"))
FUNCTION_WORDS = vocabulary(VOCABULARY["function"])
STOCK_WORDS = FUNCTION_WORDS | vocabulary(VOCABULARY["stock"])
_ASKING, _NEGATION = vocabulary(VOCABULARY["asking"]), vocabulary(VOCABULARY["negation"])


class Sentence:
    """One sentence: its words, its plain lower-case text, whether it asks and whether it denies something."""

    __slots__ = ("asks", "denies", "masked", "plain", "words")

    def __init__(self, plain: str, values: Iterable[str]):
        self.plain = plain
        self.words = _words(plain)
        self.masked = masked(line_of(self.words), values)
        # "city, date, time?" is no question
        self.asks = _ASKS.search(plain) is not None and (len(self.words) < 4 or not _ASKING.isdisjoint(self.words))
        self.denies = not _NEGATION.isdisjoint(self.words)


class Text:
    """A text made comparable, sentence by sentence and as a whole.

    `values` are lines such as " new york ", the longest first, that are taken out of `masked` as one `¤` each;
    `bare` is without the single words of `names` too.
    """

    def __init__(self, raw: str, values: Iterable[str] = (), names: frozenset[str] = frozenset()):
        self.raw = raw.strip()
        self.plain = _plain(self.raw)
        self.sentences = [Sentence(part, values) for part in _SENTENCE.split(self.plain) if part]
        self.words = [word for sentence in self.sentences for word in sentence.words]
        self.set = frozenset(self.words)
        self.line = line_of(self.words)
        self.masked = [word for sentence in self.sentences for word in sentence.masked]
        self.bare = [VALUE if word in names else word for word in self.masked]


def line_of(words: Iterable[str]) -> str:
    """The words as one text with a blank on either side, so that whole words can be searched for in it."""
    return f" {' '.join(words)} "


def masked(line: str, values: Iterable[str]) -> list[str]:
    """The words of a line with each of the values (" new york ", the longest first) taken out as one `¤`."""
    for value in values:
        if value in line:
            line = line.replace(value, f" {VALUE} ")
    return line.split()
