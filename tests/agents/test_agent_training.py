"""Training in an environment: what is learnt from, what is recorded, and that it resumes as ever."""

import json
import shutil
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grpo_kit import ConfigError, RunError, TrainConfig, evaluate, plots, report, train
from grpo_kit.backends.serving.command import plan_of
from grpo_kit.backends.serving.server import Handler, Models
from grpo_kit.data.samples import Sample, to_lines
from grpo_kit.models.checkpoints import checkpoints_of
from grpo_kit.runs.directory import RunDirectory
from grpo_kit.training.trainer import KitTrainer
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.widgets import parts, tables, talk

SETTINGS = {"model_name": "tiny-agent", "max_steps": 4, "save_steps": 2, "eval_steps": 2, "eval_prompts": 8}
SETTINGS |= {
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "num_generations": 4,
    "canaries": "off",
}


@pytest.fixture(scope="module")
def seen():
    """What the loss is told of each batch."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory, seen):
    """Four steps of replayed turns, on 16 completions each."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        seen.append({name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)})
        return own(self, model, inputs, *args, **kwargs)

    own = KitTrainer._compute_loss
    KitTrainer._compute_loss = compute_loss
    try:
        return train(run_id="agent", runs_dir=tmp_path_factory.mktemp("agents"), **SETTINGS)
    finally:
        KitTrainer._compute_loss = own


@pytest.fixture(scope="module")
def evaluation(run):
    return evaluate(run, n=24)


def test_the_loss_is_on_what_the_model_wrote_alone(run, seen):
    from grpo_kit.models.load import load_tokenizer

    tokenizer, with_results = load_tokenizer("tiny-agent"), 0
    for batch in seen:
        for ids, mask, tools in zip(batch["completion_ids"], batch["completion_mask"], batch["tool_mask"], strict=True):
            text = tokenizer.decode(ids[mask.bool()])
            own = tokenizer.decode(ids[(mask * tools).bool()])
            others = tokenizer.decode(ids[(mask * (1 - tools)).bool()])
            assert "<start_of_turn>" not in own, "turns are begun by the template"
            assert ("<start_of_turn>tool" in others) == ("<start_of_turn>tool" in text)
            with_results += "<start_of_turn>tool" in text
    assert with_results > 5


def test_metrics_and_completions_tell_the_dialogues(run):
    metrics, rows = run.metrics(), read_lines(run.path / "completions.jsonl")
    names = ["success", "calls", "turns", "errors", "cut"]
    assert metrics[metrics["step"] > 0][[f"agent/{name}" for name in names]].notna().all(axis=None)
    assert metrics["eval_agent/success"].notna().sum() == 3, "before the first step, at 2 and at 4"
    assert {"rewards/call/mean", "rewards/grounded/mean", "rewards/offline/mean"} <= set(metrics)
    assert len(rows) == 64 and all(list(row["rewards"]) == ["offline", "call", "grounded"] for row in rows)
    roles = {tuple(message["role"] for message in row["messages"]) for row in rows}
    assert ("assistant",) in roles and ("assistant", "tool", "assistant") in roles
    calls = sum(len(message.get("tool_calls", ())) for row in rows for message in row["messages"])
    assert calls / 64 == pytest.approx(metrics["agent/calls"].mean())
    figure = plots.agent_curve(run)
    assert [line.get_label() for line in figure.axes[0].lines] == ["training", "held-out"]


def test_the_browser_shows_turns(run):
    completions = tables.completions(run)
    called = completions[completions["completion"].str.contains("tool: ")].head(1)
    shown = parts.completions_html(called)
    assert ">tool</div>" in shown and ">assistant</div>" in shown and "calls " in shown
    assert "can call none here" in talk(run.path).said.value, "talked to alone it makes up what it found"


def test_it_is_evaluated_in_the_same_environment_and_reported_as_an_agent(run, evaluation, tmp_path):
    table = evaluation.agents()
    assert table["model"].tolist() == ["base", "checkpoint-2", "checkpoint-4"]
    assert ((table["low"] <= table["success"]) & (table["success"] <= table["high"])).all()
    assert {"calls", "turns", "errors", "cut", "call", "grounded"} <= set(table)
    sample = read_lines(evaluation.samples_path)[0]
    assert all(answer["messages"][-1]["content"] == answer["answer"] for answer in sample["answers"].values())
    assert evaluate(run, n=8, environment="user").agents()["goal"].between(0, 1).all()

    page = report(run.path, tmp_path)
    page, card = page.read_text(), page.with_name("model_card.md").read_text()
    rate = f"{evaluation.trained['agent']['success']:.2f}"
    assert f"succeed at a rate of {rate} " in card and "| environment | replay |" in card and " errors |" in card
    assert f'<span class="under">success, {evaluation.trained["name"]}' in page and "environment=replay" in page
    turns = [answer["turns"] for row in samples_in(page) for answer in row["answers"].values()]
    assert {turn["role"] for told in turns for turn in told} == {"assistant", "tool"}
    assert any(told[0]["said"].startswith("calls ") for told in turns)


def samples_in(page):
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])["samples"]


class Older(Handler):
    """As an endpoint that tells no token ids."""

    def _send(self, code, body, kind="application/json"):
        for choice in body.get("choices", ()):
            del choice["token_ids"], choice["logprobs"]
        super()._send(code, body, kind)


