"""The offline judge rewards replies that do what the turn asks, in whatever words, and is hard to fool."""

import asyncio
import itertools
import random
from collections import defaultdict

import msgspec
import pytest
from helpers import SGD
from judge_answers import greedy, in_other_words, out_of_place, partly_right, read_turns, slot_names, tricks

from grpo_kit.data.samples import Act, Sample, read_samples
from grpo_kit.judges.batch import judge_batch
from grpo_kit.judges.offline.judge import OfflineJudge
from grpo_kit.judges.offline.language import is_english
from grpo_kit.judges.reference import compared

needs_sgd = pytest.mark.skipif(not (SGD / "dev").is_dir(), reason=f"no Schema-Guided Dialogue files in {SGD}")
JUDGE = OfflineJudge()


def score(sample: Sample, answer: str) -> float:
    return JUDGE.judge_one(sample, answer).score


def sample(
    reference: str, acts: list[tuple], user: str, rubric: str = "", before: str = "Hello, how can I help?"
) -> Sample:
    """A turn of a restaurant service; an act is (name, slot, values...)."""
    return Sample(
        id=reference,
        prompt=[
            {"role": "user", "content": "I am hungry and want to eat out with friends."},
            {"role": "assistant", "content": before},
            {"role": "user", "content": user},
        ],
        ground_truth=reference,
        rubric=rubric,
        task_description="Book a table at a restaurant: find a restaurant",
        services=["Restaurants"],
        acts=[Act("Restaurants", name, slot, tuple(values)) for name, slot, *values in acts],
    )


SLOTS = "city cuisine restaurant_name party_size date time has_live_music phone_number street_address".split()
ASK_CITY = sample(
    "In which city should I look?", [("REQUEST", "city")], "I want a table for two at 7 pm.", "ask for: the city"
)
CONFIRM = sample(
    "Please confirm: a table for 2 people at Bella Napoli in Oakland on March 1st at 7 pm.",
    [
        ("CONFIRM", "restaurant_name", "Bella Napoli"),
        ("CONFIRM", "city", "Oakland"),
        ("CONFIRM", "date", "March 1st"),
        ("CONFIRM", "time", "7 pm"),
        ("CONFIRM", "party_size", "2"),
    ],
    "Bella Napoli sounds good. Make it 7 pm in the evening on the 1st of March, for two of us.",
    "confirm: the restaurant name is Bella Napoli, the city is Oakland, the date is March 1st, the time is 7 pm, "
    "the party size is 2",
    before="How about Bella Napoli in Oakland?",
)
INFORM = sample(
    "No, they do not have live music. The phone number is 510-555-0199.",
    [("INFORM", "has_live_music", "False"), ("INFORM", "phone_number", "510-555-0199")],
    "Is there live music, and what is their phone number?",
    "state: has live music: no, the phone number is 510-555-0199",
)
BOOKED = sample(
    "Your table has been booked. Is there anything else I can help you with?",
    [("NOTIFY_SUCCESS", ""), ("REQ_MORE", "")],
    "Yes, that is right. Please go ahead.",
    "say that it has been done; ask whether anything else is needed",
    before="Please confirm: a table for 2 at Bella Napoli.",
)
FAILED = sample(
    "I am sorry, but the booking failed. How about 8 pm?",
    [("NOTIFY_FAILURE", ""), ("OFFER", "time", "8 pm")],
    "Yes, book the table.",
    "say that it could not be done; offer: the time is 8 pm",
)
INTENT = sample(
    "Would you like me to reserve a table there?",
    [("OFFER_INTENT", "intent", "ReserveRestaurant")],
    "Great, I like that one.",
    "offer to: reserve a table at a restaurant",
)
GOODBYE = sample("Have a great day!", [("GOODBYE", "")], "No, thanks. That is all.", "say goodbye")
CHAT = Sample(
    "chat",
    "Why is the sky blue?",
    "Air scatters the blue part of sunlight far more than the red part, so blue light comes from all of the sky.",
)
TURNS = {
    name: turn
    for name, turn in globals().copy().items()
    if isinstance(turn, Sample) and name in "ASK_CITY CONFIRM INFORM BOOKED FAILED INTENT GOODBYE CHAT".split()
}


