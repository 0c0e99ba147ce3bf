"""Shows what prompts of Schema-Guided dialogues hold: the service, the day, each service's newest call and results."""

import json
from pathlib import Path

import pytest

from grpo_kit.data.answerable import answerable_in_words, unknown_acts
from grpo_kit.data.prepare import prepare
from grpo_kit.data.readers import read_traces
from grpo_kit.data.readers.base import ReadOptions
from grpo_kit.data.samples import Act, Sample, check_turns
from grpo_kit.errors import BadTrace


def slot(name: str, *values: str) -> dict:
    return {"name": name, "description": f"The {name}", "possible_values": values, "is_categorical": bool(values)}


SCHEMA = [
    {
        "service_name": "Boats_1",
        "description": "Hires out boats",
        "slots": [slot("harbour"), slot("day"), slot("kind", "canoe", "yacht"), slot("boat"), slot("price")],
        "intents": [
            {
                "name": "FindBoat",
                "description": "Find a boat",
                "is_transactional": False,
                "required_slots": ["harbour", "day"],
                "optional_slots": {"kind": "dontcare"},
            },
            {"name": "HireBoat", "description": "Hire it", "is_transactional": True, "required_slots": ["boat"]},
        ],
    },
    {"service_name": "Tides_1", "description": "Tides", "slots": [], "intents": [{"name": "Tide", "description": "x"}]},
]
ROWS = [{"boat": f"Mew {n}", "price": f"{n}0", "kind": "canoe"} for n in range(1, 6)]


def user(text: str, intent: str = "FindBoat", service: str = "Boats_1", actions=(), **given: str) -> dict:
    state = {"active_intent": intent, "requested_slots": [], "slot_values": {k: [v] for k, v in given.items()}}
    return {"speaker": "USER", "utterance": text, "frames": [{"service": service, "actions": actions, "state": state}]}


def act(name: str, slot: str = "", *values: str, own: str | None = None) -> dict:
    return {"act": name, "slot": slot, "values": values, "canonical_values": [own] if own else values}


def system(text: str, *acts: dict, call=None, rows=(), service: str = "Boats_1") -> dict:
    frame = {"service": service, "slots": [], "actions": acts}
    if call:
        frame |= {"service_call": {"method": call[0], "parameters": call[1]}, "service_results": rows}
    return {"speaker": "SYSTEM", "utterance": text, "frames": [frame]}


SEARCH = ("FindBoat", {"harbour": "Oslo", "day": "2019-03-02"})
TOMORROW = {"act": "INFORM", "slot": "day", "values": ["tomorrow"], "canonical_values": ["2019-03-02"]}
TURNS = [
    user("A boat, please."),
    system("In which harbour?", act("REQUEST", "harbour")),
    user("Oslo, tomorrow.", actions=[TOMORROW], harbour="Oslo", day="tomorrow"),
    system("5 boats, such as Mew 2 at $20.", act("OFFER", "boat", "Mew 2"), act("INFORM_COUNT", "count", "5"),
           act("OFFER", "price", "$20", own="20"), call=SEARCH, rows=ROWS),
    user("A yacht?", harbour="Oslo", day="tomorrow", kind="yacht"),
    system("No yacht there.", act("NOTIFY_FAILURE"), call=("FindBoat", {**SEARCH[1], "kind": "yacht"})),
    user("Mew 2 then.", "HireBoat", boat="Mew 2"),
    system("That failed.", act("NOTIFY_FAILURE"), call=("HireBoat", {"boat": "Mew 2"}), rows=ROWS[1:2]),
    user("And the tide?", "Tide", "Tides_1"),
    system("High.", act("INFORM", "tide", "High"), call=("Tide", {}), rows=[{"tide": "High"}], service="Tides_1"),
]  # fmt: skip


