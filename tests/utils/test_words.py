"""Words and ends of sentences are Unicode's, and English ones what they were by blanks and full stops."""

import pytest

from grpo_kit.utils.words import is_finished, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            " A well-known café — at 10:30, isn’t it?\n",
            ["A", "well-known", "café", "—", "at", "10:30,", "isn’t", "it?"],
        ),
        ("明天 A4纸有3.5折吗？", ["明", "天", "A4", "纸", "有", "3.5", "折", "吗"]),
        ("ホテルは２泊です。", ["ホテル", "は", "２", "泊", "で", "す"]),
        ("ไม่ว่าง 3 วัน", ["ไ", "ม่", "ว่", "า", "ง", "3", "วั", "น"]),
        ("내일 비가 와요.", ["내일", "비가", "와요."]),
        ("कल बारिश होगी।", ["कल", "बारिश", "होगी।"]),
        ("", []),
    ],
)
def test_words_lie_between_blanks_or_unicodes_boundaries(text, found):
    assert words(text) == found


FINISHED = "Yes.|“Really?!” |(Done…)|好的。|「はい！」|»Ja.«|„Gut.“|نعم؟|हाँ।|Τι ώρα;|ว่างค่ะ|ห้อง 3 ห้อง 250|ไปที่ร้าน Kafka"
NOT_FINISHED = 'No|one;|and so,|好的|好的，|はい、|ห้องว่าง:|ห้อง (|{"say": "Hi."}|'


@pytest.mark.parametrize("text", FINISHED.split("|"))
def test_a_finished_sentence_ends_as_its_script_ends_one(text):
    assert is_finished(text)


@pytest.mark.parametrize("text", NOT_FINISHED.split("|"))
def test_other_text_is_not_finished(text):
    assert not is_finished(text)