@pytest.mark.parametrize("name", TURNS)
def test_a_reference_earns_all_and_no_trick_earns_anything(name):
    turn = TURNS[name]
    assert score(turn, turn.ground_truth) == 1.0
    earned = {trick: score(turn, answer) for trick, answer in tricks(turn, SLOTS).items()}
    assert {trick: points for trick, points in earned.items() if points >= 0.2} == {}


def test_a_slot_that_is_still_needed_may_be_asked_for_in_place_of_another():
    def asking(*slots: str, needed: tuple[str, ...] = ()) -> Sample:
        turn = sample(f"What {' and '.join(slots)}?", [("REQUEST", slot) for slot in slots], "A table, please.")
        return turn.replace(acts=[msgspec.structs.replace(act, alternatives=needed) for act in turn.acts])

    alone, free = asking("city"), asking("city", needed=("time", "party_size"))
    assert score(alone, "At what time?") < 0.2 < 0.8 < score(free, "At what time?")
    assert score(free, "In which city?") == score(alone, "In which city?")
    greedy = "At what time, and for how many people, and when?"
    assert score(free, greedy) < 0.7 * score(free, "At what time?")

    both = asking("city", "cuisine", needed=("time",))
    one, two = score(both, "At what time?"), score(both, "At what time, and which cuisine?")
    assert one < 0.6 < 0.8 < two
    assert score(both, "At what time, and in which city?") > 0.8


# Each list falls: a reply must earn more than the next one.
RANKED = [
    (
        ASK_CITY,
        ["In which city should I search?", "What city do you fancy?", "What city do you fancy", "What city do you"],
    ),
    (
        ASK_CITY,
        ["Sure! What city would you like to eat in?", "What city and what date?", "Your city, I think.", "When?"],
    ),
    (
        ASK_CITY,
        ["Please tell me the city.", "Please tell me the city, the cuisine, the date and the party size.", "Hm."],
    ),
    (
        CONFIRM,
        [
            "To confirm: you want Bella Napoli in Oakland, for two people on March 1st at 7:00 PM?",
            "To confirm: you want Bella Napoli in Oakland, for two people on March 2nd at 7:00 PM?",
            "To confirm: you want Bella Napoli, for two people, at 8 pm?",
            "To confirm: you want Bella Napoli?",
            "To confirm: you want a table?",
        ],
    ),
    (
        CONFIRM,
        [
            CONFIRM.ground_truth,
            "I have a table for 2 people at Bella Napoli in Oakland on March 1st at 7 pm.",  # does not ask to confirm
            "Bella Napoli Oakland March 1st 7 pm 2",
        ],
    ),
    (
        CONFIRM,
        [
            CONFIRM.ground_truth,
            CONFIRM.ground_truth + " Which cuisine, and where is it?",
            CONFIRM.prompt[-1]["content"],
        ],
    ),
    (
        CONFIRM,
        [CONFIRM.ground_truth, f"{CONFIRM.ground_truth} {CONFIRM.ground_truth}", " ".join([CONFIRM.ground_truth] * 4)],
    ),
    (
        INFORM,
        [
            "There is no live music, and their number is 510-555-0199.",
            "There is live music, and their number is 510-555-0199.",
            "There is live music, and their number is 510-555-0100.",
        ],
    ),
    (
        BOOKED,
        [
            "Done, it is booked. Anything else?",
            "Done, it is booked.",
            "It is booked, not booked, anything else, goodbye, which city?",
            "Your table could not be booked.",
        ],
    ),
    (FAILED, ["Sorry, I could not book it. Is 8 pm fine?", "It is booked for 8 pm.", "It is booked."]),
    (INTENT, ["Shall I book a table for you?", "I book a table.", "Would you like that?"]),
    (GOODBYE, ["Goodbye, enjoy your meal.", "Is there anything else? Goodbye. Booked.", "Is there anything else?"]),
    (
        CHAT,
        [
            "Sunlight has all colours; air scatters blue light most, so blue light comes from the whole sky.",
            "The sky is blue because of the air.",
            "I do not know.",
        ],
    ),
]