def write(folder: Path, turns: list[dict], count: int = 1, schema: list | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.json").write_text(json.dumps(schema or SCHEMA))
    first, *others = turns
    dialogues = [
        {
            "dialogue_id": f"d{n}",
            "services": ["Boats_1", "Tides_1"],
            "turns": [{**first, "utterance": first["utterance"] + " Hm." * n}, *others],
        }
        for n in range(count)
    ]
    (folder / "dialogues_001.json").write_text(json.dumps(dialogues, indent=2))
    return folder


def read(folder: Path, **options) -> dict[str, Sample]:
    def refuse(problem: BadTrace):
        raise problem

    traces = read_traces(folder, "auto", refuse, ReadOptions(**options))
    return {sample.id: sample for _, trace in traces for sample in trace.samples}


def results(sample: Sample) -> list[dict]:
    return [json.loads(message["content"]) for message in sample.prompt if message["role"] == "tool"]


def test_a_call_and_its_first_results_stand_before_the_reply_and_stay_until_the_service_is_called_again(tmp_path):
    samples = read(write(tmp_path, TURNS), max_results=2)
    for sample in samples.values():
        check_turns(sample.prompt)

    call, gave = samples["d0:3"].prompt[-2:]
    function = {"name": "FindBoat", "arguments": SEARCH[1]}
    assert call == {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    assert (gave["role"], gave["name"]) == ("tool", "FindBoat")
    assert gave["content"] == json.dumps({"count": 5, "status": "success", "results": ROWS[:2]}, separators=(",", ":"))

    nothing, failed, with_tide = (results(samples[f"d0:{turn}"]) for turn in (5, 7, 9))
    assert nothing == [{"count": 0, "status": "no match", "results": []}]
    assert failed == [{"count": 1, "status": "failure", "results": ROWS[1:2]}]
    assert with_tide == [*failed, {"count": 1, "status": "success", "results": [{"tide": "High"}]}]
    said = [message["content"] for message in samples["d0:9"].prompt if message["content"]]
    assert [text for text in said[1:] if text[0] != "{"] == [turn["utterance"] for turn in TURNS[:9]]


def test_the_system_message_tells_the_service_and_the_day_that_tomorrow_was_counted_from(tmp_path):
    samples = read(write(tmp_path, TURNS))
    assert samples["d0:1"].prompt[0]["content"] == (
        "You are the assistant of this service. Today is Friday, 2019-03-01.\n"
        "Boats_1: Hires out boats\n"
        "- FindBoat: Find a boat; needs harbour, day; optional kind=dontcare\n"
        "- HireBoat: Hire it; needs boat\n"
        "slots: kind (canoe, yacht), price"
    )
    assert "Tides_1: Tides" in samples["d0:9"].prompt[0]["content"]
    undated = [TURNS[0], TURNS[1]]
    assert "Today" not in read(write(tmp_path / "undated", undated))["d0:1"].prompt[0]["content"]


def test_history_adds_nothing_and_acts_tell_what_to_do(tmp_path):
    folder = write(tmp_path, TURNS)
    said = [{"role": "assistant" if i % 2 else "user", "content": t["utterance"]} for i, t in enumerate(TURNS[:9])]
    assert read(folder, ground="history")["d0:9"].prompt == said

    plain, told = read(folder)["d0:3"], read(folder, ground="acts")["d0:3"]
    assert told.prompt[0]["content"] == f"{plain.prompt[0]['content']}\nNow: {plain.rubric}"
    assert told.prompt[1:] == plain.prompt[1:]


def test_calls_are_learnt_where_they_are_asked_for(tmp_path):
    samples = read(write(tmp_path, TURNS), learn="calls")
    called = samples["d0:3:call"]
    assert called.ground_truth == '{"arguments":{"day":"2019-03-02","harbour":"Oslo"},"name":"FindBoat"}'
    assert called.columns == {"tool_calls": [{"name": "FindBoat", "arguments": SEARCH[1]}]}
    assert called.prompt == samples["d0:3"].prompt[:-2]
    assert len(samples) == 9 and not any(sample.tools for sample in read(tmp_path).values())

    function = called.tools[0]["function"]
    assert (called.tools[0]["type"], function["name"], len(called.tools)) == ("function", "FindBoat", 2)
    assert function["parameters"]["required"] == ["harbour", "day"]
    kind = {"type": "string", "description": "The kind", "enum": ["canoe", "yacht"]}
    assert function["parameters"]["properties"]["kind"] == kind


def test_a_request_carries_what_is_needed_as_much(tmp_path):
    turns = [*TURNS[:2], user("Oslo.", harbour="Oslo"), system("Which day?", act("REQUEST", "day"))]
    samples = read(write(tmp_path, turns))
    assert samples["d0:1"].acts == [Act("Boats_1", "REQUEST", "harbour", alternatives=("day",))]
    assert samples["d0:1"].rubric == "ask for: the harbour, or what else is needed: the day"
    assert (samples["d0:3"].acts[0].alternatives, samples["d0:3"].rubric) == ((), "ask for: the day")


def test_the_card_counts_what_prompts_can_answer(tmp_path):
    folder = write(tmp_path / "in", TURNS, count=20)
    card = prepare(folder, tmp_path / "out", eval_fraction=0.3)
    assert card["answerable"] == {"turns": 40, "from_prompt": 40, "not_by_act": {}}
    card = prepare(folder, tmp_path / "out", eval_fraction=0.3, max_results=1)
    assert card["answerable"] == {"turns": 40, "from_prompt": 20, "not_by_act": {"OFFER": 20}}
    card = prepare(folder, tmp_path / "out", eval_fraction=0.3, ground="history")
    assert card["answerable"]["not_by_act"] == {"INFORM": 20, "INFORM_COUNT": 20, "NOTIFY_FAILURE": 40, "OFFER": 20}
    assert answerable_in_words(card).startswith("0 of 40 turns that offer, inform or count can be answered")


def test_a_value_is_known_as_words_or_as_that_slots_value():
    def unknown(*acts: Act, prompt: str | list) -> list[str]:
        return [act.slot for act in unknown_acts(Sample("s", prompt, "x", acts=list(acts)))]

    mew, wifi = Act("B", "OFFER", "boat", ("Mew 2",)), Act("B", "INFORM", "wifi", ("True",))
    gave = [{"role": "user", "content": "Hi"}, {"role": "tool", "content": '{"boat":"Mew 2","wifi":"False"}'}]
    assert unknown(mew, wifi, prompt="Is it True that Mew 2 has wifi?") == ["wifi"]
    assert unknown(mew, prompt="Mew 21, please") == ["boat"]
    assert unknown(mew, wifi, prompt=gave) == ["wifi"]
    price = Act("B", "INFORM", "price", ("$20",), canonical=("20",))
    assert unknown(price, prompt=[*gave, {"role": "tool", "content": '{"price":"20"}'}]) == []


NO_TEXT = {"speaker": "SYSTEM", "frames": []}


@pytest.mark.parametrize(
    ("index", "turn", "left", "message"),
    [
        (3, system("Hm", act("ASK")), ["d0:1", "d0:5", "d0:7", "d0:9"], "turn 3: 'ASK' is not an act"),
        (3, system("Hm", service="Boat"), ["d0:1", "d0:5", "d0:7", "d0:9"], "turn 3: service 'Boat' .* Boats_1?"),
        (5, NO_TEXT, ["d0:1", "d0:3"], "turn 5: .*field `utterance`"),
        (4, TURNS[3], ["d0:1", "d0:3"], "turn 4: two turns of one speaker"),
    ],
)
def test_a_faulty_turn_loses_only_what_depends_on_it(tmp_path, index, turn, left, message):
    folder = write(tmp_path, [*TURNS[:index], turn, *TURNS[index + 1 :]])
    with pytest.raises(BadTrace, match=f"dialogue number 1: {message}"):
        read(folder)
    faults = []
    found = [s.id for _, trace in read_traces(folder, "sgd", faults.append, ReadOptions()) for s in trace.samples]
    assert (found, len(faults)) == (left, 1)


def test_multiwoz_is_read_without_acts_and_with_the_schema_of_the_folder_above(tmp_path):
    schema = [
        {
            "service_name": name,
            "slots": [
                {**slot(f"{name}-area", "north", "south"), "possible_values": ["north", "south"]},
                {"name": f"{name}-ref", "description": "reference number", "is_categorical": False},
            ],
            "description": f"{name} of Cambridge",
            "intents": [
                {
                    "name": f"find_{name}",
                    "description": "search for one",
                    "is_transactional": False,
                    "required_slots": [],
                    "optional_slots": {f"{name}-area": "dontcare", f"{name}-day": ""},
                }
            ],
        }
        for name in ("inn", "taxi")
    ]

    def said(number: int, text: str, *spans: dict, **intents: str) -> dict:
        frames = [
            {
                "actions": [],
                "service": name,
                "slots": [],
                "state": {"active_intent": intent, "requested_slots": [], "slot_values": {}},
            }
            for name, intent in intents.items()
        ]
        frames += [{"actions": [], "service": "inn", "slots": spans}] * bool(spans)  # the assistant's have no state
        speaker = "SYSTEM" if number % 2 else "USER"
        return {"frames": frames, "speaker": speaker, "turn_id": f"{number}", "utterance": text}

    span = {"exclusive_end": 4, "slot": "inn-name", "start": 0, "value": "Acorn"}
    turns = [said(0, "An inn.", inn="find_inn", taxi="NONE"), said(1, "Acorn?", span)]
    turns += [said(2, "North. Thanks.", inn="NONE", taxi="NONE"), said(3, "Bye.")]
    write(tmp_path / "train", turns, schema=schema)
    (tmp_path / "train/schema.json").rename(tmp_path / "schema.json")
    (tmp_path / "dialog_acts.json").write_text("{}")
    path = tmp_path / "train/dialogues_001.json"
    path.write_text(json.dumps([{"dialogue_id": "PMUL1.json", "services": ["inn"], "turns": turns}]))

    samples = read(tmp_path / "train")
    assert list(samples) == ["PMUL1.json:1", "PMUL1.json:3"]
    first, last = samples.values()
    assert (first.acts, first.rubric, first.services) == ([], "", ["inn"])
    assert first.task_description == "inn of Cambridge: search for one"
    assert [m["role"] for m in last.prompt] == ["system", "user", "assistant", "user"]
    told = "inn: inn of Cambridge\n- find_inn: search for one; optional inn-area=dontcare, inn-day"
    told += "\nslots: inn-area (north, south), inn-ref"
    assert last.prompt[0]["content"] == f"You are the assistant of this service.\n{told}"


def test_the_assistant_may_greet_first(tmp_path):
    greeted = write(tmp_path, [system("Hello!"), *TURNS[:2]])
    with pytest.raises(BadTrace, match=r"strict .*greetings_first"):
        read(greeted, strict=True)
    ((_, trace),) = read_traces(greeted, "auto", None, ReadOptions(ground="history"))
    (sample,) = trace.samples
    assert [message["content"] for message in sample.prompt] == ["Hello!", "A boat, please."]
    assert (trace.repairs, trace.split_key) == ({"greetings_first": 1}, "a boat, please.")


def test_a_null_is_no_field(tmp_path):
    told = [TURNS[0], system("5 boats.", call=SEARCH, rows=ROWS), TURNS[2], system("Bye.", act("GOODBYE"))]
    nulls = json.loads(json.dumps(told))
    nulls[0]["frames"][0] |= {"actions": None, "service_results": None}
    nulls[0]["frames"][0]["state"] |= {"slot_values": None, "requested_slots": None}
    nulls[1]["frames"][0] |= {"state": None, "slots": None, "actions": None}
    nulls[3]["frames"][0] |= {"service_call": None, "service_results": None}
    nulls[3]["frames"][0]["actions"][0] |= {"slot": None, "values": None, "canonical_values": None}
    schema = json.loads(json.dumps(SCHEMA))
    schema[0]["slots"][0] |= {"possible_values": None, "is_categorical": None}
    for learn in ("answers", "calls"):
        with_nulls = read(write(tmp_path / "nulls", nulls, schema=schema), learn=learn)
        assert with_nulls == read(write(tmp_path / "told", told), learn=learn)


def test_names_stand_in_where_a_schema_describes_nothing(tmp_path):
    bare = [
        {
            "service_name": "Boats_1",
            "slots": [{"name": "harbour"}, {"name": "day", "is_categorical": True}, {"name": "price"}],
            "intents": [{"name": "FindBoat", "required_slots": ["harbour", "day"]}, {"name": "HireBoat"}],
        },
        {"service_name": "Tides_1"},
    ]
    turns = [
        TURNS[0],
        system("What price, and hire it?", act("REQUEST", "price"), act("OFFER_INTENT", "x", "HireBoat")),
    ]
    sample = read(write(tmp_path, turns, schema=bare), learn="calls")["d0:1"]
    told = "Boats_1\n- FindBoat; needs harbour, day\n- HireBoat\nslots: price"
    assert sample.prompt[0]["content"] == f"You are the assistant of this service.\n{told}"
    assert sample.task_description == "Boats_1: find boat"
    assert sample.rubric == "ask for: the price, or what else is needed: the harbour, the day; offer to: hire boat"
    function = sample.tools[0]["function"]
    assert (function["description"], function["parameters"]["properties"]["day"]) == (
        "find boat",
        {"type": "string", "description": "day"},
    )
