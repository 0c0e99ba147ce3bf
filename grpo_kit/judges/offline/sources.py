"""The sources of an answer's words: its own, copied from what it was given, or made up."""

import re

from grpo_kit.data.samples import Sample, messages_of, said_in
from grpo_kit.judges.offline.wording import STOCK_WORDS, VOCABULARY, Text, line_of, stem, vaguely, words_of

_NAME = re.compile(r"(?<=[\w,;] )[A-Z][\w'’&-]*(?: [A-Z][\w'’&-]*)*")  # capitals within a sentence
_DAYS_AND_MONTHS = {stem(word): word for word in VOCABULARY["days_and_months"].split()}


class Sources:
    """All that can be known and copied when a sample is answered."""

    def __init__(self, sample: Sample, reference: Text, required: frozenset[str]):
        """`required` are the words of the reference and of the acts' values."""
        self.reference = reference.line
        messages = messages_of(sample.prompt)
        # A message that only calls a tool is no turn of the assistant's.
        said = [(m["role"] == "assistant" and m["content"] != "", words_of(said_in(m))) for m in messages]
        self.heard_words = required.union(STOCK_WORDS, *(words for _, words in said))
        # "5:30 pm" and "$5" make "5:30" and "5" known, but "5 pm" says nothing of five people.
        forms = (form for word in self.heard_words for form, share in vaguely(word).items() if share >= 0.8)
        self.known = self.heard_words.union(forms)
        self.ordinary = self.known.union(_DAYS_AND_MONTHS, ("am", "pm"))  # which no name is made of
        self.prompt = line_of(word for _, words in said for word in words)
        # An assistant may repeat its own earlier turns ("Anything else?"), apart from the last.
        own = [words for is_own, words in said if is_own]
        self.said_before = [line_of(words) for words in own[:-1]]
        heard = [words for is_own, words in said if not is_own] + own[-1:]
        self.heard = [line_of(words) for words in (words_of(sample.task_description), *heard) if words]

        # A rubric says "say goodbye" and "state: the fare is 5", which no reply does; but "the fare is 5" is one.
        self.rubric = line_of(words_of(sample.rubric))
        clauses = [clause.strip() for clause in sample.rubric.lower().split(";")]
        self.verbs = {words[0] for clause in clauses if (words := words_of(clause))}
        orders = {clause.partition(":")[0] + ":" * (":" in clause) for clause in clauses if clause}
        self.orders = [
            order for order in orders if not STOCK_WORDS.issuperset(words_of(order)) and order not in reference.plain
        ]

    def made_up(self, text: Text) -> list[str]:
        """Numbers, times, days and names that nobody said."""
        invented = [
            _DAYS_AND_MONTHS.get(word, word.removesuffix("h"))
            for word in dict.fromkeys(text.masked)
            if (word[0] in "$0123456789" and word != "1") or word in _DAYS_AND_MONTHS
            if word not in self.known and self.heard_words.isdisjoint(vaguely(word))
        ]
        names = _NAME.findall(text.raw)
        if sum(map(len, names)) > len(text.raw) / 2:  # a title, or all in capitals
            return invented
        for name in names:
            words = [(word, stemmed) for word in name.lower().split() for stemmed in words_of(word)]
            strange = [word for word, stemmed in words if stemmed[0].isalpha() and stemmed not in self.ordinary]
            if strange:
                invented.append(" ".join(dict.fromkeys(strange)))
        return invented

    def is_copy(self, text: Text) -> bool:
        """Whether an answer only says again what it was given, unless the reference says it too."""
        if text.line in self.reference:
            return False
        if any(order in text.plain for order in self.orders):
            return True
        if text.line in self.rubric and text.words[0] in self.verbs:
            return True
        length = len(text.words)
        if any(text.line in source and (length > 2 or text.line == source) for source in self.heard):
            return True
        several_turns = length > 5 and text.line in self.prompt
        return several_turns and not any(text.line in said for said in self.said_before)