@pytest.mark.parametrize(("turn", "answers"), RANKED, ids=[turn.id[:20] for turn, _ in RANKED])
def test_better_replies_earn_more(turn, answers):
    earned = [score(turn, answer) for answer in answers]
    assert all(better > worse + 0.02 for better, worse in itertools.pairwise(earned)), earned
    assert turn is CHAT or earned[0] >= 0.75


@pytest.mark.parametrize(
    ("value", "said", "not_said"),
    [
        ("5 pm", ["5 pm", "5:00 PM", "17:00", "five p.m.", "5 in the afternoon"], ["5 am", "6 pm", "15:00"]),
        ("11:30 am", ["11:30 am", "11:30 in the morning", "11:30"], ["11:30 pm", "11 am", "10:30 am"]),
        ("March 1st", ["March 1", "march 1st", "the 1st of March"], ["March 2nd", "May 1st"]),
        ("$1,250", ["$1250", "1,250 dollars", "$1,250.00"], ["$125", "$1,260"]),
        ("3", ["3", "three"], ["13", "two", "3:00"]),
        ("Café Zoë", ["Cafe Zoe", "café zoë"], ["Cafe Noe", "Zoo"]),
    ],
)
def test_a_value_is_known_in_any_spelling(value, said, not_said):
    turn = sample(f"I found {value} for you.", [("INFORM", "thing", value)], "Tell me.")
    stated = {form: JUDGE.judge_one(turn, f"I found {form} for you.").criteria["acts"] for form in said + not_said}
    assert {form for form, points in stated.items() if points >= 0.85} == set(said)


def test_a_reply_that_never_stops_earns_little_and_one_that_hesitates_is_not_punished():
    """A model found this out in training: marks without end stood in for an ending."""
    booked = "Your booking is confirmed. Anything else?"
    assert score(BOOKED, booked) > 0.8
    assert score(BOOKED, booked + "?????????") < 0.3
    assert score(BOOKED, booked + " ?????????") < 0.3
    assert score(ASK_CITY, "Hm... which city?") >= score(ASK_CITY, "Hm, which city?") > 0.8


def test_a_wish_for_a_day_does_not_ask_for_one():
    turn = sample("For which day?", [("REQUEST", "date")], "Book a table, please.")
    assert score(turn, "Have a great day!") < 0.2 < 0.8 < score(turn, "Which day would you like?")


def test_two_numbers_may_not_change_places():
    turn = sample(
        "A room for 3 people for 2 nights, right?",
        [("CONFIRM", "people", "3"), ("CONFIRM", "nights", "2")],
        "We are three and stay for two nights.",
    )
    assert score(turn, "So a room for three people and two nights?") > 0.8
    assert score(turn, "So a room for two people and three nights?") < 0.5


def test_every_value_that_is_right_earns_something_beside_those_that_are_wrong():
    answer = CONFIRM.ground_truth
    ladder = [answer]  # from all right to none
    swaps = {"Napoli": "Roma", "Oakland": "Fresno", "March 1st": "March 9th", "7 pm": "5 am", "2 people": "8 people"}
    for right, wrong in swaps.items():
        ladder.append(answer := answer.replace(right, wrong))
    earned = [score(CONFIRM, answer) for answer in ladder]
    assert all(better > worse + 0.02 for better, worse in itertools.pairwise(earned)), earned
    assert earned[-1] < 0.05 and 0.35 < earned[2] < 0.6  # three of five

    half_right = ladder[2]
    spoilt = {
        "cut": " ".join(half_right.split()[:-3]),
        "rambles": f"{half_right} " + "I will do my best to look for what suits you and all whom you may bring. " * 2,
        "asks": f"{half_right} Which cuisine do you like, and where is it?",
    }
    earned_less = {kind: score(CONFIRM, answer) for kind, answer in spoilt.items()}
    assert all(0.1 < points < earned[2] - 0.02 for points in earned_less.values()), earned_less


def test_a_made_up_value_costs_and_is_named():
    honest, invented = (
        JUDGE.judge_one(ASK_CITY, f"Which city do you want to visit {end}?") for end in ("", "in Italy on 9 June")
    )
    assert invented.score < 0.5 * honest.score
    assert "invented: '9', 'june', 'italy'" in invented.reason


