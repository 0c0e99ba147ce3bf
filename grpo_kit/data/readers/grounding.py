"""What the assistant of a Schema-Guided Dialogue knows beside what is said: its services, the date, what calls gave."""

import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import msgspec

from grpo_kit.data.rubrics import Intent, Service

_AHEAD = {"today": 0, "later today": 0, "tomorrow": 1, "day after tomorrow": 2, "the day after tomorrow": 2}
RELATIVE_DAYS = {form: days for word, days in _AHEAD.items() for form in (word, word.capitalize())}
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def today_by(resolved: Iterable[tuple[str, str]]) -> date | None:
    """The day that a dialogue takes place on, by what was said and meant: ("tomorrow", "2019-03-02").

    None where that can't be told.
    """
    for said, meant in resolved:
        if said in RELATIVE_DAYS and _DATE.fullmatch(meant):
            return date.fromisoformat(meant) - timedelta(RELATIVE_DAYS[said])
    return None


def briefing(services: Sequence[Service], today: date | None) -> str:
    """The system message: each service, its intents with what they need and their defaults, and its slots' values."""
    parts = [
        "You are the assistant of this service." if len(services) == 1 else "You are the assistant of these services."
    ]
    if today:
        parts = [f"{parts[0]} Today is {_WEEKDAYS[today.weekday()]}, {today}."]
    for service in services:
        parts.append(f"{service.service_name}: {service.description}")
        named = set[str]()
        for intent in service.intents:
            needs = f"; needs {', '.join(intent.required_slots)}" if intent.required_slots else ""
            optional = ", ".join(f"{slot}={default}" for slot, default in intent.optional_slots.items())
            takes = f"; optional {optional}" if optional else ""
            parts.append(f"- {intent.name}: {intent.description}{needs}{takes}")
            named.update(intent.required_slots, intent.optional_slots)
        values = [f"{slot.name} ({', '.join(slot.possible_values)})" for slot in service.slots if slot.possible_values]
        others = [slot.name for slot in service.slots if not slot.possible_values and slot.name not in named]
        parts.append(f"slots: {', '.join(values + others)}")
    return "\n".join(parts)


def functions(services: Iterable[Service]) -> list[dict[str, Any]]:
    """The services' intents as JSON schemas of functions, in OpenAI's form."""
    return [
        {
            "type": "function",
            "function": {
                "name": intent.name,
                "description": intent.description,
                "parameters": {
                    "type": "object",
                    "properties": {
                        name: _parameter(service, name) for name in (*intent.required_slots, *intent.optional_slots)
                    },
                    "required": intent.required_slots,
                },
            },
        }
        for service in services
        for intent in service.intents
    ]


def _parameter(service: Service, name: str) -> dict[str, Any]:
    slot = service.slot.get(name)
    described = {"type": "string"} | ({"description": slot.description} if slot else {})
    return described | {"enum": slot.possible_values} if slot and slot.is_categorical else described


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
