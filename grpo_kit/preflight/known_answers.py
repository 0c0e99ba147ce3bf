"""Answers of known worth to some turns of the data, those of the model to be trained, and what judges give them."""

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from grpo_kit.config.judge import CLOUD, JudgeConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import Sample, read_samples
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Verdict, make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.cache import CACHE_FILE, RewardCache
from grpo_kit.judges.calibration import Price, judge_and_price
from grpo_kit.models.generate import as_trained
from grpo_kit.utils.garbage import loading_libraries

RIGHT, HALF, WRONG = "reply in the trace", "its first half", "reply to another turn"
GROUPS = 8  # turns that are answered several times
TO_LABEL = 60  # answers that people are asked about
Scores = list[float | None]  # None where the judgement failed


class KnownAnswers:
    """Judges by name, the samples of train.jsonl in `folder`, and `turns`, some of them. `config` trains with the judge
    `judge`, whose name without its mode is `kind`, and its settings `judge_config`.

    Judgements are kept in the folder `out`, so that the same again costs nothing.
    """

    def __init__(
        self,
        data: str = "data/processed",
        judge: str = "offline",
        judges: Iterable[str] | None = None,
        judge_settings: Mapping[str, Any] | None = None,
        model_name: str = "tiny",
        out: str | Path = "runs/prototype",
        n: int = 64,
        repeats: int = 4,
        seed: int = 0,
    ):
        """`judge` is a judge's name; one that asks a model may have its mode behind it: "gemini group". `judges` are
        compared with it; None: offline, and Gemini in both modes where its key is set. `judge_settings` are
        JudgeConfig's. `n` turns are looked at, and what is repeated is done `repeats` times, both twice at least.
        Raises ConfigError for a judge that can't work."""
        for name, count in {"n": n, "repeats": repeats}.items():
            if not isinstance(count, int) or count < 2:
                raise ConfigError(f"{name}={count!r} does not work", "Use a whole number, 2 or more")
        self.judge, self.out, self.repeats, self.seed = judge, Path(out), repeats, seed
        if judges is None:
            has_key = any(map(os.environ.get, CLOUD["gemini"].keys))
            judges = ["offline", *["gemini absolute", "gemini group"] * has_key]
            if not has_key:
                print("Gemini is left out. To compare it too, set GEMINI_API_KEY before you start Jupyter.")
        settings = {name: _settings(name, judge_settings or {}) for name in dict.fromkeys([judge, *judges])}
        self.judges = {name: make_judge(name.split()[0], JudgeConfig(**own)) for name, own in settings.items()}
        for each in self.judges.values():
            each.check()
        self.kind, self.judge_config = judge.split()[0], JudgeConfig(**settings[judge])
        self.folder = data_folder(str(data))
        self.config = TrainConfig(model_name=model_name, data=str(data), judge={self.kind: 1.0}, **settings[judge])
        self.samples = list(read_samples(self.folder / "train.jsonl"))
        self._cache, self._rng = RewardCache(self.out / CACHE_FILE), random.Random(seed)
        self.turns = self._rng.sample(self.samples, min(n, len(self.samples)))

    @cached_property
    def answers(self) -> dict[str, list[str]]:
        """An answer to each turn, by how good it is."""
        replies = [sample.ground_truth for sample in self.turns]
        model = {f"{self.config.model_name}, untrained": self._sampled(self.turns)}
        return {RIGHT: replies, HALF: [*map(half, replies)], WRONG: [*map(self.another, self.turns)], **model}

    @cached_property
    def _measured(self) -> dict[str, tuple[dict[str, Scores], Price]]:
        asked, told = self.turns * len(self.answers), [text for texts in self.answers.values() for text in texts]
        found = {}
        for name, judge in self.judges.items():
            verdicts, price = run_async(judge_and_price(judge, self._cache, asked, told))
            each = iter([verdict.score for verdict in verdicts])
            found[name] = {kind: [next(each) for _ in self.turns] for kind in self.answers}, price
        return found

    @property
    def scores(self) -> dict[str, dict[str, Scores]]:
        """By judge and kind of answer, a score for each turn."""
        return {name: scores for name, (scores, _) in self._measured.items()}

    @property
    def prices(self) -> dict[str, Price]:
        return {name: price for name, (_, price) in self._measured.items()}

    @cached_property
    def groups(self) -> tuple[list[Sample], list[str]]:
        """A few turns, each as often as a group has answers, and the model's answers."""
        asked = [sample for sample in self.turns[:GROUPS] for _ in range(self.config.num_generations)]
        return asked, self._sampled(asked)

    @property
    def distinct(self) -> list[tuple[Sample, list[str]]]:
        """The groups' turns with their distinct answers."""
        pairs = list(zip(*self.groups, strict=True))
        return [(sample, sorted({text for other, text in pairs if other is sample})) for sample in self.turns[:GROUPS]]

    @property
    def to_label(self) -> dict[str, list[str]]:
        """Answers for people to label, by the sample's id."""
        pairs = [(sample.id, text) for texts in self.answers.values() for sample, text in self._with(texts)]
        chosen = random.Random(self.seed).sample(pairs, min(TO_LABEL, len(pairs)))
        return {name: [text for other, text in chosen if other == name] for name, _ in chosen}

    @property
    def judged(self) -> dict[str, dict[tuple[str, str], float | None]]:
        """The judges' scores by (sample's id, answer), as the panel for labels takes them."""
        keys = {kind: [(sample.id, text) for sample, text in self._with(texts)] for kind, texts in self.answers.items()}
        return {
            name: {key: score for kind in keys for key, score in zip(keys[kind], own[kind], strict=True)}
            for name, own in self.scores.items()
        }

    def verdicts(self, judge: str, samples: Sequence[Sample], answers: Sequence[str]) -> list[Verdict]:
        return run_async(judge_batch(self.judges[judge], self._cache, samples, answers)).verdicts

    def answer(self, sample: Sample) -> list[str]:
        """Two answers of the model, drawn as in training."""
        return self._sampled([sample] * 2)

    def another(self, sample: Sample) -> str:
        """The reply to some turn that asks for something else."""
        asked = (sample.rubric, sample.acts)
        return self._rng.choice([s.ground_truth for s in self.samples if (s.rubric, s.acts) != asked] or [""])

    def _with(self, texts: Sequence[str]) -> Iterable[tuple[Sample, str]]:
        return zip(self.turns, texts, strict=True)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        with loading_libraries():
            from grpo_kit.models import load
        tokenizer = load.load_tokenizer(self.config.model_name, self.config.chat_template_kwargs)
        return load.load_model(self.config.model_name, load.device_can_bf16()), tokenizer

    def _sampled(self, samples: Sequence[Sample]) -> list[str]:
        return list(as_trained(*self._model, samples, self.config, self.seed))


def half(text: str) -> str:
    return " ".join(text.split()[: len(text.split()) // 2])


def _settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """JudgeConfig's settings for a judge of that name, whose mode may stand behind it."""
    kind, _, mode = name.partition(" ")
    if mode not in ("", "absolute", "group"):
        raise ConfigError(f"judge {name!r} has no mode {mode!r}", "Use absolute or group, such as 'gemini group'")
    TrainConfig(judge={kind: 1.0}, **settings)  # raises for a judge that there is not
    return JudgeConfig.present_names(settings) | ({"judge_mode": mode} if mode else {})
