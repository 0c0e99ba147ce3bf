"""A tiny reward model, made here, as the judge: its logits, alone and in a batch, in training, and what is refused."""

import asyncio
from contextlib import closing

import pytest
import torch
from hub_server import TINY
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from grpo_kit import ConfigError, train
from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.samples import Sample
from grpo_kit.judges.base import make_judge
from grpo_kit.judges.batch import judge_batch
from grpo_kit.judges.cache import RewardCache

ASKED = [{"role": "user", "content": "A table for two, please."}]
TURN = Sample(id="turn", prompt=ASKED, ground_truth="In which city?")
ANSWERS = ["In which city?", "Ok.", "In which city? " * 100 + "Ok."]


def make(folder, labels: int = 1, template: bool = True):
    """A model with so many outputs, and the tiny model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    if not template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(num_labels=labels, **sizes)
    model = LlamaForSequenceClassification(config).eval()
    model.score.weight.data *= 30  # so that scores differ
    model.save_pretrained(folder)
    return model, tokenizer


def judge_of(folder):
    judge = make_judge("reward_model", JudgeConfig(judge_model=str(folder)))
    judge.check()
    return judge


def scores(judge, cache=None, samples=None):
    result = asyncio.run(judge_batch(judge, cache, samples or [TURN] * len(ANSWERS), ANSWERS))
    return [verdict.score for verdict in result.verdicts], result.hits


@pytest.mark.parametrize("template", [True, False])
def test_a_score_is_the_sigmoid_of_the_models_logit_of_the_end_of_what_was_said(tmp_path, template):
    model, tokenizer = make(tmp_path / "model", template=template)
    expected = []
    for answer in ANSWERS:
        if template:
            said = [*ASKED, {"role": "assistant", "content": answer}]
            ids = tokenizer.apply_chat_template(said, tokenize=True, return_dict=False)
        else:
            ids = tokenizer(f"user: A table for two, please.\nassistant: {answer}")["input_ids"]
        begins = ids[:1] if not template and tokenizer.bos_token_id == ids[0] and len(ids) > 256 else []
        logits = model(torch.tensor([[*begins, *ids[len(begins) - 256 :]]])).logits
        expected.append(torch.sigmoid(logits[0, 0]).item())
    judge = judge_of(tmp_path / "model")
    with closing(RewardCache(tmp_path / "cache.sqlite")) as cache:
        found, _ = scores(judge, cache)
        assert found == pytest.approx(expected, abs=1e-5) and len({round(score, 4) for score in found}) == 3
        assert judge.usage is None and scores(judge_of(tmp_path / "model"), cache) == (found, 3)
    assert [scores(judge, samples=[TURN] * 3)[0] for _ in range(2)] == [found] * 2  # another event loop each time


def test_other_weights_are_another_judge(tmp_path):
    model, _ = make(tmp_path / "model")
    before = judge_of(tmp_path / "model").version
    assert judge_of(tmp_path / "model").version == before
    model.score.weight.data += 1
    model.save_pretrained(tmp_path / "model")
    assert judge_of(tmp_path / "model").version != before


def test_what_is_no_reward_model_is_refused_before_anything_is_loaded(tmp_path):
    make(tmp_path / "two", labels=2)
    for folder, said in ((tmp_path / "two", "with 2 outputs"), (TINY, "no reward model"), (tmp_path / "none", "can't")):
        with pytest.raises(ConfigError, match=said):
            judge_of(folder)
    with pytest.raises(ConfigError, match="judge=reward_model needs the name of a model"):
        train(judge="reward_model")


def test_it_trains(tmp_path, demo_data):
    make(tmp_path / "model")
    before = torch.random.get_rng_state()
    judge = judge_of(tmp_path / "model")
    scores(judge)
    assert torch.equal(torch.random.get_rng_state(), before), "loading it leaves training's random numbers alone"
    settings = {"max_steps": 1, "save_steps": 1, "judge": "reward_model", "judge_model": str(tmp_path / "model")}
    run = train(data=str(demo_data), runs_dir=tmp_path, canaries="off", **settings)
    rows = run.completions()
    rewards = [row["reward_model"] for row in rows["rewards"]]
    assert run.status["state"] == "complete" and min(rewards) >= 0 and max(rewards) <= 1 and len(set(rewards)) > 1
    assert rows["reason"].str.startswith("the model's logit is").all()
