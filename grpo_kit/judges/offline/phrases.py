"""Acts told by their set phrases: it is done, it failed, anything else?, goodbye, shall I?, please confirm.

Each check takes a reply and returns a number in [0, 1].
"""

import re

from grpo_kit.judges.offline.wording import VOCABULARY, Text, stem, vocabulary

_CONFIRMS = re.compile(
    r"\?|confirm|correct|\bright\b|\bsure\b|verify|check|details|following|\b(?:is that|shall i|should i|so,? you)\b"
    r"|\byou (?:would |will )?(?:like|want|need|wish|prefer)"
)
_OFFERS = re.compile(
    r"\b(?:would|do|did|will|if|are|is) you\b.*\b(?:like|want|wish|need|care|ready|prefer|interested|mind|have)\b"
    r"|\b(?:shall|should|may|can|could|will|whether) i\b|\bwant (?:me )?to\b|\bwanna\b|\blike me to\b|\bhow about\b"
    r"|\blet me know\b|\bwould you\b"
)
_DONE = re.compile(
    r"\b(?:booked|reserved|confirmed|purchased|bought|scheduled|made|placed|done|completed?|success\w*|secured|started"
    r"|playing|play|begun|set|arranged|finali[sz]ed|processed|obtained|acquired|ordered|got|gotten|rented|transferred"
    r"|sent|added|paid|ready|good to go|on (?:its|it's|the|their) way|went through|taken care|enjoy|approved|accepted"
    r"|created|saved|issued|finished|starting|coming|able to|managed to)\b"
)
_DENIED = re.compile(r"\b(?:not|never|unable|fail\w*|no (?!problem|worr))\b")
_CLAIMS_DONE = re.compile(
    r"^\W*(?:all )?(?:booked|reserved|confirmed|done)\b"
    r"|\b(?:have|has|is|are|was|were|been|'s|i|we|successfully|done|it)\b[, ]*(?:\w+ ){0,2}?"
    r"(?:booked|reserved|confirmed|purchased|bought|scheduled|secured|successful|completed|done|paid)\b"
)
_COULD_NOT = re.compile(
    r"\b(?:could|can|did|was|were|is|are|am|has|have|will)(?:not| not)\b|\bnot (?:able|available|possible)"
    r"|\b(?:fail|unable|unsuccessful|unavailable|crashed|declined|impossible|fully booked)"
    r"|\bno (?:\w+ ){0,3}(?:available|availability|for that|at that)"
    r"|\b(?:is|was|are|were|all|completely) (?:\w+ )?(?:full|booked up)\b"
)
_MORE = re.compile(
    r"\b(?:any|some|what|any ?thing|some ?thing|any ?way)\b.*\b(?:else|more|other|further|additional)\b"
    r"|\b(?:else|more|other|further|additional)\b.*\b(?:help|assist\w*|need|do|want)\b"
    r"|\bfurther\b|\banything\b.*\b(?:help|assist|do)\b"
)
_BYE = re.compile(
    r"\b(?:good ?bye|bye|farewell|see you|take (?:care|it easy)|enjoy\w*|have (?:fun|a blast)|until we"
    r"|safe (?:trip|travels?|journey|flight)"
    r"|(?:an?|good|great|excellent|nice|wonderful|lovely|fantastic|pleasant|amazing|awesome|fun|happy|better|beautiful"
    r"|fine) (?:\w+ )?(?:one|day|night|evening|afternoon|morning|weekend|time|trip|rest|meal|lunch|dinner"
    r"|stay|week|journey|ride|visit|travels?))\b"
)
_PLAINLY_BYE = re.compile(
    r"\b(?:good ?bye|bye|farewell|take care|have an? (?:\w+ ){1,2}(?:one|day|night|evening|afternoon|weekend))\b"
)


_DOING = [vocabulary(words) for words in VOCABULARY["doing"]]


def asks_to_confirm(text: Text) -> bool:
    return _CONFIRMS.search(text.plain) is not None


def offers_to(text: Text, intent: frozenset[str]) -> float:
    """1 where the reply offers to do what the words of an intent's name say ("reserve", "restaurant")."""
    doing = intent.union(*(words for words in _DOING if words & intent))
    best = 0.0
    for sentence in text.sentences:
        offers = "?" in sentence.plain or _OFFERS.search(sentence.plain) is not None
        topical = not doing.isdisjoint(sentence.words)
        best = max(best, 0.1 * offers + 0.3 * topical + 0.6 * (offers and topical))
    return best


def says_done(text: Text) -> float:
    for sentence in text.sentences:
        done = None if sentence.asks else _DONE.search(sentence.plain)
        if done and not _DENIED.search(sentence.plain, 0, done.start()):
            return 1.0
    return 0.0


def says_failed(text: Text) -> float:
    return float(any(_COULD_NOT.search(sentence.plain) for sentence in text.sentences))


def asks_what_else(text: Text) -> float:
    return float(any(_MORE.search(sentence.plain) for sentence in text.sentences))


def says_goodbye(text: Text) -> float:
    return float(_BYE.search(text.plain) is not None)


_TELL = vocabulary("tell specify provide know give")
_ASK_WORDS = {stem("where"): "place", stem("many"): "number", stem("much"): "price"}
_ASK_NOUNS = {word: kind for kind, words in VOCABULARY["asked_nouns"].items() for word in vocabulary(words)}


def _kinds_asked(words: list[str]) -> set[str]:
    """Kinds of slot that a question asks for in so many words: "what city and date" -> place, date."""
    found = set()
    asked_at = -9
    for i, word in enumerate(words):
        if word in ("what", "which") or word in _TELL:
            asked_at = i
        elif word in _ASK_NOUNS and i - asked_at <= 4:
            found.add(_ASK_NOUNS[word])
            asked_at = i  # "what city, date and time" goes on asking
        elif word in _ASK_WORDS and (i < 3 or words[i - 1] in ("and", "how")):
            found.add(_ASK_WORDS[word])
    return found


def plainly_does(text: Text) -> set[str]:
    """Acts that the reply performs beyond doubt, as names of acts and kinds of slot asked for (see acts.kind_of)."""
    found = set()
    for sentence in text.sentences:
        plain = sentence.plain
        if _PLAINLY_BYE.search(plain):
            found.add("GOODBYE")
        if _MORE.search(plain):
            found.add("REQ_MORE")
        if sentence.asks:
            found |= _kinds_asked(sentence.words)
        elif _COULD_NOT.search(plain):
            found.add("NOTIFY_FAILURE")
        elif _CLAIMS_DONE.search(plain) and "confirm " not in plain:
            found.add("NOTIFY_SUCCESS")
    return found


def seems_to_do(text: Text) -> set[str]:
    """Acts that the reply may be taken to perform: one too many is normal ("enjoy!"), several are not."""
    found = {
        act
        for act, check in (("GOODBYE", says_goodbye), ("REQ_MORE", asks_what_else), ("NOTIFY_SUCCESS", says_done))
        if check(text) == 1
    }
    if any(sentence.asks for sentence in text.sentences):
        found.add("a question")
    return found
