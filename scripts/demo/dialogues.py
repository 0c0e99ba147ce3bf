"""Dialogues of the world in Schema-Guided Dialogue's own form: acts, calls and results; and poor replies in them.

The system asks for what a search needs, searches, offers the first result, asks for what the booking needs, confirms,
books and says how that went. Every dialogue has a database of its own, so nothing about it can be learnt by heart: what
a good reply is follows from the conversation and the results in it.
"""

import random

from world import AREAS, PRICES, SERVICES, SLOTS, order, phrase

OPENINGS = ("I want {}.", "I would like {}.", "Please book {}.", "Can you find me {}?", "I need {}.", "Get me {}.")
ANSWERS = ("{}.", "{}, please.", "Make it {}.", "I would like {}.")
COUNTED = "I found {}."
OFFERS = ("How about {} in {}?", "There is {} in {}.", "I suggest {} in {}.")
OTHERS = ("Is there another one?", "Something else, please.", "What else is there?")
ASKING_PRICE = ("How much is it?", "What does it cost?", "And the price?")
PRICED = ("It costs {}.", "The price is {}.", "That is {}.")
ACCEPTED = ("I take it.", "That sounds good.", "Good, that one.")
CONFIRMATIONS = ("Please confirm: {}.", "To confirm, you want {}?", "Shall I book {}?")
CHANGES = ("No, {} instead.", "Not quite, make it {}.")
AGREEMENTS = ("Yes, please.", "That is right.", "Yes, go ahead.")
SUCCESSES = ("Your booking is confirmed.", "Done, it is booked.", "It is booked for you.")
FAILURES = ("Sorry, it could not be booked.", "Sorry, the booking failed.")
NONE_FOUND = ("Sorry, I could not find any.", "Sorry, there is none available.")
MORE = ("Anything else?", "Is there anything else you need?", "Can I help with anything else?")
THANKS = ("No, thank you.", "No, that is all.", "That is all, thanks.")
GOODBYES = ("Have a great day.", "Goodbye, have a good day.", "Enjoy, goodbye.")
EMPTY = ("Okay.", "Sure, I can help with that.", "Let me look into it.", "How can I help you?")


def some_row(rng: random.Random, name: str) -> dict[str, str]:
    return {"name": name, "area": rng.choice(AREAS), "price": rng.choice(PRICES)}


def dialogue(rng: random.Random, dialogue_id: str) -> dict:
    """One dialogue, in Schema-Guided Dialogue's form."""
    return _Dialogue(rng, dialogue_id).dialogue


