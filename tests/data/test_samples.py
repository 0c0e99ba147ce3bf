"""Shows that traces of every format become checked samples, in two splits that share nothing, or one clear error."""

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import SGD

from grpo_kit.data.prepare import prepare
from grpo_kit.data.readers import read_traces
from grpo_kit.data.readers.base import ReadOptions
from grpo_kit.data.rubrics import SYSTEM_ACTS, load_schema, rubric_from_acts, task_description
from grpo_kit.data.samples import Act, Sample, check_turns, fingerprint, read_samples
from grpo_kit.data.splits import check_splits
from grpo_kit.errors import BadTrace

needs_sgd = pytest.mark.skipif(not SGD.exists(), reason=f"the Schema-Guided Dialogue files are not at {SGD}")
OUTPUTS = ["data_card.json", "eval.jsonl", "train.jsonl"]

SCHEMA = [
    {
        "service_name": "Cafes_1",
        "description": "Finds cafes",
        "slots": [
            {"name": "city", "description": "City of the cafe", "possible_values": []},
            {"name": "date", "description": "Date of the visit", "possible_values": []},
            {"name": "type", "description": "Type of the cafe", "possible_values": []},
            {"name": "number_stops", "description": "Stops on the way", "possible_values": []},
            {"name": "has_wifi", "description": "Whether it has wifi", "possible_values": ["True", "False"]},
        ],
        "intents": [{"name": "BookCafe", "description": "Book a table at a cafe"}],
    }
]


def turn(speaker: str, utterance: str, *actions: tuple) -> dict:
    frame = {"service": "Cafes_1", "actions": [{"act": a, "slot": s, "values": list(v)} for a, s, v in actions]}
    if speaker == "USER":
        frame["state"] = {"active_intent": "BookCafe"}
    return {"speaker": speaker, "utterance": utterance, "frames": [frame]}


def dialogue(name: str, opening: str | None = None) -> dict:
    turns = [
        turn("USER", opening or f"I want coffee, says {name}."),
        turn("SYSTEM", "In which city?", ("REQUEST", "city", [])),
        turn("USER", "In Oslo."),
        turn("SYSTEM", "Oslo on March 1st?", ("CONFIRM", "city", ["Oslo"]), ("CONFIRM", "date", ["March 1st"])),
    ]
    return {"dialogue_id": name, "services": ["Cafes_1"], "turns": turns}


