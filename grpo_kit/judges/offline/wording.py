"""Text made comparable: words without their endings, numbers and times in one spelling, questions told apart.

Plain English only: nothing in here is particular to a data set. Words and patterns are in vocabulary.toml.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from snowballstemmer.english_stemmer import EnglishStemmer

VALUE = "¤"  # stands where a value was taken out of a text
VOCABULARY = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8"))
PATTERNS = {name: re.compile("|".join(alternatives)) for name, alternatives in VOCABULARY["patterns"].items()}

_NUMBERS = {word: str(number) for number, word in enumerate(VOCABULARY["numbers"].split())}
_SPELLINGS = [(re.compile(pattern), spelling) for pattern, spelling in VOCABULARY["spellings"].items()]
_STRAIGHT = str.maketrans("’‘`£€", "'''$$")
_CLOCK = re.compile(
    rf"\b(\d{{1,2}}|{'|'.join([*_NUMBERS][1:])})(?::(\d\d))?(?: o'?clock)? ?"
    r"(?:(a\.?m\b\.?|in the morning\b)|p\.?m\b\.?|in the (?:afternoon|evening)\b|at night\b)"
)
_24_HOURS = re.compile(r"(?<![\d:])(0|1[3-9]|2\d):(\d\d)(?![\d:h])")  # 5:30 may be either half of the day
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\$?\d+(?:[.,:]\d+)*h?(?:st|nd|rd|th)?\b|[^\W_]+(?:'[^\W_]+)?")
_NUMBER_ENDINGS = re.compile(r",|(?:st|nd|rd|th|\.00?)$")
_EXACT_TIME = re.compile(r"(\d+):(\d\d)h")


def _plain(text: str) -> str:
    """Lower case, straight quotes, no accents, one spelling of short forms and dollars."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(_STRAIGHT))
        text = "".join(c for c in text if not unicodedata.combining(c))
    text = text.lower()
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return text


def _clock(match: re.Match) -> str:
    hour = int(_NUMBERS.get(str(match[1]), str(match[1])))
    if hour <= 12:
        hour = hour % 12 + (0 if match[3] else 12)
    return f" {hour}:{match[2] or '00'}h "


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The word without its endings, so that "tickets" is "ticket": by Porter's second English stemmer (Snowball)."""
    if word[0] in "$0123456789":
        return _NUMBER_ENDINGS.sub("", word)
    word = word.removesuffix("'s").replace("'", "")
    return _NUMBERS.get(word) or EnglishStemmer().stemWord(word)  # one each time: it is not for several threads


def _words(plain: str) -> list[str]:
    """Its words, with times of day as 17:30h; one that may mean either half of the day stays 5:30."""
    return [stem(word) for word in _WORD.findall(_24_HOURS.sub(r"\1:\2h", _CLOCK.sub(_clock, plain)))]


def words_of(text: str) -> list[str]:
    """The text's words, stemmed, with times and numbers in one spelling."""
    return _words(_plain(text))


def vocabulary(text: str) -> frozenset[str]:
    """The words of `text` as they appear in any text made comparable."""
    return frozenset(words_of(text))


FUNCTION_WORDS = vocabulary(VOCABULARY["function"])
STOCK_WORDS = FUNCTION_WORDS | vocabulary(VOCABULARY["stock"])
CUT_SHORT = vocabulary(VOCABULARY["cut_short"])  # no finished reply ends with one of these
_ASKING, _NEGATION = vocabulary(VOCABULARY["asking"]), vocabulary(VOCABULARY["negation"])
_KIND_OF = {word: kind for kind, words in VOCABULARY["small_words"].items() for word in vocabulary(words)}
_KIND_OF[VALUE] = "value"
_CLASHES = {(first, second) for first, seconds in VOCABULARY["cannot_follow"].items() for second in seconds.split()}


def vaguely(word: str) -> dict[str, float]:
    """Other ways to say a price or a time, with how much of it they say: "5:30", or "at 5", for 17:30h."""
    if word[0] == "$":
        return {word[1:]: 0.8}
    if time := _EXACT_TIME.fullmatch(word):
        hour = (int(time[1]) - 1) % 12 + 1
        return {f"{hour}:{time[2]}": 0.9} | ({str(hour): 0.6} if time[2] == "00" else {})
    return {}


class Sentence:
    """One sentence: its words, its plain lower-case text, whether it asks and whether it denies something."""

    def __init__(self, plain: str, values: Iterable[str]):
        self.plain = plain
        self.words = _words(plain)
        line = line_of(self.words)
        for value in values:
            line = line.replace(value, f" {VALUE} ")
        self.masked = line.split()
        # "city, date, time?" is no question
        asks = PATTERNS["asks"].search(plain) is not None
        self.asks = asks and (len(self.words) < 4 or not _ASKING.isdisjoint(self.words))
        self.denies = not _NEGATION.isdisjoint(self.words)


class Text:
    """A text made comparable, sentence by sentence and as a whole. `values` are lines such as " new york ", the longest
    first, that are taken out of `masked` as one `¤` each."""

    def __init__(self, raw: str, values: Iterable[str] = ()):
        self.raw = raw.strip()
        self.plain = _plain(self.raw)
        self.sentences = [Sentence(part, values) for part in _SENTENCE.split(self.plain) if part]
        self.words = [word for sentence in self.sentences for word in sentence.words]
        self.set = frozenset(self.words)
        self.line = line_of(self.words)
        self.masked = [word for sentence in self.sentences for word in sentence.masked]

    def disorder(self) -> float:
        """The share, in [0, 1], of neighbouring words that English hardly ever puts side by side: "the of". Real
        replies stay below 0.15, shuffled ones lie around 0.3. Pairs that no small word is part of do not count."""
        clashes = pairs = 0
        for sentence in self.sentences:
            kinds = ["^", *(_KIND_OF.get(word, "") for word in sentence.masked), "$"]
            for pair in pairwise(kinds):
                pairs += any(kind not in ("", "^", "$", "value") for kind in pair)
                clashes += pair in _CLASHES
        return clashes / max(4, pairs)


def line_of(words: Iterable[str]) -> str:
    """The words as one text with a blank on either side, so that whole words can be searched for in it."""
    return f" {' '.join(words)} "
