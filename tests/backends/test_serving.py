"""A run behind an OpenAI-compatible endpoint, asked by the real `openai` client: here by the kit's own server, and on
Modal's protocol by the same server in a container. What vLLM is told is looked at; `make test-vllm` has vLLM."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import psutil
import pytest
from helpers import STANDIN, shell, wait_until
from judge_server import JudgeServer
from modal_server import ModalServer
from safetensors.torch import load_file, save_file

import grpo_kit as kit
from grpo_kit import widgets
from grpo_kit.backends.modal.client import RUNS_VOLUME
from grpo_kit.backends.serving import command, endpoint_of, guard, here, stop_serving
from grpo_kit.costs.memory import Device
from grpo_kit.models.checkpoints import checkpoints_of
from grpo_kit.models.generate import generate
from grpo_kit.models.load import load_tokenizer
from grpo_kit.models.prompts import prompt_tokens

KEY = "planted-serving-key"
NAMES = ["base", "checkpoint-10", "checkpoint-20"]
WRONG = {  # what the refusal is to name
    "temperature": -1,
    "top_p": 0,
    "max_tokens": -4,
    "max_completion_tokens": 0,
    "n": 200_000,
    "seed": 10**19,
    "stop": [1],
    "logprobs": -1,
    "top_logprobs": 3,
    "top_k": 5,
    "response_format": {"type": "json_object"},
    "tool_choice": "required",
    "tools": [{"type": "function", "function": 5}],
}
ODD = [[], [{"role": "user"}], [{"role": "king", "content": "a"}], [{"role": "system", "content": "a"}]]
ODD.append([{"role": "user", "content": "word " * 5000}])  # more than can be read
ASKED = [{"role": "user", "content": "A table for two, please."}]


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Iterator[kit.Run]:
    """With an evaluation of its own, by the likeliest words."""
    run = trained.download(tmp_path_factory.mktemp("served") / trained.id)
    kit.evaluate(run, n=32, temperature=0)
    yield run
    if served := endpoint_of(run):  # a test failed
        served.stop()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SERVE_KEY", KEY)


@pytest.fixture(scope="module")
def expected(run) -> dict[str, list]:
    """What the weights answer in this process."""
    tokenizer, how = load_tokenizer("tiny"), {"temperature": 0.0, "max_completion_length": 28, "log_probs": True}
    models = checkpoints_of(run, None, run.path.parent).models()
    return {name: generate(model, tokenizer, [ASKED], **how) for name, _, model in models}


def client_of(url: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE  # which this process has not seen yet


def check_answers(client: openai.OpenAI, expected: dict[str, list]) -> None:
    """Each model answers under its own name, as its weights do here."""
    assert [model.id for model in client.models.list()] == [*expected]
    how = {"messages": ASKED, "temperature": 0, "max_tokens": 28, "logprobs": True}
    for name, [answer] in expected.items():
        [choice] = client.chat.completions.create(model=name, **how).choices
        told = [each.logprob for each in choice.logprobs.content]
        assert choice.message.content == answer and told == pytest.approx(answer.log_probs, abs=1e-4)


def test_a_run_is_served_here_asked_evaluated_and_stopped(run, expected, tmp_path, capsys):
    """Started with the hub's button, stopped from a shell."""
    hub = widgets.runs(run.path.parent)
    hub.list.ticked = [f"here {run.id}"]
    hub.serve_button.click()
    wait_until(lambda: "is served at" in hub.message.value or "Error" in hub.message.value)
    served = endpoint_of(run)
    assert served.url in hub.message.value and KEY not in hub.message.value
    assert kit.serve(run).url == served.url, "as it is"
    client = client_of(served.url)
    check_answers(client, expected)

    # Whatever clients ask beside that.
    said = client.chat.completions.create(model="base", messages=ASKED, seed=3).choices[0].message.content
    parts = client.chat.completions.create(model="base", messages=ASKED, seed=3, stream=True)
    assert "".join(part.choices[0].delta.content for part in parts) == said
    several = client.chat.completions.create(model="checkpoint-20", messages=ASKED, n=3, seed=1, max_tokens=4)
    assert len(several.choices) == 3 and several.usage.completion_tokens <= 12
    text = client.completions.create(model="base", prompt="Which", max_tokens=3, logprobs=0, stop=[" "]).choices[0]
    assert " " not in text.text and 1 <= len(text.logprobs.token_logprobs) <= 3
    tokenizer = load_tokenizer("tiny")
    ids, end = prompt_tokens(tokenizer, ASKED), tokenizer.eos_token_id
    asked = {"temperature": 0, "max_tokens": 28, "logprobs": 0, "extra_body": {"return_token_ids": True}}
    for name, [answer] in expected.items():
        [told] = client.completions.create(model=name, prompt=ids, **asked).choices
        assert (told.text, told.token_ids, told.prompt_token_ids) == (answer, answer.tokens, ids)
        assert told.logprobs.token_logprobs == pytest.approx(answer.log_probs, abs=1e-4) and told.token_ids[-1] == end
    call = {"id": "call_0", "type": "function", "function": {"name": "Find", "arguments": '{"city": "Oslo"}'}}
    called = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]
    called.append({"role": "tool", "tool_call_id": "call_0", "content": "[]"})
    assert client.chat.completions.create(model="base", messages=called).choices[0].message.content

    # Wrong: each one message, to the library as to the kit.
    with pytest.raises(openai.AuthenticationError):
        client_of(served.url, "another").models.list()
    with pytest.raises(openai.NotFoundError, match="The model `nobody` does not exist"):
        client.chat.completions.create(model="nobody", messages=ASKED)
    for name, wrong in [*WRONG.items(), *(("messages", odd) for odd in ODD)]:
        with pytest.raises(openai.BadRequestError, match=name):
            client.chat.completions.create(**{"model": "base", "messages": ASKED, "extra_body": {name: wrong}})
    for wrong in ("", [], [-1], [len(tokenizer)], [ids], ids * 500):
        with pytest.raises(openai.BadRequestError, match="prompt"):
            client.completions.create(model="base", prompt=wrong)
    with pytest.raises(kit.ConfigError, match=r"serves no model 'nobody'. Choose one of: base, checkpoint-10"):
        kit.chat(served, "Hello", checkpoint="nobody")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVE_KEY", "another")
        with pytest.raises(kit.ConfigError, match="refuses the key in SERVE_KEY") as caught:
            served.models()
        assert "another" not in str(caught.value)
        patch.delenv("SERVE_KEY")
        with pytest.raises(kit.ConfigError, match=r"wants a key. Set SERVE_KEY here"):
            served.models()
    other = kit.Run(shutil.copytree(run.path, tmp_path / "other"))
    assert endpoint_of(other) is None, "what serves the run does not serve its copy"
    with pytest.raises(kit.RunError, match="run other is not being served"):
        stop_serving(other)
    with pytest.raises(kit.ConfigError, match=r"port \d+ can't be used here \(Address already in use\). Name another"):
        kit.serve(other, port=int(served.url.split(":")[2].split("/")[0]))
    with pytest.raises(kit.RunError, match=r"there is no checkpoint-7 in .*Choose one of: checkpoint-10"):
        kit.serve(other, "checkpoint-7", port=0)
    with pytest.raises(kit.RunError, match=rf"is being served. End that first: `grpo-kit serve {run.path} --stop`"):
        run.delete()

    with JudgeServer() as judge, pytest.raises(kit.ConfigError, match=r"serves none of base, .*but gpt-5-mini"):
        kit.evaluate(run, endpoint=judge.url)

    # The kit's own chat and widgets.
    table = kit.chat(served, ["Hello", ASKED], temperature=0)
    assert table["trained"][1] == expected["checkpoint-20"][0] and table["base"][1] == expected["base"][0]
    panel = widgets.chat(run.id, "checkpoint-10", temperature=0, runs_dir=run.path.parent)
    panel.box.value = ASKED[0]["content"]
    panel.ask()
    wait_until(lambda: not panel.send_button.disabled)
    assert str(expected["checkpoint-10"][0]) in panel.said.value and served.url not in panel.said.value

    # Evaluated, and compared with the run's own evaluation and weights.
    capsys.readouterr()
    evaluation = kit.evaluate(run, n=32, temperature=0, endpoint=served.url.removesuffix("/v1"), echo=print)
    told, said = evaluation.results["endpoint"], capsys.readouterr().out
    assert evaluation.path.stem == "n32_t0.0_seed7_endpoint" and evaluation.results["engine"] == "endpoint"
    for name in NAMES:
        assert told["log_probs"][name]["mean"] < 1e-4 and told["log_probs"][name]["prompts"] == 32
        assert told["scores"][name]["same"] == 32 and told["scores"][name]["difference"] == 0
        assert f"{name}: its log-probabilities agree with the trainer's" in said
    assert served.run_id() == run.id, "so that `grpo-kit eval --endpoint URL` needs no more"
    file = other.path / "checkpoint-20" / "adapter_model.safetensors"
    save_file({name: 3 * weight for name, weight in load_file(file).items()}, file)
    kit.evaluate(other, n=4, temperature=1.0, endpoint=served, echo=print)
    said = capsys.readouterr().out
    assert "checkpoint-20: its log-probabilities PART from the trainer's" in said and "furthest" not in said
    assert "checkpoint-10: its log-probabilities agree" in said and "no own evaluation by these settings" in said

    server = psutil.Process(json.loads(run.read_text("serving.json"))["pid"])
    assert KEY not in " ".join(server.cmdline()) + run.read_text("serving.log") + run.read_text("serving.json")
    said = shell(tmp_path, "serve", run.path, "--stop")
    assert "nothing is left running" in said and has_ended(server) and endpoint_of(run) is None
    down = shell(tmp_path, "eval", run.path, "--endpoint", served.url, code=2)
    assert down.startswith("error: nothing answers at") and "grpo-kit serve RUN" in down
    with pytest.raises(kit.RunError, match="is not being served"):
        served.stop()
    hub.end_button.click()
    wait_until(lambda: "is not being served" in hub.message.value)