class _Dialogue:
    """What user and system say in turn. `known` are the slots that the user has given values to."""

    def __init__(self, rng: random.Random, dialogue_id: str):
        self.rng, self.name = rng, rng.choice(list(SERVICES))
        self.service, self.known, self.turns = SERVICES[self.name], dict[str, str](), list[dict]()
        self.dialogue = {"dialogue_id": dialogue_id, "services": [self.name], "turns": self.turns}
        self.intent = self.service.find
        self.opening()
        if self.searching():
            self.booking()
        self.user(rng.choice(THANKS), ("NEGATE",), ("THANK_YOU",))
        self.system(rng.choice(GOODBYES), ("GOODBYE",))

    def say(self, speaker: str, utterance: str, acts: tuple, **more) -> None:
        actions = [
            {"act": act, "slot": "".join(slot[:1]), "values": list(slot[1:]), "canonical_values": list(slot[1:])}
            for act, *slot in acts
        ]
        frame = {"actions": actions, "service": self.name, "slots": [], **more}
        self.turns.append({"frames": [frame], "speaker": speaker, "utterance": utterance})

    def user(self, utterance: str, *acts: tuple[str, ...], asks: tuple[str, ...] = ()) -> None:
        values = {slot: [value] for slot, value in self.known.items()}
        state = {"active_intent": self.intent, "requested_slots": list(asks), "slot_values": values}
        self.say("USER", utterance[0].upper() + utterance[1:], acts, state=state)

    def system(self, utterance: str, *acts: tuple[str, ...], gave: list[dict] | None = None) -> None:
        """A reply; with `gave`, after a call for the present intent that gave those results."""
        call = {}
        if gave is not None:
            is_search = self.intent == self.service.find
            needs = self.service.searched if is_search else ["name", *self.service.booked]
            parameters = {slot: self.known[slot] for slot in needs}
            call = {"service_call": {"method": self.intent, "parameters": parameters}, "service_results": gave}
        self.say("SYSTEM", utterance, acts, **call)

    def learn(self, slot: str) -> tuple[str, str, str]:
        self.known[slot] = self.rng.choice([value for value in SLOTS[slot][0] if value != self.known.get(slot)])
        return "INFORM", slot, self.known[slot]

    def opening(self) -> None:
        slots = [*self.service.searched, *self.service.booked]
        given = sorted(self.rng.sample(slots, self.rng.randint(1, len(slots) - 1)), key=slots.index)
        acts = [self.learn(slot) for slot in given]
        opening = self.rng.choice(OPENINGS).format(order(self.service, self.known))
        self.user(opening, ("INFORM_INTENT", "intent", self.intent), *acts)

    def ask_for(self, slots: list[str]) -> None:
        for slot in slots:
            if slot not in self.known:
                self.system(self.rng.choice(SLOTS[slot][2]), ("REQUEST", slot))
                act = self.learn(slot)
                said = phrase(slot, self.known[slot]) if self.rng.random() < 0.5 else self.known[slot]
                self.user(self.rng.choice(ANSWERS).format(said), act)

    def searching(self) -> bool:
        """From the first question to the user's choice; whether there is any."""
        rng = self.rng
        self.ask_for(self.service.searched)
        if rng.random() < 0.12:
            failed = f"{rng.choice(NONE_FOUND)} {rng.choice(MORE)}"
            self.system(failed, ("NOTIFY_FAILURE",), ("REQ_MORE",), gave=[])
            return False
        rows = [some_row(rng, name) for name in rng.sample(self.service.names, rng.randint(1, 6))]
        count = str(len(rows))
        counted = [("INFORM_COUNT", "count", count)] if len(rows) > 3 else []
        said = f"{COUNTED.format(count)} " if counted else ""
        self.offer(rows[0], said, *counted, gave=rows)
        row = rows[0]
        if len(rows) > 1 and rng.random() < 0.35:
            self.user(rng.choice(OTHERS), ("REQUEST_ALTS",))
            row = rows[1]
            self.offer(row)
        if rng.random() < 0.4:
            self.user(rng.choice(ASKING_PRICE), ("REQUEST", "price"), asks=("price",))
            self.system(rng.choice(PRICED).format(row["price"]), ("INFORM", "price", row["price"]))
        self.known["name"], self.intent = row["name"], self.service.book
        self.user(rng.choice(ACCEPTED), ("SELECT",), ("INFORM_INTENT", "intent", self.intent))
        return True

    def offer(self, row: dict[str, str], said: str = "", *counted: tuple, gave: list[dict] | None = None) -> None:
        offers = [("OFFER", slot, row[slot]) for slot in ("name", "area")]
        self.system(said + self.rng.choice(OFFERS).format(row["name"], row["area"]), *offers, *counted, gave=gave)

    def booking(self) -> None:
        rng, slots = self.rng, ["name", *self.service.booked]
        self.ask_for(self.service.booked)
        self.confirm(slots)
        if rng.random() < 0.2:
            act = self.learn(slot := rng.choice(self.service.booked))
            self.user(rng.choice(CHANGES).format(phrase(slot, self.known[slot])), ("NEGATE",), act)
            self.confirm(slots)
        self.user(rng.choice(AGREEMENTS), ("AFFIRM",))
        more = rng.choice(MORE)
        if rng.random() < 0.7:
            done = [{slot: self.known[slot] for slot in slots}]
            self.system(f"{rng.choice(SUCCESSES)} {more}", ("NOTIFY_SUCCESS",), ("REQ_MORE",), gave=done)
        else:
            self.system(f"{rng.choice(FAILURES)} {more}", ("NOTIFY_FAILURE",), ("REQ_MORE",), gave=[])

    def confirm(self, slots: list[str]) -> None:
        wanted = {slot: self.known[slot] for slot in slots}
        utterance = self.rng.choice(CONFIRMATIONS).format(order(self.service, wanted))
        self.system(utterance, *(("CONFIRM", slot, value) for slot, value in wanted.items()))


def poor_reply(rng: random.Random, dialogue: dict, index: int) -> str:
    """A reply such as an untrained assistant would give in turn `index`: off the point, wrong, or cut short."""
    service, turns = SERVICES[dialogue["services"][0]], dialogue["turns"]
    known = {slot: values[0] for slot, values in turns[index - 1]["frames"][0]["state"]["slot_values"].items()}
    found = [
        row for turn in turns[: index + 1] for row in turn["frames"][0].get("service_results", []) if "area" in row
    ]
    row = some_row(rng, rng.choice(service.names))  # which nobody has found
    if found and rng.random() < 0.5:
        row |= rng.choice(found[:3])
    kind = rng.random()
    if kind < 0.2:  # says nothing of the task
        return rng.choice(EMPTY)
    if kind < 0.4:  # asks for something, needed or not
        return rng.choice(SLOTS[rng.choice([*service.searched, *service.booked])][2])
    if kind < 0.6:  # offers or states something, found or made up
        return rng.choice(
            (rng.choice(OFFERS).format(row["name"], row["area"]), rng.choice(PRICED).format(row["price"]))
        )
    if kind < 0.8:  # confirms too early, too little, or values that nobody said
        wanted = {"name": row["name"], **{slot: rng.choice(SLOTS[slot][0]) for slot in service.booked}, **known}
        some = {slot: value for slot, value in wanted.items() if rng.random() < 0.8}
        return rng.choice(CONFIRMATIONS).format(order(service, some))
    if kind < 0.95:  # books or parts, whatever came of it
        outcome = f"{rng.choice(rng.choice((SUCCESSES, FAILURES, NONE_FOUND)))} {rng.choice(MORE)}"
        return rng.choice((outcome, outcome, rng.choice(GOODBYES)))
    words = turns[index]["utterance"].split()
    return " ".join(words[: rng.randint(1, max(1, len(words) - 1))])
