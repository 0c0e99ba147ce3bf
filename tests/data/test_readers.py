"""Shows that dialogues and prompts of every common form are read, repaired where odd, and keep all of their fields."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from hub_server import HubServer, Repository
from pyarrow import parquet

from grpo_kit.data.prepare import prepare
from grpo_kit.data.readers import read_traces
from grpo_kit.data.readers.base import ReadOptions
from grpo_kit.data.samples import Sample, call_text, read_samples
from grpo_kit.errors import BadTrace

ROWS = [{"question": f"What is {n} plus 1?", "answer": n + 1, "level": "007"} for n in range(12)]
ASKED = [(row["question"], str(row["answer"])) for row in ROWS]
PARAMETERS = {"type": "object", "properties": {"item": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "stock", "description": "Counts", "parameters": PARAMETERS}}]


def read(path: Path, format: str = "auto", **options) -> tuple[list[Sample], list, dict[str, int]]:
    """All samples of a file, what was bad, and the repairs."""
    bad, repairs = [], {}
    traces = [trace for _, trace in read_traces(path, format, bad.append, ReadOptions(**options))]
    for trace in traces:
        repairs |= trace.repairs
    return [sample for trace in traces for sample in trace.samples], [str(error) for error in bad], repairs


@pytest.fixture
def row(tmp_path):
    """Reads one row."""

    def read_row(_row: object, format: str = "auto", **options):
        path = tmp_path / "row.jsonl"
        path.write_text(json.dumps(_row) + "\n{}")
        samples, bad, repairs = read(path, format, **options)
        assert "row.jsonl:2: no field" in bad.pop()
        return samples, bad, repairs

    return read_row


def says(role: str, content: object = None, **fields) -> dict:
    return {"role": role, "content": content, **fields}


def calls(*names: str, **fields) -> dict:
    return {
        "role": "assistant",
        "tool_calls": [{"id": n, "function": {"name": n, "arguments": '{"b": 1, "a": 2}'}} for n in names],
        **fields,
    }


# ---- containers


def write_csv(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        rows = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        rows.writeheader()
        rows.writerows(ROWS)


LINES = "\r\n".join(map(json.dumps, ROWS)).encode()
CONTAINERS = {
    "lines.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES),
    "lines.json": lambda path: path.write_bytes(LINES),
    "lines.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "pretty.jsonl": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "inside.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=1)),
    "comma.csv": lambda path: write_csv(path),
    "excel.csv": lambda path: write_csv(path, ";", "utf-8-sig"),
    "tab.tsv": lambda path: write_csv(path, "\t"),
    "table.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=5),
    "folder": lambda path: Dataset.from_list(ROWS).save_to_disk(path),
    "one_line.json": lambda path: path.write_text(json.dumps({"data": ROWS})),
    "splits": lambda path: DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS)).save_to_disk(path),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_container_gives_the_same_rows(tmp_path, name):
    CONTAINERS[name](tmp_path / name)
    samples, bad, repairs = read(tmp_path / name)
    assert [(s.prompt, s.ground_truth) for s in samples] == ASKED
    assert all(s.columns == {"level": "007"} for s in samples) and not bad and not repairs
    assert len({s.id for s in samples}) == len(samples)


def test_a_folder_may_mix_containers_and_every_row_has_a_place_and_an_id(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("same.csv", "same.jsonl", "b.json"):
        (folder / name).write_text("question,answer\n" if name == "b.csv" else "")
    write_csv(folder / "same.csv")
    (folder / "same.jsonl").write_bytes(b'{"question": "Why?"}\n' + LINES)
    (folder / "b.json").write_text(json.dumps([*ROWS, {"question": "How?"}]))
    (folder / "README.md").write_text("no data")
    samples, bad, _ = read(folder)
    assert len({s.id for s in samples}) == 3 * len(ROWS)
    assert [text.partition(": ")[0] for text in bad] == [f"{folder}/b.json, row 13", f"{folder}/same.jsonl:1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.csv", 'question,answer\n"a, b",c\nd,e,f\ng,h\n', r"short.csv:3: it has more cells than the header"),
        (
            "quote.csv",
            'question,answer\na,b\n"c,d\n',
            r"quote.csv: the file can't be read to its end: line 2: unexpected end of data",
        ),
        (
            "twice.csv",
            "question,answer,question\na,b,c\n",
            "twice.csv: the file can't be read to its end: its header has a name twice",
        ),
        ("nan.jsonl", '{"question": NaN}\n' * 2, "nan.jsonl:1: unexpected character"),
        ("cut.json", json.dumps(ROWS, indent=1)[:99], "cut.json: the file can't be read to its end: .*truncated"),
        ("cut.jsonl", '{"question": "a"\n{"question": "b", "answer": "c"}', r"cut.jsonl:1: unexpected end of data"),
        ("none.parquet", "PAR1", "none.parquet: the file can't be read to its end: Parquet file size is 4 bytes"),
        (
            "latin.csv",
            b"question,answer\ncaf\xe9,b\n",
            "latin.csv: the file can't be read to its end: 'utf-8' .* Save it as UTF-8",
        ),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "zz.jsonl").write_text('{"question": "q", "answer": "a"}')
    samples, bad, _ = read(tmp_path)
    assert len(bad) == max(1, name.startswith("nan") * 2) and samples[-1].prompt == "q"
    with pytest.raises(BadTrace, match=message):
        prepare(tmp_path / name, tmp_path / "out")


def test_the_hub_is_read_by_its_own_client_and_its_absence_says_what_to_download(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/shop.jsonl").write_bytes(LINES)
    code = """if True:
        import grpo_kit, huggingface_hub
        print(grpo_kit.prepare("hf://demo-lab/shop:train", "out", eval_fraction=0.3))
        for name in ("hf://demo-lab/shop:dev", "hf://demo-lab/none", "hf://demo-lab/shop/other"):
            try: grpo_kit.prepare(name, "out")
            except grpo_kit.BadTrace as error: print(error)
            huggingface_hub.constants.HF_HUB_OFFLINE = name.endswith("none")
    """
    with HubServer() as hub:
        hub.models["demo-lab/shop"] = Repository(tmp_path / "data")
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert "'source': 'hf://demo-lab/shop:train'" in said[0] and "'skipped': {'count': 0" in said[0], done.stderr
    assert (tmp_path / "out/train.jsonl").read_bytes().count(b"\n") >= 5
    assert said[1].startswith(
        "hf://demo-lab/shop:dev: `datasets` can't read it: Bad split: dev. Available splits: ['train']"
    )
    assert said[2].startswith("hf://demo-lab/none: `datasets` can't read it: ")
    assert "the hub can't be reached" in said[3] and "`hf download demo-lab/shop --repo-type dataset" in said[3]


# ---- formats

CALL = {"type": "function", "function": {"name": "stock", "arguments": {"item": "tea"}}}
WITH_TOOLS = {
    "openai": {
        "messages": [
            says("developer", "Be brief."),
            says("user", [{"type": "text", "text": "Is there"}, {"type": "text", "text": "tea?"}]),
            says("assistant", None, tool_calls=[{"id": "1", **CALL}]),
            says("tool", [{"type": "text", "text": '{"left":4}'}], tool_call_id="1"),
            says("assistant", "Yes, four."),
        ],
        "tools": TOOLS,
    },
    "openai's older": {
        "messages": [
            says("system", "Be brief."),
            says("user", "Is there\ntea?"),
            says("assistant", None, function_call={"name": "stock", "arguments": '{"item":"tea"}'}),
            says("function", {"left": 4}, name="stock"),
            says("assistant", "Yes, four."),
        ],
        "functions": [TOOLS[0]["function"]],
    },
    "anthropic": {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            says("user", "Is there\ntea?"),
            says("assistant", [{"type": "tool_use", "id": "1", "name": "stock", "input": {"item": "tea"}}]),
            says("user", [{"type": "tool_result", "tool_use_id": "1", "content": {"left": 4}}]),
            says("assistant", [{"type": "text", "text": "Yes, four."}]),
        ],
        "tools": [{"name": "stock", "description": "Counts", "input_schema": PARAMETERS}],
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Is there\ntea?"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "stock", "args": {"item": "tea"}}}]},
            {"role": "function", "parts": [{"functionResponse": {"name": "stock", "response": {"left": 4}}}]},
            {"role": "model", "parts": [{"text": "Yes, four."}]},
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "stock",
                        "description": "Counts",
                        "parameters": {"type": "OBJECT", "properties": {"item": {"type": "STRING"}}},
                    }
                ]
            }
        ],
    },
    "sharegpt": {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Is there\ntea?"},
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": '{"left":4}'},
            {"from": "gpt", "value": "Yes, four."},
        ],
        "tools": json.dumps([TOOLS[0]["function"]]),
    },
    "hermes": {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Is there\ntea?"},
            {"from": "gpt", "value": "<tool_call>\n{'arguments': {'item': 'tea'}, 'name': 'stock'}\n</tool_call>"},
            {"from": "tool", "value": '{"left":4}'},
            {"from": "gpt", "value": "Yes, four."},
        ],
        "tools": TOOLS,
    },
}


@pytest.mark.parametrize("form", WITH_TOOLS)
def test_a_chat_with_tools_says_the_same_in_every_form(row, form):
    (answer,), bad, repairs = row(WITH_TOOLS[form])
    assert not bad and not repairs
    assert (answer.ground_truth, answer.tools) == ("Yes, four.", TOOLS)
    system, user, call, result = answer.prompt
    assert (system, user) == (says("system", "Be brief."), says("user", "Is there\ntea?"))
    assert call["content"] == "" and [each["function"] for each in call["tool_calls"]] == [CALL["function"]]
    assert (result["role"], result["content"], result["name"]) == ("tool", '{"left":4}', "stock")

    called, answer = row(WITH_TOOLS[form], learn="calls")[0]
    assert called.prompt == [system, user] and called.ground_truth == call_text(called.columns["tool_calls"])
    assert called.columns["tool_calls"] == [CALL["function"]] and answer.columns["tool_calls"] == []


def test_a_json_file_may_be_one_chat(tmp_path):
    (tmp_path / "chat.json").write_text(json.dumps([says("user", "a"), says("assistant", "b")], indent=1))
    (sample,), bad, _ = read(tmp_path)
    assert (sample.prompt, sample.ground_truth, bad) == ([says("user", "a")], "b", [])


def test_what_openai_and_gemini_write_beside_a_message(row):
    messages = [
        says("user", "a"),
        says("assistant", "b", weight=0),
        says("user", "c"),
        says("assistant", refusal="No."),
    ]
    hosted = [{"type": "web_search"}, {"googleSearch": {}}, {"functionDeclarations": [TOOLS[0]["function"]]}]
    (sample,), bad, repairs = row({"messages": messages, "tools": hosted})
    assert (sample.ground_truth, sample.tools, bad, repairs) == ("No.", TOOLS, [], {"hosted_tools_left_out": 2})
    assert row({"messages": messages, "tools": TOOLS[0]})[0][0].tools == TOOLS
    for wrong in ("hammer", ["hammer"], [{"size": 3}]):
        assert "Rename the field if it is no function" in row({"messages": messages, "tools": wrong})[1][0]
    assert "--learn calls learns" in row({"messages": [says("user", "a"), calls("x")]})[1][0]
    assert "rename the messages' to 'prompt'" in row({"messages": messages[:1], "answer": "b"})[1][0]


def test_reasoning_and_a_message_alone_are_read_in_prompts_and_answers_too(row):
    for thought in ("<think>a</think>\nb", "a</think>b"):
        for given in (
            {"prompt": "q", "answer": thought},
            {"messages": [says("user", "q"), says("assistant", thought)]},
        ):
            (sample,), bad, repairs = row(given)
            assert (sample.ground_truth, bad, repairs) == ("b", [], {"reasoning_left_out": 1})
    (sample,), *_ = row(
        {"prompt": says("user", "q"), "chosen": says("assistant", "b"), "rejected": says("assistant", "c")}
    )
    assert (sample.prompt, sample.ground_truth) == ([says("user", "q")], "b")
    alone = {"role": "assistant", "tool_calls": {"name": "x", "arguments": {}}}
    assert row({"messages": [says("user", "q"), alone]}, learn="calls")[0][0].columns["tool_calls"][0]["name"] == "x"


def test_prompts_of_two_forms_become_messages_or_are_refused_by_strict(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**row, "system": "Count." * (n % 2)}) for n, row in enumerate(ROWS)))
    card = prepare(path, tmp_path / "out", eval_fraction=0.3)
    assert card["repairs"] == {"prompts_made_messages": 6}
    assert all(
        isinstance(s.prompt, list) for name in ("train", "eval") for s in read_samples(tmp_path / f"out/{name}.jsonl")
    )
    with pytest.raises(BadTrace, match="some prompts are texts"):
        prepare(path, tmp_path / "strict", eval_fraction=0.3, strict=True)


def test_tools_answer_calls_in_parallel_and_in_any_order(row):
    tools = [says("tool", [], tool_call_id="two"), says("tool", "one's", tool_call_id="one")]
    chat = {"messages": [says("user", "Hi"), calls("one", "two"), *tools, says("assistant", "Done.")]}
    (answer,), *_ = row(chat)
    assert [(m["name"], m["content"]) for m in answer.prompt[2:]] == [("two", "[]"), ("one", "one's")]
    called, _ = row(chat, learn="calls")[0]
    assert called.ground_truth.splitlines() == [
        f'{{"arguments":{{"a":2,"b":1}},"name":"{name}"}}' for name in ("one", "two")
    ]


ANSWERED = {
    "prompt and completion": ({"prompt": "Why?", "completion": "So."}, "Why?", "So."),
    "as messages": (
        {"prompt": [says("user", "Why?")], "completion": [says("assistant", "So.")]},
        [says("user", "Why?")],
        "So.",
    ),
    "alpaca": ({"instruction": "Add", "input": "1 and 2", "output": 3}, "Add\n\n1 and 2", "3"),
    "dolly": ({"instruction": "Why?", "context": "Tea.", "response": "So.", "category": "qa"}, "Why?\n\nTea.", "So."),
    "squad": (
        {"question": "Why?", "context": "Tea.", "answers": {"text": ["So.", "Yes."], "answer_start": [1, 2]}},
        "Why?\n\nTea.",
        "So.",
    ),
    "context of a prompt that is whole": ({"prompt": "Why?", "context": "Tea.", "answer": "So."}, "Why?", "So."),
    "no context": ({"question": "Why?", "context": None, "answer": "So."}, "Why?", "So."),
    "verl": (
        {
            "data_source": "tea",
            "prompt": [says("user", "Why?")],
            "reward_model": {"style": "rule", "ground_truth": 7},
            "extra_info": {"index": 1},
        },
        [says("user", "Why?")],
        "7",
    ),
    "no input": ({"instruction": "Why?", "input": "", "output": "So."}, "Why?", "So."),
    "with system": (
        {"system_prompt": "Be brief.", "question": "Why?", "response": "So."},
        [says("system", "Be brief."), says("user", "Why?")],
        "So.",
    ),
    "preference": ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, "Why?", "So."),
    "implicit prompt": (
        {"chosen": [says("user", "Why?"), says("assistant", "So.")], "rejected": [says("user", "Why?")]},
        [says("user", "Why?")],
        "So.",
    ),
    "json text": ({"prompt": json.dumps([says("user", "Why?")]), "answer": True}, [says("user", "Why?")], "true"),
    "as pandas writes it": (
        {"messages": str([says("User", "Why?"), says("bot", "So.")])},
        [says("user", "Why?")],
        "So.",
    ),
    "a list a line": ([says("user", "Why?"), says("assistant", "So.")], [says("user", "Why?")], "So."),
}


@pytest.mark.parametrize("form", ANSWERED)
def test_prompts_and_answers_have_many_names(row, form):
    given, prompt, answer = ANSWERED[form]
    (sample,), bad, _ = row(given)
    assert (sample.prompt, sample.ground_truth, bad) == (prompt, answer, [])


def test_the_number_after_a_gsm8k_answer_is_a_column(row):
    (sample,), *_ = row({"question": "How many?", "answer": "#### no\n3+4=7\n#### 7 "})
    assert sample.ground_truth.startswith("#### no") and sample.columns == {"final_answer": "7"}
    (sample,), *_ = row({"question": "How many?", "answer": "#### Seven\nis right", "final_answer": 7})
    assert sample.columns == {"final_answer": 7}


def test_a_text_that_nulls_surround_in_a_table_is_read(tmp_path):
    rows = [
        {"messages": [says("user", "Hi"), says("assistant", "Ho")]},
        {"messages": [says("user", "Hi"), calls("a"), says("tool", "x", tool_call_id="a"), says("assistant", "Ho")]},
    ]
    rows[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"item": "tea"}
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "chats.parquet")
    samples, bad, repairs = read(tmp_path / "chats.parquet")
    assert [s.ground_truth for s in samples] == ["Ho", "Ho"] and not bad and not repairs
    assert samples[0].prompt == [says("user", "Hi")] and "content" in samples[1].prompt[1]


# ---- columns


@pytest.mark.parametrize(
    ("given", "prompt", "columns", "count"),
    [
        ({"Question": "Why?", " ANSWER ": "So.", "Level": 1}, "Why?", {"Level": 1}, 2),
        ({"Instruction": "Add", "Input": "1", "OUTPUT": "So."}, "Add\n\n1", {}, 3),
        ({"System Prompt": "Brief.", "prompt": "Why?", "Ground-Truth": "So."}, ["system", "user"], {}, 2),
        (
            {"Messages": [says("user", "Why?"), says("assistant", "So.")], "Tools": TOOLS, "Answer": 1},
            ["user"],
            {"Answer": 1},
            2,
        ),
        (
            {"QUESTION": "Why?", "Question": "?", "answer": "So.", "Solution": 1},
            "Why?",
            {"Question": "?", "Solution": 1},
            1,
        ),
    ],
)
def test_names_of_fields_are_known_in_other_letters(row, given, prompt, columns, count):
    (sample,), bad, repairs = row(given)
    assert prompt == (sample.prompt if isinstance(sample.prompt, str) else [each["role"] for each in sample.prompt])
    assert (sample.ground_truth, sample.columns, bad) == ("So.", columns, []) and repairs == {"fields_renamed": count}
    assert sample.tools == given.get("Tools", [])
    assert "fields_renamed" in row(given, strict=True)[1][0]


def test_verls_other_fields_and_a_chats_own_tool_calls_stay_columns(row):
    (sample,), *_ = row(ANSWERED["verl"][0])
    assert sample.columns.keys() == {"data_source", "reward_model", "extra_info"}

    chat, mine = (
        [says("user", "a"), calls("x"), says("tool", "b"), says("assistant", "c")],
        [{"name": "y", "arguments": {}}],
    )
    called = [{"name": "x", "arguments": {"b": 1, "a": 2}}]
    for given in ({"messages": chat}, {"prompt": chat[:1], "completion": chat[1:]}):
        samples, _, repairs = row({**given, "tool_calls": mine}, learn="calls")
        assert [s.columns for s in samples] == [{"tool_calls": c, "tool_calls_": mine} for c in (called, [])]
        assert repairs == {"columns_renamed": 1}
        assert row({**given, "tool_calls": None}, learn="calls")[0][1].columns == {"tool_calls": []}
        assert row({**given, "tool_calls": mine})[0][0].columns == {"tool_calls": mine}


def test_unknown_fields_reach_the_samples_and_colliding_ones_get_another_name(row):
    fields = {"difficulty": 3, "unit_tests": ["assert f()"], "none": None, "completions": "x", "prompt": "mine"}
    (sample,), *_ = row({"prompt": "a", "answer": "b", "prompts": 1, "prompts_": 2})
    assert sample.columns == {"prompts__": 1, "prompts_": 2}
    for column, name in ((3, "tool_calls_"), ([{"name": "f", "arguments": {}}], "tool_calls"), ([], "tool_calls")):
        assert row({"prompt": "a", "answer": "b", "tool_calls": column})[0][0].columns == {name: column}
    assert "'answer' is empty" in row({"prompt": "a", "answer": " \n"})[1][0]
    assert "'prompt' is empty" in row({"prompt": " \n", "answer": "b"})[1][0]
    samples, bad, repairs = row({"messages": [says("user", "a"), says("assistant", "b")] * 2, **fields})
    columns = {"difficulty": 3, "unit_tests": ["assert f()"], "none": None, "completions_": "x", "prompt_": "mine"}
    assert [s.columns for s in samples] == [columns] * 2 and not bad and repairs == {"columns_renamed": 2}
    (sample,), bad, _ = row({"prompt": "a", "answer": "b", "images": ["a.png"], "ground_truth": None, "answer_": 1})
    assert sample.columns == {"answer_": 1} and "the column 'images' is left out" in bad[0]


# ---- repairs

REPAIRED = {
    "roles_renamed": ([says("USER", "a"), says("Bot", "b")], [says("user", "a")], 2),
    "turns_joined": ([says("user", "a"), says("user", "b"), says("assistant", "c")], [says("user", "a\nb")], 1),
    "greetings_first": (
        [says("system", "s"), says("assistant", "Hello"), says("user", "a"), says("assistant", "b")],
        [says("system", "s"), says("assistant", "Hello"), says("user", "a")],
        1,
    ),
    "empty_turns_dropped": (
        [says("system", ""), says("user", "a"), says("user", " "), says("assistant", "b")],
        [says("user", "a")],
        2,
    ),
    "put_in_users_words": (
        [says("user", "a"), says("assistant", "b"), says("tool", "found"), says("assistant", "c")],
        [says("user", "a"), says("assistant", "b"), says("user", "found")],
        1,
    ),
    "reasoning_left_out": (
        [
            says("user", "a"),
            says("assistant", [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "b"}]),
            says("user", "c"),
            says("assistant", "<think>hm</think>\n\nd"),
            says("user", "e"),
            says("assistant", "f", reasoning_content="hm"),
        ],
        [says("user", "a"), says("assistant", "b"), says("user", "c"), says("assistant", "d"), says("user", "e")],
        3,
    ),
}


@pytest.mark.parametrize("repair", REPAIRED)
def test_what_is_odd_is_repaired_and_counted_or_refused_by_strict(row, repair):
    messages, prompt, count = REPAIRED[repair]
    samples, bad, repairs = row({"messages": messages})
    assert (samples[-1].prompt, bad, repairs) == (prompt, [], {repair: count})
    _, (refused,), _ = row({"messages": messages}, strict=True)
    assert (
        f"needs a repair, which strict (--strict) refuses: .*({repair})".replace(".*", "") in refused
        or repair in refused
    )


def test_one_odd_turn_never_loses_the_dialogue(row):
    begin = [says("user", "a"), says("assistant", "b")]
    for odd in ([says("narrator", "Later."), *begin], [says("user", [{"type": "image_url"}]), says("assistant", "c")]):
        samples, (bad,), _ = row({"messages": begin + odd})
        assert [s.ground_truth for s in samples] == ["b"] and ": message 3 and what follows is left out: " in bad
    samples, bad, repairs = row({"messages": [*begin, says("user", "c")]})
    assert len(samples) == 1 and not bad and not repairs
    broken = [*begin, says("user", "c"), calls("x") | {"function_call": {"name": "x", "arguments": "{"}}]
    samples, (bad,), _ = row({"messages": broken})
    assert len(samples) == 1 and "arguments are not a JSON object" in bad


def test_pictures_are_refused_in_words_and_skip_bad_keeps_the_text_beside_them(tmp_path):
    def chat(n):
        picture = [{"type": "image_url", "image_url": {"url": "a.png"}}] * (n == 3)
        return {
            "messages": [says("user", [*picture, {"type": "text", "text": f"picture {n}"}]), says("assistant", "b")]
        }

    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps(chat(n)) for n in range(24)))
    with pytest.raises(BadTrace, match=r"chats.jsonl:4: message 1 holds 'image_url', and only text"):
        prepare(path, tmp_path / "out", eval_fraction=0.3)
    card = prepare(path, tmp_path / "out", eval_fraction=0.3, skip_bad=True)
    assert sum(card["samples"].values()) == 24 and card["skipped"]["count"] == 1


def test_the_same_fault_of_every_line_is_said_once_with_what_mends_it(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("asked,reply\n" + "".join(f"q{n},a{n}\n" for n in range(30)))
    wanted = r"rows.csv: no sample is left. Skipped: 30 times no field has a name known for a chat or a prompt: it has "
    with pytest.raises(
        BadTrace,
        match=wanted + r"'asked', 'reply'\. Rename the one that is \(chat: messages; .*\)\. Correct the traces$",
    ):
        prepare(path, tmp_path / "out", skip_bad=True)
    with pytest.raises(BadTrace, match=r"no field of the format chat: it has .* --format samples reads it"):
        prepare(_with_header(path, "question,answer"), tmp_path / "out", format="chat")
    card = prepare(_with_header(path, "prompt,answer,level"), tmp_path / "out", eval_fraction=0.3)
    assert card["columns"] == ["level"] and card["repairs"] == {}


def _with_header(path: Path, header: str) -> Path:
    path.write_text("\n".join([header, *path.read_text().splitlines()[1:]]))
    return path