def test_what_cannot_be_served_is_said_at_once(run, tmp_path, monkeypatch):
    ignored = shutil.ignore_patterns("checkpoint-*", "*.safetensors", "serving.*")
    bare = kit.Run(shutil.copytree(run.path, tmp_path / "bare", ignore=ignored))
    with pytest.raises(kit.RunError, match="run bare has no checkpoint yet"):
        kit.serve(bare, port=0)
    monkeypatch.setattr(here, "server_command", lambda *_: ["sh", "-c", "echo error: the adapter is broken; exit 1"])
    other = kit.Run(shutil.copytree(run.path, tmp_path / "other", ignore=shutil.ignore_patterns("serving.*")))
    with pytest.raises(kit.RunError, match=r"the server ended before it answered.*\nerror: the adapter is broken"):
        kit.serve(other, port=0)
    assert not (other.path / "serving.json").exists()
    cause = "(Worker pid=1) ERROR [core.py:1] ValueError: Adapter bias is not supported.\nRuntimeError: see above"
    monkeypatch.setattr(here, "server_command", lambda *_: ["sh", "-c", f"echo '{cause}'; exit 1", command.VLLM])
    told = r"serving.log says:\nValueError: Adapter bias is not supported.\. .*or without vLLM: use_vllm=False"
    with pytest.raises(kit.RunError, match=told):
        kit.serve(other, port=0)
    with pytest.raises(kit.ConfigError, match="use_vllm=True, and vllm is not installed here"):
        kit.serve(other, port=0, use_vllm=True)


