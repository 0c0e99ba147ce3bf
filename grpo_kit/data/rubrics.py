"""Rubrics: a good answer described from a trace's own annotations, its dialogue acts and the services' schema."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from grpo_kit.data.json_files import load_json
from grpo_kit.data.samples import Act
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


_Text = Annotated[str, msgspec.Meta(min_length=1)]


class Slot(msgspec.Struct):
    """A slot of schema.json, and how to speak of it: "the street address is …", or "has live music: yes"."""

    name: _Text
    description: _Text
    possible_values: list[str] = []
    spoken: str = ""  # this and what follows is made from the name
    verb: str = "is"
    is_boolean: bool = False

    def __post_init__(self):
        if self.name in _UNCLEAR_SLOTS:
            self.spoken = _lower_first(self.description).removeprefix("the ")
        else:
            self.spoken = re.sub("^number (?!of )", "number of ", self.name.replace("_", " "))
        is_plural = re.search("[^su]s$", self.name) and not self.name.startswith("number")
        self.verb = "are" if is_plural else "is"
        self.is_boolean = {"True", "False"} <= set(self.possible_values)


class _Intent(msgspec.Struct):
    name: _Text
    description: _Text


class _Service(msgspec.Struct):
    """An entry of schema.json, as far as it is used."""

    service_name: _Text
    description: _Text
    slots: list[Slot]
    intents: list[_Intent]


class Service(NamedTuple):
    """A service; `intents` maps each intent's name to what it does."""

    description: str
    slots: dict[str, Slot]
    intents: dict[str, str]


Schema = dict[str, Service]  # by the services' names


def load_schema(path: Path) -> Schema:
    """The services that a schema.json lists. Raises BadTrace naming the field that is not as it should be."""
    if not path.exists():
        raise BadTrace("missing", "Copy the schema.json of these dialogues here", str(path))
    content = load_json(path)
    try:
        schema = schema_from(content)
    except ValueError as problem:
        raise BadTrace(str(problem), where=str(path)) from None
    if not schema:
        raise BadTrace("lists no service", where=str(path))
    return schema


def schema_from(entries: Any) -> Schema:
    """The services in a schema.json's content. Raises ValueError naming service and field."""
    return {
        service.service_name: Service(
            description=service.description.rstrip("."),
            slots={slot.name: slot for slot in service.slots},
            intents={intent.name: _lower_first(intent.description) for intent in service.intents},
        )
        for service in msgspec.convert(entries, list[_Service])
    }


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
    service = schema[act.service]
    if act.act == "INFORM_COUNT":
        return " ".join(act.values)
    if act.act == "OFFER_INTENT":
        return " or ".join(service.intents.get(intent, intent) for intent in act.values)
    slot = service.slots.get(act.slot) or Slot(act.slot, act.slot)
    if slot.is_boolean:
        said = " or ".join("no" if value == "False" else "yes" for value in act.values)
        return f"{slot.spoken}: {said}" if said else f"{slot.spoken} (yes or no)"
    if not act.values:
        return f"the {slot.spoken}"
    if act.act == "REQUEST":
        return f"the {slot.spoken} (such as {' or '.join(act.values)})"
    return f"the {slot.spoken} {slot.verb} {' and '.join(act.values)}"


def task_description(services: Iterable[str], intents: dict[str, str], schema: Schema) -> str:
    """The assistant's task: each service, and what its user is after ("…: find a bus journey").

    `intents` maps a service's name to its active intent, where there is one.
    """
    parts = []
    for name in services:
        service = schema[name]
        intent = service.intents.get(intents.get(name, ""))
        parts.append(f"{service.description}: {intent}" if intent else service.description)
    return "; ".join(parts)
