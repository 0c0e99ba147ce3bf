"""Rubrics: a good answer described from a trace's own annotations, its dialogue acts and the services' schema."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from grpo_kit.data.repair import without_nulls
from grpo_kit.data.samples import BOM, Act, Text
from grpo_kit.errors import BadTrace

# The ten acts that Schema-Guided Dialogue gives its system turns, as instructions.
SYSTEM_ACTS = {
    "REQUEST": "ask for",
    "CONFIRM": "confirm",
    "OFFER": "offer",
    "INFORM": "state",
    "INFORM_COUNT": "say how many were found",
    "OFFER_INTENT": "offer to",
    "NOTIFY_SUCCESS": "say that it has been done",
    "NOTIFY_FAILURE": "say that it could not be done",
    "REQ_MORE": "ask whether anything else is needed",
    "GOODBYE": "say goodbye",
}

# Slots whose names are no noun ("the where to is Oakland"): their description says it better.
_UNCLEAR_SLOTS = {"from", "to", "where_to", "directed_by", "starring", "type"}


class Slot(msgspec.Struct, dict=True):
    """A slot of schema.json, and how to speak of it: "the street address is …", or "has live music: yes"."""

    name: Text
    description: str = ""
    possible_values: list[str] = []
    is_categorical: bool = False

    def __post_init__(self):
        if self.name in _UNCLEAR_SLOTS and self.description:
            self.spoken = _lower_first(self.description).removeprefix("the ")
        else:
            self.spoken = re.sub("^number (?!of )", "number of ", self.name.replace("_", " "))
        is_plural = re.search("[^su]s$", self.name) and not self.name.startswith("number")
        self.verb = "are" if is_plural else "is"
        self.is_boolean = {"True", "False"} <= set(self.possible_values)


class Intent(msgspec.Struct):
    """An intent of schema.json: what a user of the service may be after. `optional_slots` have their defaults."""

    name: Text
    description: str = ""
    is_transactional: bool = False
    required_slots: list[str] = []
    optional_slots: dict[str, str] = {}


class Service(msgspec.Struct, dict=True):
    """An entry of schema.json, as far as it is used."""

    service_name: Text
    description: str = ""
    slots: list[Slot] = []
    intents: list[Intent] = []

    def __post_init__(self):
        self.slot = {slot.name: slot for slot in self.slots}
        self.intent = {intent.name: intent for intent in self.intents}
        self.does = {intent.name: _lower_first(intent.description or _spoken(intent.name)) for intent in self.intents}


Schema = dict[str, Service]  # by the services' names


def load_schema(path: Path) -> Schema:
    """The services that a schema.json lists. Raises BadTrace naming the field that is not as it should be."""
    if not path.exists():
        raise BadTrace("missing", "Copy the schema.json of these dialogues here", str(path))
    try:
        services = msgspec.convert(
            without_nulls(msgspec.json.decode(path.read_bytes().removeprefix(BOM))), list[Service]
        )
    except ValueError as problem:
        raise BadTrace(str(problem), where=str(path)) from None
    return {service.service_name: service for service in services}


def _spoken(name: str) -> str:
    """An intent's name as words: "find boat" for FindBoat and find_boat."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:].rstrip(".")


def rubric_from_acts(acts: Iterable[Act], schema: Schema) -> str:
    """One clause for each kind of act, in the acts' order: "ask for: the city; confirm: the date is March 1st".

    What may be asked for instead stands behind it: "ask for: the city, or what else is needed: the date, the time".

    Raises KeyError for an act that is none of SYSTEM_ACTS.
    """
    clauses: dict[str, str] = {}
    others: dict[str, None] = {}
    for act in acts:
        clause = SYSTEM_ACTS[act.act]
        if not act.slot:
            clauses.setdefault(clause, clause)
        elif clause in clauses:
            clauses[clause] += f", {_detail(act, schema)}"
        else:
            clauses[clause] = f"{clause}: {_detail(act, schema)}"
        if act.alternatives:
            others |= {_detail(Act(act.service, act.act, slot), schema): None for slot in act.alternatives}
    if others:
        clauses[SYSTEM_ACTS["REQUEST"]] += f", or what else is needed: {', '.join(others)}"
    return "; ".join(clauses.values())


def _detail(act: Act, schema: Schema) -> str:
    service, values = schema[act.service], act.values
    if act.act == "INFORM_COUNT":
        return " ".join(values)
    if act.act == "OFFER_INTENT":
        return " or ".join(service.does.get(intent, intent) for intent in values)
    slot = service.slot.get(act.slot) or Slot(act.slot, act.slot)
    if slot.is_boolean:
        said = " or ".join("no" if value == "False" else "yes" for value in values)
        return f"{slot.spoken}: {said}" if said else f"{slot.spoken} (yes or no)"
    if not values:
        return f"the {slot.spoken}"
    if act.act == "REQUEST":
        return f"the {slot.spoken} (such as {' or '.join(values)})"
    return f"the {slot.spoken} {slot.verb} {values[0] if len(values) == 1 else ' and '.join(values)}"


def task_description(services: Iterable[str], intents: dict[str, str], schema: Schema) -> str:
    """The assistant's task: each service, and what its user is after ("…: find a bus journey").

    `intents` maps a service's name to its active intent, where there is one.
    """
    parts = []
    for name in services:
        service = schema[name]
        does, intent = (service.description or name).rstrip("."), service.does.get(intents.get(name, ""))
        parts.append(f"{does}: {intent}" if intent else does)
    return "; ".join(parts)