def test_a_run_is_served_on_modal_and_stopped(run, expected, tmp_path, monkeypatch, capsys):
    """As long as nobody asks there is no machine; after stop there is neither machine nor endpoint."""
    monkeypatch.chdir(tmp_path)
    with (
        ModalServer(tmp_path / "modal", container_env={"HF_HUB_OFFLINE": "1"}, installed=STANDIN) as server,
        server.in_this_process(),
    ):
        server.grace = 1.0
        shutil.copytree(run.path, server.volume(RUNS_VOLUME) / "runs" / "there")
        there = kit.Run("there")
        with pytest.raises(kit.ConfigError, match=r"no Modal secret serve-secret with SERVE_KEY.*modal secret create"):
            kit.serve(there)
        server.secrets["serve-secret"] = {"SERVE_KEY": KEY}
        with pytest.raises(kit.RunError, match="there is no checkpoint-7 in run there"):
            kit.serve(there, "checkpoint-7")
        with pytest.raises(kit.ConfigError, match=r"gpu='A10:9' can't be had. Use A10"):
            kit.serve(there, gpu="A10:9")
        assert not server.asked("AppPublish")
        served = kit.serve(there, "checkpoint-20", gpu="l4", idle_seconds=60)
        said = capsys.readouterr().out
        assert (
            "L4: $1.15 an hour while it answers, $0 an hour idle; its machine waits 60 s" in said and served.url in said
        )
        assert said.index("an hour") < said.index("is served at") and KEY not in said
        assert not server.containers, "nobody has asked"
        server.scaledown = 60
        check_answers(client_of(served.url), {name: expected[name] for name in ("base", "checkpoint-20")})
        [container] = server.containers
        definition = container.definition
        assert (container.gpu, container.secrets[0], definition.task_idle_timeout_secs) == ("L4", "serve-secret", 60)
        assert not definition.warm_pool_size and definition.autoscaler_settings.max_containers == 1
        with pytest.raises(openai.AuthenticationError):
            client_of(served.url, "another").models.list()
        assert kit.serve(there).url == served.url and KEY not in server.logs()

        copy = there.download("fetched/there")
        evaluation = kit.evaluate(copy, n=32, temperature=0, endpoint=served)
        assert evaluation.results["endpoint"]["log_probs"]["checkpoint-20"]["mean"] < 1e-4
        assert evaluation.results["endpoint"]["scores"]["checkpoint-20"]["same"] == 32
        panel = widgets.talk(there, temperature=0)
        panel.conversation.say(ASKED[0]["content"])
        assert panel.conversation.messages[-1]["content"] == expected["checkpoint-20"][0]

        with pytest.raises(kit.RunError, match=r"run there is being served. End that first: `grpo-kit serve there --s"):
            there.delete()
        processes = [psutil.Process(pid) for pid in container.processes()]
        assert len(processes) >= 2, "Modal's own and the server"
        served.stop()
        assert "nothing is left running" in capsys.readouterr().out
        assert container.ended
        wait_until(
            lambda: all(map(has_ended, processes)), "killed processes are gone, on a busy machine a little later"
        )
        assert endpoint_of(there) is None
        with pytest.raises(openai.NotFoundError):
            client_of(served.url).models.list()
        with pytest.raises(kit.RunError, match="run there is not being served"):
            served.stop()


