"""A trainer that needs no torch, in the place of grpo_kit.training.grpo.

Its completions are made up, more of them good as it goes on. Its weights are drawn from a state that each step's
completions and rewards change, so that a run that was resumed ends like one that was not only where nothing was lost.
Rewards, the run directory, stops, budgets and failures are the kit's own. After the step that STANDIN_HOLD in the
environment says, it waits until the run is asked to stop, or a file `go` is in its folder, so that a test finds it
under way however long that takes. STANDIN_SECONDS is how long a step takes.
"""

import asyncio
import hashlib
import inspect
import json
import os
import random
import shutil
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from standin_models import made_up

from grpo_kit.data.samples import Sample
from grpo_kit.errors import ConfigError
from grpo_kit.models.shapes import TINY_MODEL
from grpo_kit.rewards.judge_reward import JudgeReward, TooManyFailures
from grpo_kit.rewards.travel import RewardFunction
from grpo_kit.runs.checkpoints import write_manifest
from grpo_kit.runs.directory import STOP_FILE, checkpoint_step
from grpo_kit.training.progress import RunProgress
from grpo_kit.utils.environment import processes, rank

STATE_FILE = "state.json"


def build_trainer(
    samples: Sequence[Sample], rewards: Mapping[RewardFunction, float], progress: RunProgress, rollout: None = None
) -> "Trainer":
    progress.writer.update(prompts_shortened=0, prompts_too_long=0, fsdp=False)
    return Trainer(samples, rewards, progress)


