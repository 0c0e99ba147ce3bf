"""The ready rewards mean the same in any script."""

import pytest

from grpo_kit.rewards.ready import format, length, repetition

NO_AND_REPLY = {
    "Chinese": ("不", "对不起，那天晚上已经没有空房间了。"),
    "Japanese": ("いや", "申し訳ございませんが、その日は満室でございます。"),
    "Thai": ("ไม่", "ขออภัยค่ะ คืนนั้นห้องพักเต็มหมดแล้ว"),
    "Korean": ("아니요", "죄송합니다만 그날 밤에는 빈 방이 하나도 없습니다."),
    "English": ("no", "I am sorry, but there is no room left for that night."),
}


@pytest.mark.parametrize(("no", "reply"), NO_AND_REPLY.values(), ids=NO_AND_REPLY)
def test_a_bare_no_is_too_short_and_a_whole_reply_is_well_formed(no, reply):
    short, whole, long = length([no, reply, reply * 4], [reply] * 3)
    assert short < 0.5 and whole == 1 and long == 0
    assert format([reply, f"assistant：{reply}"]) == [1, 0]
    assert repetition([reply]) == [0] and repetition([" ".join([reply] * 6)])[0] < -0.5
