"""Acts told by their set phrases, which are in vocabulary.toml: it is done, it failed, anything else?, goodbye."""

from grpo_kit.judges.offline.wording import PATTERNS, VOCABULARY, Sentence, Text, stem, vocabulary

# By act, the name of its pattern, and that of the phrases which perform it beyond doubt.
_PHRASES = {
    "NOTIFY_SUCCESS": ("done", "plainly_done"),
    "NOTIFY_FAILURE": ("failed", "failed"),
    "REQ_MORE": ("what_else", "what_else"),
    "GOODBYE": ("goodbye", "plainly_goodbye"),
}
_DOING = [vocabulary(words) for words in VOCABULARY["doing"]]
_TELL = vocabulary("what which tell specify provide know give")
_ASK_WORDS = {stem("where"): "place", stem("many"): "number", stem("much"): "price"}
_ASK_NOUNS = {word: kind for kind, words in VOCABULARY["asked_nouns"].items() for word in vocabulary(words)}


def _performs(act: str, sentence: Sentence, plainly: bool) -> bool:
    said = sentence.plain
    if act == "NOTIFY_SUCCESS":
        said = "" if sentence.asks else PATTERNS["denied"].split(said)[0]  # "it is done", not "it is not done"
    return PATTERNS[_PHRASES[act][plainly]].search(said) is not None


def performs(act: str, text: Text) -> bool:
    """Whether the reply has a set phrase of the act. False for an act that has none."""
    return act in _PHRASES and any(_performs(act, sentence, plainly=False) for sentence in text.sentences)


def confirms(text: Text) -> bool:
    """Whether the reply has a phrase that confirms, such as a question."""
    return PATTERNS["confirms"].search(text.plain) is not None


def offers_to(text: Text, intent: frozenset[str]) -> float:
    """1 where the reply offers to do what the words of an intent's name say ("reserve", "restaurant")."""
    doing = intent.union(*(words for words in _DOING if words & intent))
    best = 0.0
    for sentence in text.sentences:
        offers = PATTERNS["offers"].search(sentence.plain) is not None
        topical = not doing.isdisjoint(sentence.words)
        best = max(best, 0.1 * offers + 0.3 * topical + 0.6 * (offers and topical))
    return best


def _kinds_asked(words: list[str]) -> set[str]:
    """Kinds of slot that a question asks for in so many words: "what city and date" -> place, date."""
    found, asked_at = set(), -9
    for i, word in enumerate(words):
        if word in _TELL:
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
        found |= {act for act in _PHRASES if _performs(act, sentence, plainly=True)}
        if sentence.asks:
            found |= _kinds_asked(sentence.words)
    return found


def seems_to_do(text: Text) -> set[str]:
    """Acts that the reply may be taken to perform: one too many is normal ("enjoy!"), several are not."""
    found = {act for act in ("GOODBYE", "REQ_MORE", "NOTIFY_SUCCESS") if performs(act, text)}
    return found | ({"a question"} if any(sentence.asks for sentence in text.sentences) else set())


def pleas(raw: str) -> set[str]:
    """The phrases that speak to a judge."""
    return set(PATTERNS["plea"].findall(raw.lower()))


def speaks_for_others(text: Text) -> bool:
    """Whether the reply holds another speaker's label, a tag, or what only a user asks for."""
    return PATTERNS["other_speaker"].search(text.raw.lower()) is not None