class Trainer:
    def __init__(self, samples, rewards, progress):
        self._config, self._samples, self._rewards, self._progress = progress.config, samples, rewards, progress
        self._judges = [reward.__name__ for reward in rewards if isinstance(reward, JudgeReward)]
        self._state, self._step = hashlib.sha256(str(self._config.seed).encode()).hexdigest(), 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def train_from(self, checkpoint: Path | None) -> None:
        config, progress = self._config, self._progress
        if checkpoint:
            self._step = checkpoint_step(checkpoint)
            self._state = json.loads((checkpoint / STATE_FILE).read_text())
        progress.begin(self._step)
        if self._step >= config.max_steps:
            return  # the run was killed while it saved its result
        is_asked_to_stop = False
        while self._step < config.max_steps and not is_asked_to_stop:
            logs = self._make_step()
            self._step += 1
            is_asked_to_stop = progress.should_stop(self._step)
            if not rank():
                progress.record_step(self._step, logs)
            if is_asked_to_stop or self._step % config.save_steps == 0 or self._step == config.max_steps:
                self._save_checkpoint()
            if str(self._step) == os.environ.get("STANDIN_HOLD"):
                self._hold()
        progress.finish(self._step)

    def _hold(self) -> None:
        deadline = time.monotonic() + 600  # the test that would let it go may have been killed
        while not any((self._progress.run.path / name).exists() for name in (STOP_FILE, "go")):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def save_into_run(self) -> None:
        if rank():
            return
        folder = self._progress.run.path
        self._save(folder / ".partial")
        (folder / ".partial" / STATE_FILE).unlink()
        for file in (folder / ".partial").iterdir():
            file.replace(folder / file.name)
        (folder / ".partial").rmdir()

    def _make_step(self) -> dict[str, float]:
        started = time.perf_counter()
        config, progress = self._config, self._progress
        logs = {"loss": 0.1, "learning_rate": config.learning_rate, "entropy": 1.0}
        if self._step % config.num_iterations == 0:
            logs |= self._make_completions()
        time.sleep(float(os.environ.get("STANDIN_SECONDS", 0.01)))
        progress.part = "updating"
        return logs | {"step_time": time.perf_counter() - started}

    def _make_completions(self) -> dict[str, float]:
        config, progress = self._config, self._progress
        first = self._step // config.num_iterations * config.prompts_per_step
        asked = [self._samples[(first + i) % len(self._samples)] for i in range(config.prompts_per_step)]
        asked = [sample for sample in asked for _ in range(config.num_generations)]
        share = len(asked) // processes()
        asked = asked[rank() * share : (rank() + 1) * share]
        with progress.timed("generating"):
            learnt = min(0.9, 20 * config.learning_rate * self._step)  # the share of answers that are as they should be
            texts = [self._answer(f"{self._state} {i}", sample, learnt) for i, sample in enumerate(asked)]
        with progress.timed("judging"):
            scores, extra, metrics = self._score(asked, texts)
        rewards = [self._total(row) for row in scores]
        measured = [reward for reward in rewards if reward is not None] or [0.0]
        mean = statistics.fmean(measured)
        rows = [
            {
                "step": self._step + 1,
                "sample_id": sample.id,
                "prompt": sample.prompt,
                "completion": text,
                "rewards": row,
                "advantage": 0.0 if reward is None else reward - mean,
                "reason": "; ".join(str(extra[f"reason/{name}"][i]) for name in self._judges),
            }
            for i, (sample, text, row, reward) in enumerate(zip(asked, texts, scores, rewards, strict=True))
        ]
        progress.writer.append("completions.jsonl", rows)
        self._state = hashlib.sha256(f"{self._state} {texts} {rewards}".encode()).hexdigest()
        lengths = [len(text.split()) for text in texts]
        logs = {"reward": mean, "reward_std": statistics.pstdev(measured), "frac_reward_zero_std": 0.0, **metrics}
        for name in scores[0]:
            known = [row[name] for row in scores if row[name] is not None] or [0.0]
            logs |= {f"rewards/{name}/mean": statistics.fmean(known), f"rewards/{name}/std": statistics.pstdev(known)}
        return logs | {"completions/mean_length": statistics.fmean(lengths), "completions/clipped_ratio": 0.0}

    @staticmethod
    def _answer(seed: str, sample: Sample, learnt: float) -> str:
        return sample.ground_truth if random.Random(seed).random() < learnt else made_up(seed, sample.ground_truth)

    def _score(self, asked: Sequence[Sample], texts: Sequence[str]) -> tuple[list[dict], dict, dict]:
        """Each completion's score by reward, and what the rewards had logged of each completion and of the step."""
        extra: dict[str, list] = {}
        metrics: dict[str, float] = {}
        given: dict[str, Any] = {
            "id": [sample.id for sample in asked],
            "prompts": [sample.prompt for sample in asked],
            "completions": [
                [{"role": "assistant", "content": text}] if isinstance(sample.prompt, list) else text
                for sample, text in zip(asked, texts, strict=True)
            ],
            "completion_ids": [text.split() for text in texts],
            "trainer_state": SimpleNamespace(global_step=self._step, max_steps=self._config.max_steps),
            "log_extra": extra.__setitem__,
            "log_metric": metrics.__setitem__,
        }
        scores: list[dict[str, float | None]] = [{} for _ in asked]
        try:
            for reward in self._rewards:
                found = reward(**given)
                if inspect.isawaitable(found):
                    future = asyncio.run_coroutine_threadsafe(found, self._loop)
                    while not wait([future], timeout=0.5).done:
                        pass  # Python loses an interrupt that comes just before a wait without a limit
                    found = future.result()
                for row, score in zip(scores, found, strict=True):
                    row[reward.__name__] = score
        except (TooManyFailures, ConfigError) as error:
            if self._step:
                self._save_checkpoint()
            raise self._progress.stopped(str(error), self._step) from None
        return scores, extra, metrics

    def _total(self, scores: dict[str, float | None]) -> float | None:
        """The weighted sum; None where a judge gave no score."""
        if any(scores[name] is None for name in self._judges):
            return None
        weights = zip(self._rewards.values(), scores.values(), strict=True)
        return sum(weight * score for weight, score in weights if score is not None)

    def _save_checkpoint(self) -> None:
        if rank():
            return
        folder = self._progress.run.path
        self._save(folder / ".partial" / f"checkpoint-{self._step}")
        write_manifest(folder / ".partial" / f"checkpoint-{self._step}")
        shutil.rmtree(folder / f"checkpoint-{self._step}", ignore_errors=True)
        (folder / ".partial" / f"checkpoint-{self._step}").rename(folder / f"checkpoint-{self._step}")
        if self._config.save_total_limit:
            for old in self._progress.run.checkpoints[: -self._config.save_total_limit]:
                shutil.rmtree(old)
        shutil.rmtree(folder / ".partial")

    def _save(self, folder: Path) -> None:
        """An adapter for the tiny model, which peft can load, or all of that model; and the state."""
        folder.mkdir(parents=True)
        (folder / STATE_FILE).write_text(json.dumps(self._state))
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(TINY_MODEL / name, folder / name)
        if not self._config.use_lora:
            shutil.copyfile(TINY_MODEL / "model.safetensors", folder / "model.safetensors")
            about = json.loads((TINY_MODEL / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(about | self._progress.run.about))
            return
        draw, rank_, tensors = np.random.default_rng(int(self._state, 16)), self._config.lora_r, {}
        content = (TINY_MODEL / "model.safetensors").read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        for name, about in header.items():
            if "_proj.weight" in name:
                out, into = about["shape"]
                stem = f"base_model.model.{name.removesuffix('.weight')}"
                for part, shape in (("A", (rank_, into)), ("B", (out, rank_))):
                    tensors[f"{stem}.lora_{part}.weight"] = draw.normal(0, 0.01, shape).astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        adapter = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self._config.model_name,
            "r": rank_,
            "lora_alpha": self._config.lora_alpha,
            "target_modules": sorted({name.split(".")[-2] for name in header if "_proj.weight" in name}),
            "inference_mode": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