def test_the_reason_says_what_was_done_and_what_was_not():
    turn = sample(
        "Which city? And is March 1st right?",
        [("REQUEST", "city"), ("CONFIRM", "date", "March 1st")],
        "A table, please.",
    )
    verdict = JUDGE.judge_one(turn, "Which city do you want? " + "I would really love to know it now. " * 3)
    assert verdict.reason.startswith("asks for city: yes; states date March 1st: no; ")
    assert "too long (29 words for 7)" in verdict.reason
    assert verdict.criteria["acts"] == 0.5
    assert all(0 <= part <= 1 for part in verdict.criteria.values())


def test_an_act_that_is_added_to_a_chat_takes_the_references_place_and_the_reason_says_so():
    chat = sample("Bring the bike in before four, and we will check its chain.", [], "My chain slips.")
    more = chat.replace(ground_truth=f"{chat.ground_truth} Anything else?", acts=[Act("", "REQ_MORE")])
    assert score(chat, chat.ground_truth) == 1
    verdict = JUDGE.judge_one(more, chat.ground_truth)
    assert verdict.score == 0
    assert verdict.reason.startswith("asks what else: no; like the reference, but it performs no act")
    assert "like the reference" not in JUDGE.judge_one(more, "Which day suits you?").reason


def test_judging_many_keeps_the_order_and_leaves_out_what_cannot_be_judged():
    unjudgeable = Sample("none", "Hello.", "")
    turns = [GOODBYE, ASK_CITY, unjudgeable]
    verdicts = asyncio.run(judge_batch(JUDGE, None, turns, ["Goodbye!"] * 3)).verdicts
    assert [verdict.score is not None and verdict.score > 0.5 for verdict in verdicts] == [True, False, False]
    assert verdicts[2].score is None
    answers = ["Hello.", "Goodbye!"]
    assert asyncio.run(JUDGE.judge(GOODBYE, answers)) == [JUDGE.judge_one(GOODBYE, answer) for answer in answers]
    with pytest.raises(ValueError):
        asyncio.run(judge_batch(JUDGE, None, [GOODBYE], []))


def test_any_text_gets_the_same_score_in_range_from_any_judge():
    rng = random.Random(0)
    letters = "aZ59 .,:;?!$'’\n<>_-¤éß中٣²½🙂" + CONFIRM.ground_truth
    for turn in TURNS.values():
        for _ in range(100):
            answer = "".join(rng.choices(letters, k=rng.randrange(60)))
            verdict = JUDGE.judge_one(turn, answer)
            assert 0 <= verdict.score <= 1
            assert OfflineJudge().judge_one(turn, answer) == verdict


# Real dialogues: 1,000 turns drawn from all files.


@pytest.fixture(scope="module")
def turns() -> list[Sample]:
    every = [turn for split in ("train", "dev") for turn in read_turns(SGD / split)]
    return random.Random(0).sample(every, 400)


@pytest.fixture(scope="module")
def earned(turns) -> dict[str, list[float]]:
    """The judge's scores of each kind of answer."""
    slots = slot_names(SGD / "train") | slot_names(SGD / "dev")
    earned = defaultdict(list)
    for turn in turns:
        known = [name for service in turn.services for name in slots[service]]
        for kind, answer in (tricks(turn, known) | greedy(turn, known)).items():
            earned[kind].append(score(turn, answer))
    return earned


def mean(points: list[float]) -> float:
    return sum(points) / len(points)


@needs_sgd
def test_no_trick_earns_anything_on_real_turns(earned):
    plain = {trick: earned[trick] for trick in tricks(GOODBYE, SLOTS)}
    assert {trick: mean(points) for trick, points in plain.items() if mean(points) >= 0.1} == {}
    got_away = {trick: mean([point >= 0.2 for point in points]) for trick, points in plain.items()}
    assert {trick: share for trick, share in got_away.items() if share > 0.01} == {}


@needs_sgd
def test_no_constant_answer_and_no_stuffing_pays(earned):
    means = {kind: mean(earned[kind]) for kind in greedy(GOODBYE, SLOTS)}
    assert {kind: points for kind, points in means.items() if points >= 0.2} == {}