def write_sgd(folder: Path, *files: object) -> Path:
    """An SGD folder with a dialogue file for each of `files`: what it holds, or its bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    for number, content in enumerate(files, 1):
        raw = content if isinstance(content, bytes) else json.dumps(content, indent=1).encode()
        (folder / f"dialogues_{number:03}.json").write_bytes(raw)
    return folder


def write_lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def chat(*contents: str, **fields) -> dict:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)], **fields}


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def both(out: Path) -> tuple[list[Sample], list[Sample]]:
    return list(read_samples(out / "train.jsonl")), list(read_samples(out / "eval.jsonl"))


# ---- real dialogues


@needs_sgd
@pytest.mark.parametrize(("part", "dialogues", "turns"), [("train", 896, 8164), ("dev", 196, 1324)])
def test_real_dialogues_become_one_sample_per_system_turn_in_two_disjoint_splits(tmp_path, part, dialogues, turns):
    card = prepare(SGD / part, tmp_path)
    train, held_out = both(tmp_path)

    assert (sum(card["dialogues"].values()), sum(card["samples"].values())) == (dialogues, turns)
    assert card["samples"] == {"train": len(train), "eval": len(held_out)}
    assert card["left_out_as_duplicate"] == card["skipped"]["count"] == 0
    assert 0.07 < len(held_out) / turns < 0.13
    for what in (lambda s: s.dialogue_id, lambda s: json.dumps(s.prompt)):
        assert not {what(s) for s in train} & {what(s) for s in held_out}
    check_splits(tmp_path / "train.jsonl", tmp_path / "eval.jsonl")

    told = {s.id: s for _, trace in read_traces(SGD / part, "sgd", None, ReadOptions()) for s in trace.samples}
    assert {s.id: s for s in train + held_out} == told, "what is read back is what was prepared"
    assert all(s.rubric and s.task_description and s.prompt[-1]["role"] in ("user", "tool") for s in told.values())
    for sample in told.values():
        check_turns(sample.prompt)
    assert card["answerable"]["from_prompt"] > 0.99 * card["answerable"]["turns"] > 400
    assert sum(card["acts"].values()) == sum(len(s.acts) for s in told.values())
    assert card["source"] == f"sgd/{part}"
    assert card == json.loads((tmp_path / "data_card.json").read_text())


@needs_sgd
def test_no_real_dialogue_moves_when_files_are_added(tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for name in ("schema.json", "dialogues_002.json", "dialogues_090.json"):
        (few / name).write_bytes((SGD / "train" / name).read_bytes())
    prepare(few, tmp_path / "before")
    prepare(SGD / "train", tmp_path / "after")

    for before, after in zip(both(tmp_path / "before"), both(tmp_path / "after"), strict=True):
        assert before and {s.id for s in before} < {s.id for s in after}


# ---- what samples say


def test_an_sgd_turn_carries_its_acts_a_rubric_and_its_task(tmp_path):
    prepare(write_sgd(tmp_path / "in", [dialogue(f"d{n}") for n in range(20)]), tmp_path / "out", eval_fraction=0.3)
    train, _ = both(tmp_path / "out")
    first, second = [s for s in train if s.dialogue_id == train[0].dialogue_id]

    assert (first.rubric, first.turn_index, first.ground_truth) == ("ask for: the city", 1, "In which city?")
    assert second.rubric == "confirm: the city is Oslo, the date is March 1st"
    assert second.acts[1] == Act("Cafes_1", "CONFIRM", "date", ("March 1st",))
    assert [m["content"] for m in second.prompt[1:]] == [first.prompt[1]["content"], "In which city?", "In Oslo."]
    assert (second.services, second.task_description) == (["Cafes_1"], "Finds cafes: book a table at a cafe")


def test_a_rubric_words_every_system_act(tmp_path):
    def acts(*said):
        return [Act("Cafes_1", act, slot, tuple(values)) for act, slot, *values in said]

    schema = load_schema(write_sgd(tmp_path / "in") / "schema.json")
    example = acts(("REQUEST", "city"), ("CONFIRM", "date", "March 1st"))
    assert rubric_from_acts(example, schema) == "ask for: the city; confirm: the date is March 1st"
    rest = acts(
        ("REQUEST", "type", "bar", "diner"),
        ("REQUEST", "has_wifi"),
        ("OFFER", "number_stops", "2"),
        ("INFORM", "has_wifi", "False"),
        ("INFORM_COUNT", "count", "7"),
        ("OFFER_INTENT", "intent", "BookCafe"),
        ("NOTIFY_SUCCESS", ""),
        ("NOTIFY_FAILURE", ""),
        ("REQ_MORE", ""),
        ("GOODBYE", ""),
    )
    assert rubric_from_acts(rest, schema) == (
        "ask for: the type of the cafe (such as bar or diner), has wifi (yes or no); offer: the number of stops is 2; "
        "state: has wifi: no; say how many were found: 7; offer to: book a table at a cafe; "
        "say that it has been done; say that it could not be done; ask whether anything else is needed; say goodbye"
    )
    assert {act.act for act in example + rest} == set(SYSTEM_ACTS)
    assert task_description(["Cafes_1"], {}, schema) == "Finds cafes"


def test_every_assistant_message_of_a_chat_is_a_sample(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    rows = [chat(f"Hello {n}", "Hi.", "How are you?", "Fine.", id=f"c{n}", rubric="be kind") for n in range(20)]
    rows.append({"messages": [system, *chat("Only a word?", "Yes.", "Unanswered")["messages"]]})
    card = prepare(write_lines(tmp_path / "chats.jsonl", *rows), tmp_path / "out", eval_fraction=0.3)
    samples = {s.id: s for split in both(tmp_path / "out") for s in split}

    assert sum(card["samples"].values()) == len(samples) == 41
    assert samples["c7:3"].prompt == chat("Hello 7", "Hi.", "How are you?")["messages"]
    assert (samples["c7:3"].ground_truth, samples["c7:3"].rubric) == ("Fine.", "be kind")
    anonymous = samples["chats-21:2"]
    assert (anonymous.prompt[0], anonymous.rubric, anonymous.dialogue_id) == (system, "", "chats-21")


def test_ready_made_samples_keep_their_fields_and_never_leak(tmp_path):
    act = {"service": "Cafes_1", "act": "CONFIRM", "slot": "city", "values": ["Oslo"]}
    full = {
        "id": "mine",
        "prompt": chat("To Oslo.")["messages"],
        "ground_truth": "Oslo?",
        "dialogue_id": "x",
        "rubric": "confirm Oslo",
        "acts": [act],
        "turn_index": 3,
    }
    rows = [full, *({"prompt": f"Question {n}", "ground_truth": f"Answer {n}"} for n in range(20))]
    rows += [{"prompt": "Hello", "ground_truth": "Hi", "dialogue_id": f"d{n}"} for n in range(20)]
    rows += [chat(f"Opening {n}", "Yes?", id=f"m{n}") for n in range(9)]  # dialogues of which both formats hold a part
    rows += [{"prompt": f"Part {n}", "ground_truth": "Yes.", "dialogue_id": f"m{n}"} for n in range(9)]
    card = prepare(write_lines(tmp_path / "in" / "ready.jsonl", *rows), tmp_path / "out", eval_fraction=0.4)
    train, held_out = both(tmp_path / "out")
    samples = {s.id: s for s in train + held_out}

    mine = samples["mine"]
    assert (mine.dialogue_id, mine.turn_index, mine.rubric) == ("x", 3, "confirm Oslo")
    assert mine.acts == [Act("Cafes_1", "CONFIRM", "city", ("Oslo",))]
    assert samples["ready-2"].ground_truth == "Answer 0"
    assert 0 < card["left_out_as_duplicate"] == len(rows) - len(samples), (
        "what is in both splits stays where it was first"
    )
    assert sum("Hello" in (s.prompt[0]["content"] for s in split) for split in (train, held_out)) == 1
    assert sum(card["dialogues"].values()) == len({s.dialogue_id or s.id for s in samples.values()})
    check_splits(tmp_path / "out/train.jsonl", tmp_path / "out/eval.jsonl")


@pytest.mark.parametrize(
    ("sample", "what"),
    [({"prompt": "A", "ground_truth": "b"}, "prompt"), ({"dialogue_id": "d", "prompt": "B"}, "dialogue")],
)
def test_check_splits_finds_what_stands_in_both(tmp_path, sample, what):
    train = write_lines(tmp_path / "train.jsonl", {"prompt": chat("A")["messages"], "ground_truth": "a"})
    write_lines(train, *train.read_bytes().splitlines(), {"prompt": "C", "ground_truth": "c", "dialogue_id": "d"})
    fine = {"prompt": chat("Z")["messages"], "ground_truth": "z", "dialogue_id": "e"}
    held_out = write_lines(tmp_path / "eval.jsonl", fine, {"ground_truth": "x", **sample, "id": "leak"})
    with pytest.raises(BadTrace, match=f"eval.jsonl, sample leak: its {what} is in .*train.jsonl too"):
        check_splits(train, held_out)


# ---- memory, bytes


def test_memory_holds_one_file_at_a_time_and_the_ids(tmp_path):
    def peak(copies: int) -> int:
        files = [[dialogue(f"{n}-{copy}") for n in range(60)] for copy in range(copies)]
        folder = write_sgd(tmp_path / f"in{copies}", *files)
        del files
        tracemalloc.start()
        card = prepare(folder, tmp_path / f"out{copies}")
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(card["dialogues"].values()) == 60 * copies
        return top

    peak(1)  # imports and caches
    assert peak(12) - peak(2) < 10 * 60 * 400, "bytes"


def test_the_same_input_gives_the_same_bytes_and_the_seed_another_split(tmp_path):
    folder = write_sgd(tmp_path / "in", [dialogue(f"d{n}") for n in range(30)])
    cards = [prepare(folder, tmp_path / out, seed=seed) for out, seed in (("a", 1), ("b", 1), ("c", 2))]
    for name in OUTPUTS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    assert cards[0]["fingerprint"] != cards[2]["fingerprint"]
    assert cards[0]["fingerprint"] == fingerprint([tmp_path / "a/train.jsonl", tmp_path / "a/eval.jsonl"])
    assert str(tmp_path) not in (tmp_path / "a/data_card.json").read_text()


# ---- bad input


def broken(**changes) -> dict:
    return {**dialogue("bad"), **changes}


TURNS = dialogue("bad")["turns"]
NO_UTTERANCE = [TURNS[0], {k: v for k, v in TURNS[1].items() if k != "utterance"}]
BAD_SGD = {
    "truncated": (
        json.dumps([dialogue("a")], indent=1).encode()[:300],
        "dialogues_002.json: it is not a list .* cut short",
    ),
    "empty file": (b"", "dialogues_002.json: it is not a list of dialogues in JSON"),
    "no list": ({}, "dialogues_002.json: it is not a list of dialogues .*got `object`"),
    "latin-1": ('[{\n"dialogue_id": "caf\xe9"}]'.encode("latin-1"), "dialogues_002.json.*codec can't decode byte 0xe9"),
    "utf-16": (json.dumps([dialogue("a")]).encode("utf-16"), r"dialogues_002.json: .*invalid character \(byte 0\)"),
    "no id": ([broken(dialogue_id="")], r"dialogue number 1: Expected `str` of length >= 1 - at `\$.dialogue_id`"),
    "id twice": (
        [dialogue("d1")],
        r"002.json, dialogue number 1: the id 'd1' occurs twice",
    ),
    "no turns": (
        [{"dialogue_id": "bad", "services": ["Cafes_1"]}],
        "dialogue number 1: .*missing required field `turns`",
    ),
    "no utterance": (
        [broken(turns=NO_UTTERANCE)],
        "dialogue number 1: turn 1: .*field `utterance`",
    ),
    "empty utterance": ([broken(turns=[turn("USER", "")])], "turn 0: .*length >= 1 - at `..utterance`"),
    "no state": (
        [broken(turns=[{**TURNS[0], "frames": [{"service": "Cafes_1"}]}, TURNS[1]])],
        "turn 0: the USER's frame of 'Cafes_1' has no `state`",
    ),
    "empty service": (
        [broken(turns=[{**TURNS[0], "frames": [{"service": "", "state": {"active_intent": "Book"}}]}, TURNS[1]])],
        "turn 0: .*length >= 1 - at `..frames.0..service`",
    ),
    "services": ([broken(services=[5])], "Expected `str`, got `int` - at `\\$.services.0.`"),
    "deep": (b'[{"x": ' + b"[" * 2000 + b"]" * 2000 + b"}]", "dialogues_002.json.* recursion depth exceeded"),
    "no speaker": (
        [broken(turns=[{"utterance": "Hi", "frames": []}])],
        "turn 0: .*field `speaker`",
    ),
    "only SYSTEM": ([broken(turns=TURNS[1:2])], "no SYSTEM turn after a USER's"),
    "USER twice": ([broken(turns=[TURNS[0], *TURNS])], "turn 1: two turns of one speaker"),
    "no answer": ([broken(turns=TURNS[:1])], "no SYSTEM turn"),
    "service": ([broken(services=["Cafe_1"])], "service 'Cafe_1' is not in schema.json. Did you mean Cafes_1?"),
    "act": ([broken(turns=[TURNS[0], turn("SYSTEM", "Hm", ("ASK", "", []))])], "'ASK' is not an act of SYSTEM's"),
    "values": (
        [broken(turns=[TURNS[0], turn("SYSTEM", "3", ("OFFER", "city", [3]))])],
        "Expected `str`, got `int` - at .*values.0.",
    ),
}
BAD_LINES = {
    "truncated": (b'{"messages": [{"role', r"bad.jsonl:21: unexpected end of data: line 1 column 21"),
    "latin-1": ('{"prompt": "caf\xe9"}'.encode("latin-1"), "bad.jsonl:21: .*not valid UTF-8"),
    "neither": (
        {"dialog": []},
        "bad.jsonl:21: no field has a name known for a chat or a prompt: it has 'dialog'. Rename the one",
    ),
    "no object": (1, r"bad.jsonl:21: it is not a JSON object with fields, but 1"),
    "misspelt": (
        {"prompt": "A", "ground_trut": "b"},
        "21: no field has a name known for the answer: .* Rename 'ground_trut' to 'ground_truth'",
    ),
    "empty answer": ({"prompt": "A", "ground_truth": ""}, "21: 'ground_truth' is empty"),
    "prompt's end": (
        {"prompt": chat("a", "b")["messages"], "ground_truth": "c"},
        "21: the prompt must end with the user",
    ),
    "wrong type": (
        {"prompt": "A", "ground_truth": "b", "turn_index": "third"},
        "`int`, got `str` - at `.*turn_index`",
    ),
    "role": (
        {"messages": [{"role": "narrator", "content": "x"}]},
        "21: message 1 and what follows is left out: it has the role 'narrator'; there are: system, user",
    ),
    "order": ({"messages": chat("a", "b")["messages"][::-1]}, "21: no assistant message that answers"),
    "no answer": (chat("a"), "21: no assistant message"),
    "no message": ({"messages": ["a", "b"]}, "21: message 1 and .*: it is not an object with a role and content"),
    "id twice": (chat("a", "b", id="c3"), "21: the id 'c3' occurs twice"),
}


def refused_and_then_skipped(traces: Path, out: Path, message: str, good: int) -> None:
    """The error says `message`, leaves no trace and touches no earlier output; skip_bad leaves out that one thing."""
    with pytest.raises(BadTrace, match=message):
        prepare(traces, out, eval_fraction=0.3)
    assert not out.exists()

    card = prepare(traces, out, eval_fraction=0.3, skip_bad=True)
    assert sum(card["dialogues"].values()) == good
    assert card["skipped"]["count"] == len(card["skipped"]["first"]) == 1
    assert str(traces.parent) not in card["skipped"]["first"][0]

    earlier = {name: (out / name).read_bytes() for name in names(out)}
    with pytest.raises(BadTrace, match=r"[.?] [A-Z][^.]*, or leave out bad rows with skip_bad \(--skip-bad\)$"):
        prepare(traces, out, eval_fraction=0.3, seed=1)
    assert list(earlier) == OUTPUTS and earlier == {name: (out / name).read_bytes() for name in names(out)}


@pytest.mark.parametrize("case", BAD_SGD)
def test_a_bad_dialogue_or_file_is_refused_or_skipped(tmp_path, case):
    content, message = BAD_SGD[case]
    traces = write_sgd(tmp_path / "in", [dialogue(f"d{n}") for n in range(20)], content)
    refused_and_then_skipped(traces, tmp_path / "out", message, good=20)


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_refused_or_skipped(tmp_path, case):
    content, message = BAD_LINES[case]
    good = [chat(f"Hello {n}", "Hi.", id=f"c{n}") for n in range(19)]
    traces = write_lines(tmp_path / "bad.jsonl", good[0], b"", *good[1:], content)
    refused_and_then_skipped(traces, tmp_path / "out", message, good=19)


def test_the_card_names_the_first_twenty_of_what_was_skipped(tmp_path):
    rows = [chat(f"Hello {n}", "Hi.") for n in range(20)] + [chat("Hm")] * 25
    card = prepare(write_lines(tmp_path / "c.jsonl", *rows), tmp_path / "out", eval_fraction=0.3, skip_bad=True)
    assert card["skipped"]["count"] == 25
    assert [reason.split(": ")[0] for reason in card["skipped"]["first"]] == [f"c.jsonl:{n}" for n in range(21, 41)]


def test_a_folder_or_setting_that_cannot_work_is_refused_with_what_would(tmp_path):
    def refuses(message: str, traces: Path, **settings) -> None:
        for skip_bad in (False, True):  # none of these can be skipped
            with pytest.raises(ValueError, match=message):
                prepare(traces, tmp_path / "out", skip_bad=skip_bad, **settings)
        assert not (tmp_path / "out").exists()

    sgd = write_sgd(tmp_path / "sgd", [dialogue(f"d{n}") for n in range(3)])
    (tmp_path / "void").mkdir()
    refuses("nowhere: there is no such file or folder", tmp_path / "nowhere")
    refuses(
        r"void: no dialogues_\*.json, \*.jsonl, .*\*.parquet here\. Give the files, or the folder", tmp_path / "void"
    )
    refuses(r"no dialogues_.* here\. Did you mean .*/sgd\?", tmp_path)
    refuses(r"no dialogues_.*json here\. Give", tmp_path / "void", format="sgd")
    refuses("no format 'SGD'.*there are: auto, sgd", sgd, format="SGD")
    refuses("eval_fraction must lie between 0 and 1", sgd, eval_fraction=0)
    few = (
        r"the input has 3 dialogue\(s\), and none of them goes to eval.jsonl with eval_fraction 1e-06\. Choose another"
    )
    refuses(few, sgd, eval_fraction=1e-6)
    same = write_sgd(tmp_path / "same", [dialogue(f"d{n}", "Hello") for n in range(3)])
    refuses(r"3 dialogue\(s\), .*those with the same beginning stay together", same)
    refuses("c.jsonl: it is empty. Name what holds your traces", write_lines(tmp_path / "c.jsonl"))
    (sgd / "schema.json").write_text('[{"name": "Cafes_1"}]')
    refuses("schema.json: .*missing required field `service_name` - at `.*0.", sgd)
    (sgd / "schema.json").unlink()
    refuses(r"schema.json: missing\. Copy", sgd)


def test_outputs_never_overwrite_what_is_read(tmp_path):
    train = write_lines(tmp_path / "train.jsonl", *(chat(f"Hello {n}", "Hi.") for n in range(20)))
    for traces in (train, tmp_path):
        with pytest.raises(ValueError, match="would overwrite"):
            prepare(traces, tmp_path)
    with pytest.raises(ValueError, match=r"is a file\. Name a folder"):
        prepare(train, train)


def test_several_at_once_neither_mix_their_files_nor_get_into_each_others_way(tmp_path):
    traces = write_sgd(tmp_path / "in", [dialogue(f"d{n}") for n in range(30)])
    bad = write_sgd(tmp_path / "bad", [dialogue(f"d{n}") for n in range(30)], b"")
    out = tmp_path / "new" / "out"
    with ThreadPoolExecutor(8) as pool:
        good = [pool.submit(prepare, traces, out, eval_fraction=0.3, seed=seed) for seed in range(6)]
        failed = [pool.submit(prepare, bad, out) for _ in range(6)]
    assert {type(attempt.exception()) for attempt in failed} == {BadTrace}
    assert len({attempt.result()["fingerprint"] for attempt in good}) == 6
    card = json.loads((out / "data_card.json").read_text())
    assert card["fingerprint"] == fingerprint([out / "train.jsonl", out / "eval.jsonl"])
    assert names(out) == OUTPUTS and names(out.parent) == ["out"]


def test_read_samples_names_file_line_and_field(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", {"prompt": "A", "ground_truth": "b"}, {"prompt": "A"})
    samples = read_samples(path)
    assert next(samples) == Sample("train-1", "A", "b")
    with pytest.raises(
        BadTrace, match=r"train.jsonl:2: .*missing required field `ground_truth`\. Correct it, or prepare"
    ):
        next(samples)
