"""What the assistant of a Schema-Guided Dialogue knows beside what is said: its services, the date, what calls gave."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import msgspec

from grpo_kit.data.rubrics import Intent, Schema, Service, Slot
from grpo_kit.utils.text import did_you_mean

_AHEAD = {"today": 0, "later today": 0, "tomorrow": 1, "day after tomorrow": 2, "the day after tomorrow": 2}
RELATIVE_DAYS = {form: days for words, days in _AHEAD.items() for form in (words, words.capitalize())}
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


class Services:
    """The services of a schema.json, and what a model is told of them; each text is made once."""

    def __init__(self, schema: Schema):
        self.schema = schema
        self._briefings: dict[tuple, str] = {}
        self._functions: dict[tuple, list[dict[str, Any]]] = {}

    def check(self, name: str) -> None:
        """Raises ValueError for a service that schema.json does not have."""
        if name not in self.schema:
            near = did_you_mean(name, self.schema) or f" It has: {', '.join(self.schema)}"
            raise ValueError(f"service {name!r} is not in schema.json.{near}")

    def briefing(self, names: Sequence[str], today: date | None) -> str:
        """The system message: services, intents with what they need and their defaults, the slots and their values."""
        key = (*names, today)
        if key not in self._briefings:
            day = f" Today is {_WEEKDAYS[today.weekday()]}, {today}." if today else ""
            parts = [f"You are the assistant of {'this service' if len(names) == 1 else 'these services'}.{day}"]
            self._briefings[key] = "\n".join(parts + [_described(self.schema[name]) for name in names])
        return self._briefings[key]

    def functions(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The services' intents as JSON schemas of functions, in OpenAI's form."""
        key = tuple(names)
        if key not in self._functions:
            self._functions[key] = [
                {"type": "function", "function": _function(self.schema[name], intent)}
                for name in names
                for intent in self.schema[name].intents
            ]
        return self._functions[key]


def _described(service: Service) -> str:
    lines, named = [": ".join(filter(None, (service.service_name, service.description)))], set[str]()
    for intent in service.intents:
        parts = [": ".join(filter(None, (f"- {intent.name}", intent.description)))]
        if intent.required_slots:
            parts.append(f"needs {', '.join(intent.required_slots)}")
        if intent.optional_slots:
            defaults = [f"{slot}={default}" if default else slot for slot, default in intent.optional_slots.items()]
            parts.append(f"optional {', '.join(defaults)}")
        lines.append("; ".join(parts))
        named.update(intent.required_slots, intent.optional_slots)
    slots = [f"{slot.name} ({', '.join(slot.possible_values)})" for slot in service.slots if slot.possible_values]
    slots += [slot.name for slot in service.slots if not slot.possible_values and slot.name not in named]
    return "\n".join(lines + [f"slots: {', '.join(slots)}"] * bool(slots))


def _function(service: Service, intent: Intent) -> dict[str, Any]:
    properties = {}
    for name in (*intent.required_slots, *intent.optional_slots):
        slot = service.slot.get(name) or Slot(name, name)
        values = {"enum": slot.possible_values} if slot.is_categorical and slot.possible_values else {}
        properties[name] = {"type": "string", "description": slot.description or slot.spoken, **values}
    parameters = {"type": "object", "properties": properties, "required": intent.required_slots}
    told = intent.description or service.does[intent.name]
    return {"name": intent.name, "description": told, "parameters": parameters}


def today_by(resolved: Iterable[tuple[str, str]]) -> date | None:
    """The day of a dialogue by what was said and meant, ("tomorrow", "2019-03-02"); None where that can't be told."""
    for said, meant in resolved:
        if said in RELATIVE_DAYS:
            try:
                return date.fromisoformat(meant) - timedelta(RELATIVE_DAYS[said])
            except ValueError:  # no date
                continue
    return None


def result_text(rows: Sequence[msgspec.Raw], most: int, is_transaction: bool, has_failed: bool) -> str:
    """What a call gave, as JSON: how many results, its status, and the first `most` of them.

    A search that finds nothing has the status "no match"; only a transaction, or a call with results, can fail.
    """
    if has_failed and (rows or is_transaction):
        status = "failure"
    else:
        status = "success" if rows or is_transaction else "no match"
    shown = msgspec.json.format(b"[%b]" % b",".join(rows[:most]), indent=-1).decode()
    return f'{{"count":{len(rows)},"status":"{status}","results":{shown}}}'