@needs_sgd
def test_real_replies_earn_much_in_their_place_and_little_elsewhere(turns):
    elsewhere = defaultdict(list)
    for kind, turn, answer in out_of_place(turns, random.Random(1)):
        elsewhere[kind].append(score(turn, answer))
    assert mean([score(turn, turn.ground_truth) for turn in turns]) >= 0.97
    assert {
        kind: (len(points), mean(points))
        for kind, points in elsewhere.items()
        if len(points) <= 100 or mean(points) > 0.15
    } == {}


@needs_sgd
def test_other_people_s_words_for_the_same_acts_earn_nearly_as_much(turns):
    earned = [score(turn, answer) for turn, answer in in_other_words(turns, random.Random(1))]
    assert len(earned) > 200
    assert mean(earned) >= 0.75
    assert mean([points >= 0.5 for points in earned]) >= 0.9


@needs_sgd
def test_real_replies_with_some_values_wrong_earn_a_part(turns):
    earned = defaultdict(list)
    for kind, turn, answer in partly_right(turns, random.Random(1)):
        earned[kind].append(score(turn, answer))
    one, half, rambling, every = (mean(points) for points in earned.values())
    assert len(earned) == 4 and len(min(earned.values(), key=len)) > 40
    assert 0.5 < one < 0.75 and 0.25 < half < 0.5 and 0.15 < rambling < half - 0.05 and every < 0.1


OTHER_LANGUAGES = {  # what a user says, and the reply
    "German": ("Gibt es am Samstag noch ein Zimmer?", "Ja, das ist frei. Wie viele Nächte bleiben Sie in Graz?"),
    "French": ("Je cherche un train pour Lyon.", "À quelle heure souhaitez-vous partir demain matin ?"),
    "Spanish": ("Busco una mesa para cuatro.", "¿En qué ciudad quiere cenar y a qué hora?"),
    "Dutch": ("Is het museum vandaag open?", "Het is open tot vijf uur, en de toegang is gratis."),
    "Polish": ("Szukam hotelu w Krakowie.", "Na ile nocy potrzebuje pan pokoju?"),
    "Turkish": ("Bu akşam için bir masa istiyorum.", "Kaç kişilik olsun, hangi semtte?"),
    "Chinese": ("有房间吗？", "没有了。"),
    "Thai": ("มีห้องว่างไหม", "ไม่มีค่ะ"),
    "Russian": ("Есть номер?", "Нет."),
    "a translation": ("How do you say it in Greek?", "Δεν υπάρχει δωμάτιο."),
}


def said(user: str, reply: str) -> Sample:
    return Sample(id="1", prompt=[{"role": "user", "content": user}], ground_truth=reply, acts=ASK_CITY.acts)


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_another_language_is_judged_by_its_words_and_that_is_said_once(language):
    sample = said(*OTHER_LANGUAGES[language])
    verdict, by_words = JUDGE.judge_one(sample, sample.ground_truth), compared(sample.ground_truth, sample.ground_truth)
    assert (
        verdict.score == by_words.score == 1
        and verdict.reason == f"not English, so judged by words alone: {by_words.reason}"
    )
    assert JUDGE.judge_one(sample, "Which city?").score < 0.2
    assert JUDGE.caveat([sample, ASK_CITY, sample]).startswith("2 of 3 samples are not in English")
    assert JUDGE.caveat([ASK_CITY, CONFIRM]) == ""


@pytest.mark.parametrize(
    ("user", "reply"),
    [
        ("Find a rental car.", "Date? City?"),
        ("i am interested in an event called padres vs cubs", "the event padres vs cubs is in petco park on march 3"),
        ("Los Angeles to Las Vegas, El Al, San Jose. La La Land?", "Where is that shown?"),
        ("Wie geht's?", "Gut."),
        ("3 + 4", "7"),
        ("Where is the Café Zürich?", "It is on Plaça de Catalunya, the café."),
    ],
)
def test_terse_and_foreign_sounding_english_and_what_is_too_short_to_tell_pass_for_english(user, reply):
    assert is_english(said(user, reply))


@needs_sgd
def test_no_real_turn_passes_for_another_language():
    assert not [turn for part in ("train", "dev") for turn in read_turns(SGD / part) if not is_english(turn)]


def test_no_turn_of_the_demo_passes_for_another_language(demo_data):
    assert all(map(is_english, read_samples(demo_data / "train.jsonl")))
