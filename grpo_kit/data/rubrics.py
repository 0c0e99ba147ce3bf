"""What a good answer is, in words, from a trace's own annotations: its dialogue acts and the services' schema."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from grpo_kit.data.samples import Act, need

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


@dataclass(frozen=True)
class Slot:
    """How to speak of a slot: "the street address is …"; a boolean one is said as "has live music: yes"."""

    name: str
    verb: str = "is"
    boolean: bool = False


@dataclass(frozen=True)
class Service:
    """A service of schema.json; `intents` maps each intent's name to what it does."""

    description: str
    slots: dict[str, Slot]
    intents: dict[str, str]


Schema = dict[str, Service]


def schema_from(entries: Iterable[object]) -> Schema:
    """The services, by name, that a schema.json lists. Raises ValueError naming service and field."""
    schema = {}
    for number, entry in enumerate(entries, 1):
        try:
            schema[need(entry, "service_name", str)] = Service(
                description=need(entry, "description", str).rstrip("."),
                slots={need(slot, "name", str): _slot(slot) for slot in need(entry, "slots", list, empty_ok=True)},
                intents={
                    need(intent, "name", str): _lower_first(need(intent, "description", str))
                    for intent in need(entry, "intents", list, empty_ok=True)
                },
            )
        except ValueError as problem:
            raise ValueError(f"service number {number}: {problem}") from None
    return schema


def _slot(entry: object) -> Slot:
    name, description = need(entry, "name", str), need(entry, "description", str)
    if name in _UNCLEAR_SLOTS:
        spoken = _lower_first(description).removeprefix("the ")
    else:
        spoken = re.sub("^number (?!of )", "number of ", name.replace("_", " "))
    plural = re.search("[^su]s$", name) and not name.startswith("number")
    boolean = {"True", "False"} <= set(need(entry, "possible_values", list, empty_ok=True))
    return Slot(spoken, "are" if plural else "is", boolean)


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:].rstrip(".")


def rubric_from_acts(acts: Iterable[Act], schema: Schema) -> str:
    """One clause for each kind of act, in the acts' order: "ask for: the city; confirm: the date is March 1st".

    Raises KeyError for an act that is none of SYSTEM_ACTS.
    """
    clauses: dict[str, list[str]] = {}
    for act in acts:
        details = clauses.setdefault(SYSTEM_ACTS[act.act], [])
        if act.slot:
            details.append(_detail(act, schema))
    return "; ".join(f"{clause}: {', '.join(details)}" if details else clause for clause, details in clauses.items())


def _detail(act: Act, schema: Schema) -> str:
    service = schema.get(act.service)
    if act.act == "INFORM_COUNT":
        return " ".join(act.values)
    if act.act == "OFFER_INTENT":
        return " or ".join(service.intents.get(intent, intent) if service else intent for intent in act.values)
    slot = service.slots.get(act.slot) if service else None
    slot = slot or Slot(act.slot.replace("_", " "))
    if slot.boolean:
        said = " or ".join("no" if value == "False" else "yes" for value in act.values)
        return f"{slot.name}: {said}" if said else f"{slot.name} (yes or no)"
    if act.act == "REQUEST":
        return f"the {slot.name} (such as {' or '.join(act.values)})" if act.values else f"the {slot.name}"
    return f"the {slot.name} {slot.verb} {' and '.join(act.values)}" if act.values else f"the {slot.name}"


def task_description(services: Iterable[str], intents: dict[str, str], schema: Schema) -> str:
    """What the assistant is there for: each service, and what its user is after ("…: find a bus journey").

    `intents` maps a service's name to its active intent, where there is one.
    """
    parts = []
    for name in services:
        service = schema[name]
        intent = service.intents.get(intents.get(name, ""))
        parts.append(f"{service.description}: {intent}" if intent else service.description)
    return "; ".join(parts)
