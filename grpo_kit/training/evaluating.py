# pyright: basic, reportPrivateImportUsage=false
"""The model under training answers held-out prompts, as it answers those that it learns from."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from grpo_kit.judges.batch import run_async
from grpo_kit.rewards.ready import text_of
from grpo_kit.rewards.replies import judge_completions
from grpo_kit.training.held_out import second_judge
from grpo_kit.training.progress import RunProgress

Rows = Sequence[dict[str, Any]]


class Evaluator:
    """Evaluates a trainer's model on `rows` of held-out prompts, as TRL takes them. `answer` gives completions of a
    process's rows, and the scores of all processes' by reward, shape (rows, rewards)."""

    def __init__(
        self,
        trainer: GRPOTrainer,
        answer: Callable[[Rows], tuple[list, torch.Tensor]],
        rows: Rows,
        progress: RunProgress,
    ):
        self._trainer, self._answer, self._progress, self._config = trainer, answer, progress, progress.config
        self._rows, self._second = rows, second_judge(progress.config)

    def evaluate(self, step: int) -> dict[str, float]:
        """The scores after `step`, with TRL's names for those of an evaluation; rank 0 keeps each prompt's.

        Every evaluation draws alike. All processes take part, with as many prompts each, and at most as many at once as
        in a step of training. The random state is left changed.
        """
        trainer, started = self._trainer, time.perf_counter()
        count, own = trainer.accelerator.num_processes, trainer.accelerator.process_index
        padded = [*self._rows, *self._rows[: -len(self._rows) % count]]
        told, scores, measured = [], [], defaultdict(list)
        model: Any = trainer.model
        model.eval()
        try:
            for start in range(0, len(padded), count * self._config.completions_per_process):
                together = padded[start : start + count * self._config.completions_per_process]
                each = len(together) // count
                torch.manual_seed(self._config.seed + start + own)
                completions, found = self._answer(together[own * each : (own + 1) * each])
                told += gather_object(list(completions))
                scores += found.tolist()
                for theirs in gather_object([dict(trainer._pending_metrics)]):
                    for name, values in theirs.items():
                        measured[name] += values
                trainer._pending_metrics.clear()
            lengths = {name: fmean(values) for name, values in trainer._metrics["eval"].items()}
        finally:
            model.train()
            trainer._metrics["eval"].clear()
            trainer._pending_metrics.clear()
            trainer._pending_extra_logs.clear()
        if not trainer.is_world_process_zero():
            return {}
        scores, seconds = torch.tensor(scores[: len(self._rows)]), time.perf_counter() - started
        whole = (scores * trainer.reward_weights.cpu()).nansum(dim=1)
        whole[scores[:, : len(self._config.judge)].isnan().any(dim=1)] = torch.nan
        means = {"reward": whole.nanmean().item()}
        names = [f"rewards/{name}/mean" for name in trainer.reward_func_names]
        means |= dict(zip(names, scores.nanmean(dim=0).tolist(), strict=True))
        means |= {name: lengths[name] for name in lengths if name != "num_tokens"}
        means |= {name: (sum if name.startswith("judge/") else fmean)(found) for name, found in measured.items()}
        means |= self._keep(step, told[: len(self._rows)], whole.tolist())
        return {f"eval_{name}": value for name, value in means.items() if value == value} | {"eval_runtime": seconds}

    def _keep(self, step: int, told: Sequence, scores: Sequence[float]) -> dict[str, float]:
        """Has the second judge score the answers, keeps all, and returns its mean and the change since the best."""
        samples = self._progress.held_out
        texts, seconds, means = list(map(text_of, told)), [None] * len(told), {}
        if self._second:
            seconds = [each.score for each in run_async(judge_completions(self._second, None, samples, told)).verdicts]
            if judged := [score for score in seconds if score is not None]:
                means = {f"second/{self._second.name}/mean": fmean(judged)}
        rows = [
            {"step": step, "sample_id": sample.id, "completion": text, "score": score, "second": second}
            for sample, text, score, second in zip(samples, texts, scores, seconds, strict=True)
        ]
        return means | self._progress.keep_scores(step, rows)
