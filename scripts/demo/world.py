"""A small world of bookings: its services, what can be found and booked there, and how that is said."""

from typing import NamedTuple

CITIES = "Paris London Berlin Madrid Rome Vienna Lisbon Dublin Prague Oslo Athens Warsaw Geneva Milan Porto".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
TIMES = [f"{hour} {half}" for half, hours in (("am", range(8, 12)), ("pm", range(1, 10))) for hour in hours]
COUNTS = [str(n) for n in range(2, 10)]
AREAS = "Harbour Midtown Hillside Riverside Castle Market Station Gardens".split()
PRICES = [f"${price}" for price in range(20, 100, 10)]

# slot: (values, how a value is said in a sentence, questions that ask for it)
SLOTS = {
    "city": (CITIES, "in {}", ("Which city should it be in?", "What city would you like?")),
    "day": (DAYS, "on {}", ("On which day?", "What day would you like?")),
    "time": (TIMES, "at {}", ("At what time?", "What time would you like?")),
    "people": (COUNTS, "for {} people", ("For how many people?", "How many people will come?")),
    "nights": (COUNTS, "for {} nights", ("For how many nights?", "How many nights will you stay?")),
    "doctor": (
        "dentist surgeon podiatrist therapist dermatologist cardiologist".split(),
        "with a {}",
        ("What kind of doctor do you need?", "Which doctor would you like?"),
    ),
    "genre": (
        "comedy drama horror western thriller musical".split(),
        "of a {}",
        ("What genre would you like?", "Which genre should it be?"),
    ),
}


class Service(NamedTuple):
    description: str
    thing: str  # what is booked
    find: str  # the two intents, which are the methods of calls too
    book: str
    searched: list[str]  # slots that a search needs, in the order in which the system asks
    booked: list[str]  # slots that a booking needs besides the name of what was found
    called: str  # how a name is said in a sentence
    names: list[str]  # of what can be found


SERVICES = {
    "Restaurants_1": Service(
        "Tables at restaurants",
        "a table",
        "FindRestaurant",
        "ReserveTable",
        ["city"],
        ["time", "people"],
        "at {}",
        "Olive Saffron Juniper Basil Copper Willow Lantern Truffle".split(),
    ),
    "Hotels_1": Service(
        "Rooms in hotels",
        "a room",
        "FindHotel",
        "ReserveRoom",
        ["city"],
        ["day", "nights"],
        "at {}",
        "Astoria Regent Plaza Crown Alpine Bristol Savoy Palace".split(),
    ),
    "Doctors_1": Service(
        "Visits to doctors",
        "a visit",
        "FindDoctor",
        "BookVisit",
        ["doctor", "city"],
        ["day"],
        "with {}",
        "Meyer Novak Rossi Silva Weber Duval Keller Lopez".split(),
    ),
    "Cinemas_1": Service(
        "Tickets for movies",
        "a showing",
        "FindMovie",
        "BuyTickets",
        ["genre"],
        ["day", "time"],
        "of {}",
        "Nightfall Horizon Avalanche Mirage Eclipse Voyager Tempest Phantom".split(),
    ),
}
FOUND = ["name", "area", "price"]  # the slots of a result


def schema() -> list[dict]:
    """The world's services, as Schema-Guided Dialogue's schema.json lists them."""

    def intent(name: str, is_transactional: bool, needs: list[str], gives: list[str]) -> dict:
        does = " ".join(["book" if is_transactional else "find", *needs])
        return {
            "name": name,
            "description": does,
            "is_transactional": is_transactional,
            "required_slots": needs,
            "optional_slots": {},
            "result_slots": gives,
        }

    return [
        {
            "service_name": name,
            "description": service.description,
            "slots": [
                {"name": slot, "description": slot, "is_categorical": False, "possible_values": []}
                for slot in (*service.searched, *service.booked, *FOUND)
            ],
            "intents": [
                intent(service.find, False, service.searched, FOUND),
                intent(service.book, True, ["name", *service.booked], ["name", *service.booked]),
            ],
        }
        for name, service in SERVICES.items()
    ]


def phrase(slot: str, value: str) -> str:
    return SLOTS[slot][1].format(value)


def order(service: Service, values: dict[str, str]) -> str:
    """An order in words: "a table in Paris at 7 pm", "a table at Olive at 7 pm"."""
    named = [service.called.format(values["name"])] if "name" in values else []
    said = [phrase(slot, values[slot]) for slot in (*service.searched, *service.booked) if slot in values]
    return " ".join([service.thing, *named, *said])
