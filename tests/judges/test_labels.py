"""People's labels: kept in a CSV file that nothing is lost from, and read from and written to other tools' tables."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest

from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError
from grpo_kit.judges.labels import COLUMNS, Label, LabelFile, from_table, read_labels, scored, to_table

TIME = "2026-11-29T12:00:00+00:00"
LABELS = [
    Label("s1", 'He said "7, or 8"\r\nin ünïcode', label=4, labeller="Ann", seconds=2.5, note="[sic]", time=TIME),
    Label("s1", "[1]", label=1, labeller="Ann", seconds=1.0, time=TIME),
    Label("s1", "[1]", label=2, labeller="Bob", time=TIME),
    Label("s2", "", label=3, labeller="Ann"),
    Label("s2", "left", "right", preference="b", labeller="Bob", seconds=3.0),
    Label("s2", "other", "left", labeller="Bob", note="both are wrong"),
]


@pytest.fixture
def file(tmp_path) -> LabelFile:
    file = LabelFile(tmp_path / "new" / "labels.csv")
    for label in LABELS:
        file.save(label)
    return file


def test_labels_come_back_as_they_were_given(file):
    assert file.read() == LABELS and [label.is_skip for label in LABELS] == [False] * 5 + [True]
    assert file.path.read_bytes().startswith(b"\xef\xbb\xbfsample_id,answer,other_answer,label,preference,labeller")
    assert list(pd.read_csv(file.path)) == COLUMNS
    assert [label.value for label in LABELS[:5]] == [0.75, 0, 0.25, 0.5, -1]
    assert replace(LABELS[4], answer="right", other_answer="left").value == 1  # of the question's first, "left"


def test_a_label_takes_the_place_of_what_the_same_person_said_of_the_same(file):
    changed = replace(LABELS[4], answer="right", other_answer="left", preference="tie")
    file.save(changed)
    assert file.read() == [*LABELS[:4], LABELS[5], changed]
    assert file.undo("Bob", [changed.question, LABELS[0].question]) == changed
    assert file.undo("Bob", [LABELS[0].question]) is None and file.undo("Cid", [LABELS[2].question]) is None
    assert file.read() == [*LABELS[:4], LABELS[5]]


def test_people_label_at_once_and_no_label_is_lost(file):
    given = [Label("s3", f"answer {i}", label=1, labeller=f"person {i % 3}") for i in range(30)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(LabelFile(file.path).save, given))
    assert set(file.read()) == {*LABELS, *given}


def test_the_mean_score_of_each_answer(file):
    samples = [Sample("s1", "Hi", "Hello"), Sample("s2", "Ho", "Hello")]
    one, two, three = scored(file.read(), samples)
    assert one == (samples[0], LABELS[0].answer, 0.75) and two == (samples[0], "[1]", 0.125) and three[2] == 0.5
    with pytest.raises(ConfigError, match="a label is for the sample 's2', which is not in the data"):
        scored(file.read(), samples[:1])


@pytest.mark.parametrize("is_csv", [False, True], ids=["as it is", "as CSV"])
@pytest.mark.parametrize(
    ("format", "lost"),
    [("label_studio", {}), ("argilla", {"seconds": None, "time": ""})],
)
def test_tables_of_other_tools_give_the_labels_back(format, lost, is_csv):
    table = to_table(LABELS, format)
    if is_csv:
        text = table.to_csv(index=False).replace("\r\n", "\n")
        table = pd.read_csv(io.StringIO(text))
    found = from_table(table, format)
    expected = [replace(label, **lost) for label in LABELS if not label.is_skip]
    if is_csv:
        expected = [replace(label, answer=label.answer.replace("\r\n", "\n")) for label in expected]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_a_table_as_argilla_exports_it():
    rows = [
        {
            "id": "s1",
            "status": "completed",
            "answer": "Hi",
            "label.responses": [2, 5, 1],
            "label.responses.users": ["u1", "u2", "u3"],
            "label.responses.status": ["submitted", "submitted", "discarded"],
            "note.responses": ["short"],
            "note.responses.users": ["u2"],
            "note.responses.status": ["submitted"],
        },
        {"id": "s2", "status": "pending", "answer": "Ho", "label.responses": None},
    ]
    assert from_table(pd.DataFrame(rows), "argilla") == [
        Label("s1", "Hi", label=2, labeller="u1"),
        Label("s1", "Hi", label=5, labeller="u2", note="short"),
    ]


def test_a_table_as_label_studio_exports_it():
    data = {"id": 7, "sample_id": "s1", "answer": "Hi", "annotator": 3, "created_at": TIME, "lead_time": 4.2}
    rows = [
        {**data, "other_answer": None, "label": [{"rating": 4}]},
        {**data, "other_answer": "Ho", "preference": '[{"selected": "left"}]'},
    ]
    told = {"labeller": "3", "seconds": 4.2, "time": TIME}
    assert from_table(pd.DataFrame(rows), "label_studio") == [
        Label("s1", "Hi", label=4, **told),
        Label("s1", "Hi", "Ho", preference="a", **told),
    ]
    with pytest.raises(ConfigError, match="row 1 of the label_studio table: '7' is not a label"):
        from_table(pd.DataFrame([{**data, "label": 7}]), "label_studio")
    with pytest.raises(ConfigError, match="the argilla table: no column 'label' or 'preference'; it has: id"):
        from_table(pd.DataFrame([data]), "argilla")


# As label-studio-sdk 2.1 writes them: a TextArea with two texts, and a task that nobody has labelled.
EXPORTED = [
    {"sample_id": "007", "answer": "7.50", "id": 7, "label": [{"rating": 4}], "note": "None", "annotator": "ann@x.org"},
    {"sample_id": "s2", "answer": "", "id": 8, "label": "5", "note": {"text": ["a", "b"]}, "annotator": 2},
    {"sample_id": "s3", "answer": "[1]", "id": 9, "annotator": None, "annotation_id": None},
]


@pytest.mark.parametrize("name", ["export.json", "export.csv"])
def test_a_files_texts_are_read_as_they_are_written(tmp_path, name):
    path, table = tmp_path / name, pd.DataFrame(EXPORTED, dtype=object)
    path.write_text(json.dumps(EXPORTED)) if name.endswith("json") else table.to_csv(path, index=False)
    assert from_table(path, "label_studio") == [
        Label("007", "7.50", label=4, labeller="ann@x.org", note="None"),
        Label("s2", "", label=5, labeller="2", note="a\nb"),
    ]


@pytest.mark.parametrize(
    ("rows", "format", "said"),
    [
        ([{"id": 7, "data": {"answer": "Hi"}, "annotations": []}], "label_studio", "Export as JSON-MIN or CSV"),
        ([{"id": "s1", "fields": {"answer": "Hi"}, "responses": {}}], "argilla", r"to_list\(flatten=True\)"),
        ("Hi", "argilla", "export.json can't be read .* Export it again as JSON or CSV"),
    ],
)
def test_another_kind_of_export_is_refused_with_the_one_to_make(tmp_path, rows, format, said):
    (tmp_path / "export.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match=said):
        from_table(tmp_path / "export.json", format)


HEAD = "sample_id,answer,label"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            f"{HEAD}\ns1,Hi,\ns1,Hi,good\n",
            ":3: 'good' is not a label. Use 1 (worthless) to 5, or leave it blank",
        ),
        (f"{HEAD}\ns1,Hi,7\n", ":2: '7' is not a label"),
        (f"{HEAD}\ns1,Hi,0.5\n", ":2: '0.5' is not a label"),
        (f"{HEAD}\ns1,Hi,nan\n", ":2: 'nan' is not a label"),
        (
            f"{HEAD},preference\ns1,Hi,,a\n",
            ":2: 'a' is not a preference between two answers. Use a, b or tie with an other_answer",
        ),
        (f"{HEAD},preference,other_answer\ns1,Hi,,c,Ho\n", ":2: 'c' is not a preference between two answers"),
        (f"{HEAD},seconds\ns1,Hi,1,soon\n", ":2: seconds 'soon' is not a number"),
        (f"{HEAD}\ns1,Yes, I do,1\n", ":2: the row has more cells than there are columns. Put double quotes"),
        ("sample_id;answer;label\ns1;Hi;1\n", ":1: no column 'sample_id'"),
        (
            "sample_id,answer,lable\ns1,Hi,1\n",
            ":1: no column 'label' or 'preference'; it has: sample_id, answer, lable.",
        ),
        (f'{HEAD}\ns1,"Hi,1\n', ":2 is not CSV"),
        ("", ":1: no column 'sample_id'; it has: none"),
    ],
)
def test_a_file_of_labels_that_cannot_be_used(tmp_path, text, problem):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_labels(path)
    assert str(error.value).startswith(f"{path}{problem}")


def test_a_file_of_labels_that_is_not_there_or_not_utf8(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.csv can.t be read"):
        read_labels(tmp_path / "no.csv")
    (tmp_path / "latin.csv").write_bytes(f"{HEAD}\ns1,Grüße,1\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="Save it as CSV in UTF-8"):
        read_labels(tmp_path / "latin.csv")
