# pyright: basic, reportPrivateImportUsage=false
"""Dialogues in an environment as TRL's trainer takes them: its `rollout_func`."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_kit.agents.asked_user import AskedUser
from grpo_kit.agents.dialogue import Dialogue, begun, converse, measured
from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Message, Sample
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Verdict
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.cache import RewardCache
from grpo_kit.models.shapes import positions_of
from grpo_kit.rewards.judge_reward import FailureWatch, TooManyFailures, counted, usage_of


class Speaker:
    """Has a model speak for the users of a run's dialogues, and counts what that takes. It raises nothing: the error
    that ends the run is kept for `problem`, since other processes may wait for this one to generate."""

    def __init__(self, user: AskedUser, cache: RewardCache, watch: FailureWatch):
        self._user, self._cache, self._watch = user, cache, watch
        self.problem: Exception | None = None
        self._seconds, self._hits, self._failures, self._told = 0.0, 0, 0, usage_of(user)

    def __call__(self, samples: Sequence[Sample], replies: Sequence[str]) -> Sequence[Verdict]:
        started, verdicts = time.perf_counter(), [Verdict(None, str(self.problem))] * len(samples)
        try:
            if not self.problem:
                judged = run_async(judge_batch(self._user, self._cache, samples, replies))
                verdicts = judged.verdicts
                self._hits += judged.hits
                self._watch.see(self._user.name, judged.fresh)
        except (TooManyFailures, ConfigError) as error:
            self.problem = error
        self._failures += sum(each.score is None for each in verdicts)
        self._seconds += time.perf_counter() - started
        return verdicts

    def counted(self) -> dict[str, float]:
        """What goes into metrics.jsonl since it was last asked for that."""
        told, self._told = self._told, usage_of(self._user)
        found = counted(self._user.name, self._seconds, self._hits, self._failures, told, self._told)
        self._seconds, self._hits, self._failures = 0.0, 0, 0
        return found


class Rollout:
    """Begun with a batch's rows and called, it has a dialogue in each sample's world; the model generates as TRL has
    it."""

    def __init__(
        self, samples: Sequence[Sample], config: TrainConfig, say: Callable[[str], None], speaker: Speaker | None = None
    ):
        self._speaker = speaker
        self._samples, self._config = {sample.id: sample for sample in samples}, config
        self._environment = str(config.environment)
        self._dialogues: list[Dialogue] = []  # those of the last batch
        self._say: Callable[[str], None] | None = say
        self._longest = positions_of(config.model_name)

    def begin(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
        """The rows with the prompts that their worlds give them."""
        samples = [self._samples[row["id"]].replace(prompt=row["prompt"]) for row in rows]
        is_asked = self._speaker is not None
        self._dialogues = begun(samples, self._environment, tokenizer, is_asked)
        return [{**row, "prompt": each.prompt} for row, each in zip(rows, self._dialogues, strict=True)]

    def __call__(self, prompts: Sequence, trainer: Any) -> dict[str, list | None]:
        config, dialogues = self._config, self._dialogues

        def generate(asked: list[list[int]], group: int) -> Any:
            return trainer._generate_single_turn(asked, None, {}, group)

        how: dict[str, Any] = {"group": config.num_generations if trainer.model.training else 1, "ask": self._speaker}
        how |= {"room": config.max_completion_length, "most_turns": config.max_tool_calling_iterations}
        tokenizer, ends = trainer.processing_class, trainer.eos_token_ids
        converse(dialogues, tokenizer, generate, ends, longest=self._longest, **how)
        scores = [each.scores for each in dialogues]
        if self._say:  # once is enough
            is_silent = all(each.get("environment", 0) is None for each in scores)
            told = dialogues[0].world.caveat, "gave no reward to any of the first dialogues" if is_silent else ""
            for what in filter(None, told):
                self._say(f"Warning: environment={self._environment} {what}")
            self._say = None
        return {
            "prompt_ids": [each.prompt_ids for each in dialogues],
            "completion_ids": [each.ids for each in dialogues],
            "logprobs": None if dialogues[0].logprobs is None else [each.logprobs for each in dialogues],
            "env_mask": [each.own for each in dialogues],
            "environments": [each.world.environment for each in dialogues],
            "environment_scores": scores,
            "problems": [each.problem for each in dialogues],
        }

    @property
    def completions(self) -> list[list[Message]]:
        return [each.messages for each in self._dialogues]

    def measured(self, judged: Sequence[float]) -> dict[str, float]:
        """Of the last batch, with the judge's scores, what goes into metrics.jsonl."""
        return measured(self._dialogues, judged) | (self._speaker.counted() if self._speaker else {})

    def check(self) -> None:
        """Raises what kept the last batch's users from speaking, TooManyFailures or ConfigError."""
        if self._speaker and self._speaker.problem:
            raise self._speaker.problem
