"""Files that somebody else made, in a run's folder or beside it: none of them is run, and no odd judgement is taken."""

import contextlib
import hashlib
import hmac
import os
import shutil
import sqlite3

import pytest
from helpers import wait_until

import grpo_kit as kit
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.judges.offline.judge import OfflineJudge
from grpo_kit.rewards import travel
from grpo_kit.rewards.travel import SIGNATURE_BYTES, pickled_rewards, signed

pytestmark = pytest.mark.fault("a pickle, a cache or a link that somebody else made")
SETTINGS = {"max_steps": 4, "save_steps": 2, "canaries": "off"}
SETTINGS |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}


class Hostile:
    """Reward functions that touch a file where they are loaded."""

    def __init__(self, file):
        self.file = file

    def __call__(self, completions, **_):
        return [0.0] * len(completions)

    def __reduce__(self):
        return os.mknod, (str(self.file),)


@pytest.fixture
def spawned(standin, demo_data, tmp_path, monkeypatch):
    """Starts a run in the background, which waits after its second step, and kills it there."""
    monkeypatch.setenv("GRPO_KIT_BACKEND", "local")

    def start(**settings) -> kit.Run:
        monkeypatch.setenv("STANDIN_HOLD", "2")
        run = kit.train.spawn(data=str(demo_data), run_id="run", runs_dir=tmp_path / "runs", **SETTINGS, **settings)
        wait_until(lambda: run.status["step"] == 2)
        run.kill()
        monkeypatch.delenv("STANDIN_HOLD")
        return kit.Run("run", tmp_path / "runs")

    return start


def test_a_pickle_that_the_run_does_not_name_is_not_loaded(spawned, tmp_path):
    run, trace = spawned(), tmp_path / "trace"
    (run.path / "rewards.pkl").write_bytes(pickled_rewards([Hostile(trace)]))
    assert run.resume().watch().status["state"] == "complete"
    assert not trace.exists()


def short(completions, **_):
    return [-float(len(text[0]["content"]) > 40) for text in completions]


def test_reward_functions_of_another_machine_run_only_where_they_are_trusted(spawned, tmp_path, capsys):
    run, trace = spawned(rewards=[short]), tmp_path / "trace"
    file = run.path / "rewards.pkl"
    own = file.read_bytes()
    for foreign in (pickled_rewards([Hostile(trace)])[:-SIGNATURE_BYTES] + own[-SIGNATURE_BYTES:], b"", own[:-1]):
        file.write_bytes(foreign)
        with pytest.raises(kit.RunError, match=r"not signed with this machine's key.*resume\(trust=True\)"):
            run.resume()
        assert not trace.exists() and file.read_bytes() == foreign and run.status["state"] == "killed"
    file.write_bytes(own[:-SIGNATURE_BYTES] + bytes(SIGNATURE_BYTES))  # as another machine signed it
    assert run.resume(trust=True).watch().status["state"] == "complete"
    assert run.metrics()["rewards/short/mean"].notna().all()


def an_inf(database):
    database.execute("update judgements set score = 9e999")


def of_another_range(database):
    database.execute("update judgements set score = 7.0")


def a_text(database):
    database.execute("update judgements set score = 'high'")


def criteria_of_no_number(database):
    database.execute("""update judgements set criteria = '{"acts": "all"}'""")


def criteria_that_are_no_json(database):
    database.execute("update judgements set criteria = '{'")


def deep_criteria(database):
    database.execute("update judgements set criteria = ?", ["[" * 100_000])


def a_huge_reason(database):
    database.execute("update judgements set reason = ?", ["x" * 30_000_000])


def other_columns(database):
    database.execute("drop table judgements")
    database.execute("create table judgements (key, judge, score, criteria, reason, tokens, judged_at)")


def a_view_without_end(database):
    database.execute("drop table judgements")
    database.execute(
        "create view judgements as with recursive n(i) as (select 1 union all select i + 1 from n) select i as key, "
        "'offline' as judge, 1.0 as score, '{}' as criteria, '' as reason, 0 as tokens, 0.0 as judged_at from n"
    )


def no_text(database):
    database.execute("update judgements set reason = cast(x'ff' as text)")


def a_lone_surrogate(database):
    database.execute("""update judgements set criteria = '{"\\ud800": 0.5}'""")


def fewer_tokens_than_none(database):
    database.execute("update judgements set tokens = -5")


def a_blob(database):
    database.execute("update judgements set key = x'00ff'")


@pytest.mark.parametrize(
    "spoil",
    [
        an_inf, of_another_range, a_text, criteria_of_no_number, criteria_that_are_no_json, deep_criteria,
        a_huge_reason, other_columns, a_view_without_end, a_blob, no_text, a_lone_surrogate,
        fewer_tokens_than_none,
    ],
)  # fmt: skip
def test_an_odd_cache_is_refused_and_left_as_it_is(tmp_path, spoil):
    theirs = tmp_path / "theirs.sqlite"
    with contextlib.closing(RewardCache(theirs)) as cache:
        cache.put(OfflineJudge(), {"a": Verdict(0.5, "fine", {"acts": 1.0})})
    with contextlib.closing(sqlite3.connect(theirs)) as database, database:
        spoil(database)
    before = hashlib.sha256(theirs.read_bytes()).hexdigest()
    with contextlib.closing(RewardCache(tmp_path / CACHE_FILE)) as own:
        with pytest.raises(kit.RunError, match=r"theirs\.sqlite is not a reward cache .*Leave it out of cache_from"):
            own.copy_from(theirs)
        assert own.get(["a"]) == {} and hashlib.sha256(theirs.read_bytes()).hexdigest() == before
        own.put(OfflineJudge(), {"b": Verdict(0.25)})
        assert own.get(["b"]) == {"b": Verdict(0.25)}


@pytest.mark.parametrize("name", ["train.log", ".room", "status.json", "checkpoint-4"])
def test_a_link_in_a_run_folder_leads_nowhere(stopped, tmp_path, name):
    run, _, reward = stopped
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    path = run.path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(elsewhere)
    with pytest.raises(kit.RunError, match=f"has links in its folder, .*'{name}'"):
        kit.train(run_id="run", runs_dir=run.path.parent, rewards=[reward])
    assert elsewhere.read_text() == "mine"


def test_a_key_that_is_no_key_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(travel, "CACHE", tmp_path)
    (tmp_path / "rewards.key").touch()
    forged = b"pickle" + hmac.digest(b"", b"pickle", "sha256")
    assert signed(b"pickle") != forged and len((tmp_path / "rewards.key").read_bytes()) == SIGNATURE_BYTES
    assert (tmp_path / "rewards.key").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(travel, "CACHE", tmp_path / "rewards.key")  # where nothing can be kept
    with pytest.raises(kit.RunError, match="the key that signs reward functions can't be kept"):
        signed(b"pickle")
