"""A reward model as a judge: a sequence classifier with one output, of the hub or a folder, on the GPU or the CPU.

Its logit goes through a sigmoid, so that a score is in [0, 1]: 0.5 is the model's zero, and differences shrink towards
the ends.
"""

import asyncio
import math
import os
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from anyio import to_thread

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.data.samples import Sample, messages_of
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import Judge, Verdict
from grpo_kit.judges.cache import digest
from grpo_kit.runs.checkpoints import size_and_hash

BATCH = 16  # conversations at a time
LONGEST = 4096  # tokens; of what is longer, the end is read


class RewardModelJudge(Judge):
    """Scores answers by a reward model, all of a batch together. It costs nothing, and is loaded when first asked."""

    name = "reward_model"

    def __init__(self, config: JudgeConfig):
        """Raises ConfigError where the settings name no model."""
        self._model_name = config.model_of(self.name)
        self._waiting: list[tuple[Sample, str, asyncio.Future[float]]] = []
        self._working: asyncio.Task | None = None
        self._one_at_a_time = threading.Lock()

    def check(self) -> None:
        """Reads the model's config.json, and loads nothing else. Raises ConfigError where it is no reward model."""
        found = self._config
        architectures = ", ".join(found.architectures or ["none named"])
        if "ForSequenceClassification" not in architectures or found.num_labels != 1:
            what = f"judge_model={self._model_name} is no reward model: {architectures} with {found.num_labels} outputs"
            raise ConfigError(what, "It should be a sequence classifier (…ForSequenceClassification) with one output")

    @cached_property
    def version(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of its files' content in a folder, of the commit on the hub."""
        folder = Path(self._model_name)
        files = [file for file in sorted(folder.iterdir()) if file.is_file()] if folder.is_dir() else []
        hashes = [[file.name, size_and_hash(file)["xxh3_128"]] for file in files]
        return digest(hashes or [self._model_name, self._config._commit_hash])

    async def judge(self, sample: Sample, answers: Sequence[str], repeat: int = 0) -> list[Verdict]:
        """One verdict for each answer, in order: the sigmoid of the model's logit for the conversation with it."""
        loop = asyncio.get_running_loop()
        asked = [loop.create_future() for _ in answers]
        self._waiting += [(sample, answer, own) for answer, own in zip(answers, asked, strict=True)]
        if self._working is None or self._working.done():  # begins when all that ask at this moment have done so
            self._working = loop.create_task(self._work())
        logits = await asyncio.gather(*asked)
        return [Verdict((1 + math.tanh(logit / 2)) / 2, f"the model's logit is {logit:.3f}") for logit in logits]

    async def _work(self) -> None:
        taken, self._waiting, self._working = self._waiting, [], None
        try:
            logits = await to_thread.run_sync(self._logits, [(sample, answer) for sample, answer, _ in taken])
        except Exception as error:
            for own in (own for _, _, own in taken if not own.done()):  # one that was cancelled is done
                own.set_exception(error)
        else:
            for (_, _, own), logit in zip(taken, logits, strict=True):
                if not own.done():
                    own.set_result(logit)

    def _logits(self, asked: Sequence[tuple[Sample, str]]) -> list[float]:
        with self._one_at_a_time:
            return self._computed([self._text(sample, answer) for sample, answer in asked])

    def _computed(self, texts: Sequence[str]) -> list[float]:
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # of like lengths, so that little is padded
        logits = [0.0] * len(texts)
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            inputs = self._tokenizer(
                [texts[i] for i in some],
                add_special_tokens=self._tokenizer.chat_template is None,  # which has written them
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            )
            with torch.inference_mode():
                found = self._model(**inputs.to(self._model.device)).logits[:, 0].float().tolist()
            for i, logit in zip(some, found, strict=True):
                logits[i] = logit
        return logits

    def _text(self, sample: Sample, answer: str) -> str:
        """By the model's chat template; without one a line for each message."""
        said = [*messages_of(sample.prompt), {"role": "assistant", "content": answer}]
        if self._tokenizer.chat_template is None:
            return f"{sample.conversation}\nassistant: {answer}"
        return self._tokenizer.apply_chat_template(said, tools=sample.tools or None, tokenize=False)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self._model_name)
        except (OSError, ValueError) as error:  # the hub's own words say what is missing, and no token
            what = f"judge_model={self._model_name} can't be read ({str(error).splitlines()[0]})"
            raise ConfigError(what, "Name a model's folder, or a model on the hub as owner/name") from None

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._model_name, truncation_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer

    @cached_property
    def _longest(self) -> int:
        known = getattr(self._config.get_text_config(), "max_position_embeddings", LONGEST)
        return min(LONGEST, known, self._tokenizer.model_max_length)

    @cached_property
    def _model(self) -> Any:
        """In bfloat16 on the GPU that this process trains on, in float32 on a CPU."""
        import torch
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        has_gpu = torch.cuda.is_available()
        model = AutoModelForSequenceClassification.from_pretrained(
            self._model_name, dtype=torch.bfloat16 if has_gpu else torch.float32
        )
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = self._tokenizer.pad_token_id
        return model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if has_gpu else "cpu").eval()