def test_where_there_is_a_gpu_with_vllm_it_serves(run, monkeypatch):
    plan = command.plan_of(checkpoints_of(run, None, run.path.parent))
    assert plan.names == NAMES and "grpo_kit.backends.serving.server" in command.server_command(plan, "h", 1, 0.5)
    monkeypatch.setattr(command, "device_of", lambda *_, **__: Device(True, 24.0, has_vllm=True))
    words = command.server_command(plan, "127.0.0.1", 8000, 0.6)
    assert words[1:4] == ["-m", "vllm.entrypoints.cli.main", "serve"] and (Path(words[4]) / "config.json").exists()
    told = dict(zip(words[5:-5:2], words[6:-5:2], strict=True))
    assert (told["--served-model-name"], told["--max-lora-rank"], told["--max-loras"]) == ("base", "16", "2")
    assert json.loads(told["--override-generation-config"]) == {"temperature": 1.0, "top_p": 1.0}
    assert words[-5:-2] == ["--language-model-only", "--enable-lora", "--lora-modules"]
    assert [*map(json.loads, words[-2:])] == [{"name": name, "path": str(run.path / name)} for name in NAMES[1:]]
    whole = replace(plan, adapters={}, whole={"checkpoint-20": str(run.path / "checkpoint-20")})
    assert "--enable-lora" not in command.vllm_arguments(whole, "127.0.0.1", 8000, 0.6)
    assert command.vllm_arguments(whole, "127.0.0.1", 8000, 0.6)[0] == str(run.path / "checkpoint-20")
    monkeypatch.setattr(command, "default_template", lambda _: "{{ enable_thinking }}")
    thoughtless = command.plan_of(checkpoints_of(run, None, run.path.parent))
    words = command.vllm_arguments(thoughtless, "127.0.0.1", 8000, 0.6)
    told = words[words.index("--default-chat-template-kwargs") + 1]
    assert json.loads(told) == {"enable_thinking": False}, "as in training, where nothing else was said"


def test_vllm_answers_under_v1_alone():
    sent = []

    async def app(scope, receive, send):
        sent.append(scope["path"])

    async def send(message):
        sent.append(message.get("status", "body"))

    only = guard.OnlyV1(app)
    for path in ("/v1/models", "/invocations", "/v1x"):
        asyncio.run(only({"type": "http", "path": path}, None, send))
    asyncio.run(only({"type": "websocket", "path": "/v1/realtime"}, None, send))
    assert sent == ["/v1/models", 404, "body", 404, "body"]
