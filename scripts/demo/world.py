"""A small world of bookings, and dialogues about it in Schema-Guided Dialogue's own format.

The system asks for the first missing slot in the schema's order, confirms once it has them all, and books when the
user agrees: what a good reply is follows from the conversation alone, so a small model can learn it.
"""

import random

CITIES = [
    "Paris",
    "London",
    "Berlin",
    "Madrid",
    "Rome",
    "Vienna",
    "Lisbon",
    "Dublin",
    "Prague",
    "Oslo",
    "Athens",
    "Warsaw",
    "Geneva",
    "Milan",
    "Lyon",
    "Porto",
    "Bergen",
    "Turin",
    "Seville",
    "Krakow",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
TIMES = [f"{hour} {half}" for half in ("am", "pm") for hour in range(1, 12)]
COUNTS = [str(n) for n in range(2, 10)]

# slot: (what the schema says, values, how a value is said in a sentence, questions that ask for it)
SLOTS = {
    "city": (
        "City to look in",
        CITIES,
        "in {}",
        ("Which city should it be in?", "What city would you like?", "In which city do you want it?"),
    ),
    "day": (
        "Day of the booking",
        DAYS,
        "on {}",
        ("On which day?", "What day would you like?", "Which day should I book?"),
    ),
    "time": (
        "Time of the booking",
        TIMES,
        "at {}",
        ("At what time?", "What time would you like?", "Which time should I book?"),
    ),
    "people": (
        "Number of people",
        COUNTS,
        "for {} people",
        ("For how many people?", "How many people will come?", "How many people should I book for?"),
    ),
    "nights": (
        "Number of nights to stay",
        COUNTS,
        "for {} nights",
        ("For how many nights?", "How many nights will you stay?", "How many nights should I book?"),
    ),
    "doctor": (
        "Kind of doctor",
        ["dentist", "surgeon", "podiatrist", "therapist", "dermatologist", "cardiologist"],
        "with a {}",
        (
            "What kind of doctor do you need?",
            "Which doctor would you like?",
            "What doctor should I look for?",
        ),
    ),
    "genre": (
        "Kind of movie",
        ["comedy", "drama", "horror", "western", "thriller", "musical"],
        "of a {}",
        ("What genre would you like?", "Which genre should it be?", "What movie genre do you want?"),
    ),
}

# service: (description, intent, what is booked, slots in the order in which the system asks)
SERVICES = {
    "Restaurants_1": (
        "Book a table at a restaurant",
        "ReserveTable",
        "a table",
        ["city", "time", "people"],
    ),
    "Hotels_1": ("Book a room in a hotel", "ReserveRoom", "a room", ["city", "day", "nights"]),
    "Doctors_1": ("Make an appointment with a doctor", "BookVisit", "a visit", ["doctor", "city", "day"]),
    "Cinemas_1": ("Buy tickets for a movie", "BuyTickets", "a showing", ["genre", "day", "time"]),
}

OPENINGS = (
    "I want {}.",
    "I would like {}.",
    "Please book {}.",
    "Can you find me {}?",
    "I need {}.",
    "Get me {}, please.",
)
ANSWERS = ("{}.", "{}, please.", "Make it {}.", "I would like {}.")
CONFIRMATIONS = ("Please confirm: {}.", "To confirm, you want {}?", "Shall I book {}?")
CHANGES = ("No, {} instead.", "Not quite, make it {}.")
AGREEMENTS = ("Yes, please.", "That is right.", "Yes, go ahead.")
SUCCESSES = ("Your booking is confirmed.", "Done, it is booked.", "It is booked for you.")
MORE = ("Anything else?", "Is there anything else you need?", "Can I help with anything else?")
THANKS = ("No, thank you.", "No, that is all.", "That is all, thanks.")
GOODBYES = ("Have a great day.", "Goodbye, have a good day.", "Enjoy, goodbye.")


def schema() -> list[dict]:
    """The world's services, as Schema-Guided Dialogue's schema.json lists them."""
    return [
        {
            "service_name": service,
            "description": description,
            "slots": [
                {
                    "name": slot,
                    "description": SLOTS[slot][0],
                    "is_categorical": slot not in ("city", "time"),
                    "possible_values": [] if slot in ("city", "time") else SLOTS[slot][1],
                }
                for slot in slots
            ],
            "intents": [
                {
                    "name": intent,
                    "description": description,
                    "is_transactional": True,
                    "required_slots": slots,
                    "optional_slots": {},
                    "result_slots": slots,
                }
            ],
        }
        for service, (description, intent, _, slots) in SERVICES.items()
    ]


def phrase(slot: str, value: str) -> str:
    return SLOTS[slot][2].format(value)


def order(service: str, values: dict[str, str]) -> str:
    """A user's order in words: "a table in Paris on Monday"."""
    _, _, thing, slots = SERVICES[service]
    return " ".join([thing, *(phrase(slot, values[slot]) for slot in slots if slot in values)])


def dialogue(rng: random.Random, dialogue_id: str) -> dict:
    """One dialogue: an order with some slots given, questions for the rest, a confirmation, a booking, a goodbye."""
    service = rng.choice(list(SERVICES))
    _, intent, _, slots = SERVICES[service]
    known: dict[str, str] = {}
    turns: list[dict] = []

    def say(speaker: str, utterance: str, actions: list[tuple[str, str, list[str]]]) -> None:
        frame = {
            "actions": [{"act": a, "slot": s, "values": v, "canonical_values": v} for a, s, v in actions],
            "service": service,
            "slots": [],
        }
        if speaker == "USER":
            state = {slot: [value] for slot, value in known.items()}
            frame["state"] = {"active_intent": intent, "requested_slots": [], "slot_values": state}
        turns.append({"frames": [frame], "speaker": speaker, "utterance": utterance})

    def learn(slot: str) -> tuple[str, str, list[str]]:
        others = [value for value in SLOTS[slot][1] if value != known.get(slot)]
        known[slot] = rng.choice(others)
        return "INFORM", slot, [known[slot]]

    given = [learn(slot) for slot in sorted(rng.sample(slots, rng.randint(1, len(slots) - 1)), key=slots.index)]
    opening = rng.choice(OPENINGS).format(order(service, known))
    say("USER", opening, [("INFORM_INTENT", "intent", [intent]), *given])
    for slot in slots:
        if slot not in known:
            say("SYSTEM", rng.choice(SLOTS[slot][3]), [("REQUEST", slot, [])])
            action = learn(slot)
            said = phrase(slot, known[slot]) if rng.random() < 0.5 else known[slot]
            answer = rng.choice(ANSWERS).format(said)
            say("USER", answer[0].upper() + answer[1:], [action])

    def confirm() -> None:
        utterance = rng.choice(CONFIRMATIONS).format(order(service, known))
        say("SYSTEM", utterance, [("CONFIRM", slot, [known[slot]]) for slot in slots])

    confirm()
    if rng.random() < 0.3:
        slot = rng.choice(slots)
        action = learn(slot)
        say("USER", rng.choice(CHANGES).format(phrase(slot, known[slot])), [("NEGATE", "", []), action])
        confirm()
    say("USER", rng.choice(AGREEMENTS), [("AFFIRM", "", [])])
    booked = f"{rng.choice(SUCCESSES)} {rng.choice(MORE)}"
    say("SYSTEM", booked, [("NOTIFY_SUCCESS", "", []), ("REQ_MORE", "", [])])
    say("USER", rng.choice(THANKS), [("NEGATE", "", []), ("THANK_YOU", "", [])])
    say("SYSTEM", rng.choice(GOODBYES), [("GOODBYE", "", [])])
    return {"dialogue_id": dialogue_id, "services": [service], "turns": turns}


def poor_reply(rng: random.Random, good: str, service: str, known: dict[str, str]) -> str:
    """A reply such as an untrained assistant would give instead of `good`: off the point, wrong, or cut short."""
    slots = SERVICES[service][3]
    kind = rng.random()
    if kind < 0.25:  # says nothing of the task
        return rng.choice(("Okay.", "Sure, I can help with that.", "Let me look into it.", "How can I help you?"))
    if kind < 0.50:  # asks for something, needed or not
        missing = [slot for slot in slots if slot not in known]
        slot = missing[0] if missing and rng.random() < 0.6 else rng.choice(slots)
        return rng.choice(SLOTS[slot][3])
    if kind < 0.85:  # confirms too early, too little, or values that nobody said
        some = [slot for slot in slots if rng.random() < 0.8] or slots[:1]
        values = {
            slot: known[slot] if slot in known and rng.random() < 0.95 else rng.choice(SLOTS[slot][1]) for slot in some
        }
        return rng.choice(CONFIRMATIONS).format(order(service, values))
    if kind < 0.95:  # books or parts, whatever the moment
        return rng.choice((f"{rng.choice(SUCCESSES)} {rng.choice(MORE)}", rng.choice(GOODBYES), rng.choice(MORE)))
    words = good.split()
    return " ".join(words[: rng.randint(1, max(1, len(words) - 1))])
