"""What the name of a slot tells about it: what kind of thing it is, and the words by which people speak of it."""

from grpo_kit.judges.offline.wording import stem, vocabulary, words_of

# Kinds of slot: the words by which a slot's name shows its kind, and the words that ask for such a thing.
KINDS = {
    "date": ("date day", "date day when long until"),
    "time": ("time hour", "time when hour"),
    "place": (
        "city location place origin destination area where address neighborhood town station airport venue country "
        "state region",
        "where city town area place location destination region neighborhood address",
    ),
    "number": (
        "number size count quantity people person guest rider passenger traveler seat ticket adult night room "
        "member player",
        "many number quantity size",
    ),
    "price": ("price fare cost amount budget rent fee balance", "much price cost budget fare amount rate expensive"),
    "kind": ("type category genre kind class cuisine style", "type kind sort category style class"),
    "name": ("name title", "name title"),
}
KINDS = {kind: (vocabulary(named), vocabulary(asked)) for kind, (named, asked) in KINDS.items()}
_SYNONYMS = {
    "cuisine": "cuisine food cook",
    "restaurant": "restaurant place diner eatery cafe",
    "event": "event game show concert match team artist band performance",
    "movie": "movie film",
    "title": "title movie film song book",
    "genre": "genre movie film music",
    "song": "song track music",
    "track": "song track music",
    "alcohol": "alcohol liquor drink wine beer bar",
    "kid": "kid child children family",
    "entry": "entry entrance admission admit enter",
    "share": "share pool",
    "shared": "share pool",
    "ride": "ride cab taxi car",
    "car": "car vehicle rental",
    "subtitle": "subtitle caption",
    "wifi": "wifi wi-fi internet",
    "pet": "pet dog cat animal",
    "smoking": "smoke",
    "doctor": "doctor physician specialist",
    "dentist": "dentist dental",
    "therapist": "therapist counselor",
    "pickup": "pickup pick start begin from collect get",
    "dropoff": "dropoff drop return until end bring back to",
    "origin": "origin from leave depart start come",
    "from": "from leave depart start come",
    "destination": "destination to go going arrive head visit travel",
    "to": "to go going arrive head visit travel",
    "leaving": "leave depart departure leaving outbound go",
    "departure": "leave depart departure leaving outbound go",
    "return": "return back",
    "arrival": "arrive arrival land",
    "where": "where",
}
_SYNONYMS = {stem(word): vocabulary(words) for word, words in _SYNONYMS.items()}
# Parts of slot names that no sentence needs to say.
NAME_FILLER = vocabulary("of is has have in the add serve offer good for allow allowed include require available")


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
    """The words of a slot's name and others for the same things."""
    words = vocabulary(slot.replace("_", " ")) - NAME_FILLER
    return words.union(*(_SYNONYMS.get(word, ()) for word in words))