@pytest.fixture
def served(run, monkeypatch):
    """The URL of the kit's small server in this process, and the function by which another kind takes its place."""
    plan = plan_of(checkpoints_of(run, None, run.path.parent), ["checkpoint-4"])
    for name, value in {"models": Models(plan), "key": ""}.items():
        monkeypatch.setattr(Handler, name, value, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", lambda kind: setattr(server, "RequestHandlerClass", kind)
    server.shutdown()
    server.server_close()


def test_an_endpoint_has_the_same_dialogues_and_one_that_can_t_is_refused(run, served, tmp_path, capsys):
    url, become = served
    own = evaluate(run, n=8, temperature=0)
    assert own.agents()["calls"].max() > 0
    told = evaluate(run, n=8, temperature=0, endpoint=url, echo=print).results["endpoint"]
    for name in ("base", "checkpoint-4"):
        assert told["log_probs"][name]["mean"] < 1e-4 and told["log_probs"][name]["prompts"] == 8
        assert told["scores"][name]["same"] == 8 and told["scores"][name]["success"]["difference"] == 0
    assert "checkpoint-4: the endpoint succeeds in 0." in capsys.readouterr().out
    become(Older)
    with pytest.raises(ConfigError, match=r"can't lead dialogues .*it tells no token ids .*`grpo-kit serve`"):
        evaluate(run, n=8, temperature=0, endpoint=url)


def test_a_run_that_learnt_from_its_environment_alone_is_compared_by_success(run, evaluation, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / "alone", ignore=shutil.ignore_patterns("eval"))
    about = json.loads((copy / "config.json").read_text())
    about["settings"]["judge"] = {"offline": 0.0}
    (copy / "config.json").write_text(json.dumps(about))
    judged, evaluation = evaluation, evaluate(copy, n=24)
    table, samples = evaluation.agents().set_index("model"), evaluation.samples()
    assert table["success"].tolist() == judged.agents()["success"].tolist() == evaluation.summary()["mean"].tolist()
    assert table["offline"].tolist() == judged.summary()["mean"].tolist(), "what the judge says is one of the columns"
    for name in table.index:
        assert samples[f"{name} score"].tolist() == samples[f"{name} success"].tolist()
    assert (evaluation.judge, evaluation.second_judge) == ("environment (success)", None)
    assert "environment (success) scores it highest" in evaluation.best()["why"]
    assert samples["base reason"].str.contains(r"call \d.*, offline \d\.\d\d: ").all()
    gains = [model["versus_base"]["difference"] for model in evaluation.checkpoints]
    assert gains == pytest.approx(table["success"].iloc[1:] - table["success"].iloc[0])
    assert plots.evaluation_figure(evaluation) and plots.breakdown(evaluation)


def test_interrupted_it_ends_as_if_it_had_not_been(run, tmp_path):
    """From checkpoint-2 on, in a folder of its own."""
    copy = shutil.copytree(run.path, tmp_path / "agent")
    shutil.rmtree(copy / "checkpoint-4")
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps(status | {"state": "interrupted", "step": 2}))
    again = train(run_id="agent", runs_dir=tmp_path)
    for name in ("completions.jsonl",):
        assert (copy / name).read_bytes() == (run.path / name).read_bytes()
    one, other = (load_file(each.path / "adapter_model.safetensors") for each in (run, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_user_and_another_s_environment_train_too(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    small = SETTINGS | {"max_steps": 1, "save_steps": 1, "eval_steps": None, "per_device_train_batch_size": 8}
    user = train(run_id="user", runs_dir=tmp_path, environment="user", max_completion_length=256, **small)
    rows = read_lines(user.path / "completions.jsonl")
    assert list(rows[0]["rewards"]) == ["offline", "goal", "turns", "grounded"]
    assert any(message["role"] == "user" for row in rows for message in row["messages"])
    asks = [{"role": "user", "content": "Is there tea?"}]
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_bytes(to_lines([Sample(f"{name}{i}", asks, "Yes.") for i in range(4)]))
    small |= {"data": str(tmp_path), "max_prompt_length": 900, "max_completion_length": 64}
    shop = train(run_id="shop", runs_dir=tmp_path, environment="shop:Shop", judge="offline=0", **small)
    rows = read_lines(shop.path / "completions.jsonl")
    assert list(rows[0]["rewards"]) == ["offline", "environment"]
    assert rows[0]["prompt"][-1]["content"] == f"Is there tea? (order {rows[0]['sample_id']})"
    evaluation = evaluate(shop, n=4)
    assert evaluation.judge == "environment (reward)", "of which none succeeds"
    train(run_id="mute", runs_dir=tmp_path, environment="shop:Mute", **small)
    said = capsys.readouterr().out
    for what in ("has no tools: the model answers once", "gave no reward to any of the first dialogues"):
        assert said.count(f"Warning: environment=shop:Mute {what}") == 1


def test_a_run_without_dialogues_has_no_such_figure(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    about = {"settings": TrainConfig().model_dump(), "versions": {}, "rewards": ["offline"]}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    with pytest.raises(RunError, match="no dialogues to draw"):
        plots.agent_curve(RunDirectory("plain", tmp_path))
    before = {name: about["settings"][name] for name in ("model_name", "max_steps")} | {"environment": "user"}
    (folder / "config.json").write_text(json.dumps(about | {"settings": before}))
    assert RunDirectory("plain", tmp_path).config.judge_replies == "last", "of a run before there was the setting"
