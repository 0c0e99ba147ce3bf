"""A probe: the start model answers eight prompts, as in training, and the run's judges score what it says.

It costs seconds, and tells before a run whether there is anything to learn from: whether any answer earns anything, and
whether a prompt's answers earn different scores. It is made only where it is asked for, and kept by all that it depends
on, so that quotes, launches and evaluations can show it.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from statistics import fmean
from typing import Any

import numpy as np

from grpo_kit.config.base import names_where
from grpo_kit.config.judge import JUDGES, JudgeConfig
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.costs.forecast import STARTING_HERE_SECONDS, measuring_minutes
from grpo_kit.costs.judging import judge_usd
from grpo_kit.costs.memory import decided
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import Sample, fingerprint_of, last_turn, read_samples
from grpo_kit.errors import ConfigError
from grpo_kit.judges.base import make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.cache import RewardCache, digest
from grpo_kit.judges.measures import EARNS
from grpo_kit.models.load import check_model
from grpo_kit.models.shapes import SHIPPED
from grpo_kit.models.start import adapter_weights, started
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.training.difficulty import DRAWN_BY, KEPT, kind_of
from grpo_kit.utils.environment import version_of
from grpo_kit.utils.files import CACHE, write_json
from grpo_kit.utils.garbage import loading_libraries
from grpo_kit.utils.text import dollars, duration, on_a_line

PROMPTS = 8
BINS = 10
RULES = ("offline", "reference", "exact")  # judges that are rules, with one version


@dataclass(frozen=True, repr=False)
class Probe:
    """What the start model answered, and what that earned. A row a prompt: sample_id, asked, answers, scores (None
    where not judged), reasons and cut."""

    model: str
    judge: str
    rows: list[dict[str, Any]]

    @property
    def scores(self) -> list[float]:
        return [score for row in self.rows for score in row["scores"] if score is not None]

    @property
    def answers(self) -> int:
        return sum(len(row["answers"]) for row in self.rows)

    @property
    def earns(self) -> bool:
        """Whether any answer earns anything."""
        return max(self.scores, default=0.0) > EARNS

    @property
    def kinds(self) -> Counter[str]:
        """How many groups teach something, and how many do not and why: difficulty.kind_of of each."""
        return Counter(kind_of(row["scores"], 1.0) for row in self.rows)

    @property
    def without_spread(self) -> float:
        """The share of groups whose answers all earn (nearly) the same."""
        return 1 - self.kinds[KEPT] / len(self.rows)

    @property
    def cut(self) -> float:
        """The share of completions that max_completion_length cuts."""
        return fmean(cut for row in self.rows for cut in row["cut"])

    def examples(self) -> list[tuple[float, str, str, str]]:
        """The best, the middle and the worst answer: score, what was asked, answer, the judge's reason."""
        told = [
            (score, row["asked"], answer, reason)
            for row in self.rows
            for score, answer, reason in zip(row["scores"], row["answers"], row["reasons"], strict=True)
            if score is not None
        ]
        told.sort(key=lambda each: each[0], reverse=True)
        return [told[place] for place in (dict.fromkeys((0, len(told) // 2, len(told) - 1)) if told else ())]

    def line(self) -> str:
        """ "64 answers of tiny to 8 prompts: scores 0.00 to 0.31, mean 0.08; 25% of groups without spread; 3% cut"."""
        made = f"{self.answers} answers of {self.model} to {len(self.rows)} prompts"
        if not (scores := self.scores):
            return f"{made}: {self.judge} gave none of them a score"
        missing = self.answers - len(scores)
        told = f"{made}: scores {min(scores):.2f} to {max(scores):.2f}, mean {fmean(scores):.3f}"
        told += f" ({missing} without a score)" if missing else ""
        return f"{told}; {self.without_spread:.0%} of groups without spread; {self.cut:.0%} of completions cut"

    def __str__(self) -> str:
        bins = Counter(min(BINS - 1, int(score * BINS)) for score in self.scores)
        most = max(bins.values(), default=1)
        bars = [f"{i / BINS:.1f}  {'█' * -(-30 * bins[i] // most):<30} {bins[i]}".rstrip() for i in range(BINS)]
        shown = [
            f"{score:.2f}  asked:    {on_a_line(asked, 160)}\n      "
            f"answered: {on_a_line(answer, 160) or '(nothing)'}\n      {reason}"
            for score, asked, answer, reason in self.examples()
        ]
        return "\n".join([self.line(), f"scores by {self.judge}, of {self.answers} answers", *bars, *shown])

    __repr__ = __str__


def probe(
    config: TrainConfig | None = None,
    *,
    runs_dir: str | Path = RUNS_DIR,
    echo: Callable[[str], None] = print,
    **settings: Any,
) -> Probe:
    """Has the model that a run would start from answer eight prompts of its data, num_generations times each, on this
    machine, and its judges score the answers. `echo` is told first what that takes and costs.

    `settings` are TrainConfig's by keyword. The same settings, model and data again give the same probe, for nothing.
    A warm start is not made before it, and reward functions beside the judges take no part. Raises ConfigError for
    settings, a model or a judge that can't work, BadTrace for data that is not valid.
    """
    config = started((config or TrainConfig()).replace(**settings), runs_dir)
    if (known := known_probe(config, runs_dir)) and len(known.scores) == known.answers:
        return known
    samples, group = _drawn(config), config.num_generations
    with ExitStack() as ending:
        judges = [make_judge(name, config) for name in config.judge]
        for judge in judges:
            ending.callback(judge.close)
            judge.check()
        check_model(config.model_name, config)
        echo(cost_of_probe(config, runs_dir))
        rows = known.rows if known else _answered(config, samples, runs_dir)
        file = _file_of(config, runs_dir)
        cache = ending.enter_context(closing(RewardCache(file.with_name("judgements.sqlite"))))
        asked = [sample for sample in samples for _ in range(group)]
        answers = [answer for row in rows for answer in row["answers"]]
        verdicts = [run_async(judge_batch(judge, cache, asked, answers)).verdicts for judge in judges]
    each = list(zip(*verdicts, strict=True))
    told = [[verdict.score for verdict in own if verdict.score is not None] for own in each]
    weights = list(config.judge.values())
    scores = [round(fmean(own, weights), 6) if len(own) == len(judges) else None for own in told]
    reasons = ["; ".join(verdict.reason for verdict in own) for own in each]
    for i, row in enumerate(rows):
        row |= {"scores": scores[i * group : (i + 1) * group], "reasons": reasons[i * group : (i + 1) * group]}
    made = Probe(config.adapter or config.model_name, ", ".join(config.judge), rows)
    write_json(file, vars(made))
    return made


def known_probe(config: TrainConfig, runs_dir: str | Path = RUNS_DIR) -> Probe | None:
    """The probe of these settings that was made before; None where there is none, or the data is not here. `config` has
    its start taken apart, as `started` does it."""
    try:
        return Probe(**json.loads(_file_of(config, runs_dir).read_text()))
    except (OSError, ValueError):
        return None


def cost_of_probe(config: TrainConfig, runs_dir: str | Path = RUNS_DIR) -> str:
    """What a probe takes and costs, in one line."""
    made = f"A probe: {PROMPTS} prompts, {PROMPTS * config.num_generations} completions of {config.model_name}, "
    runs = earlier_runs(runs_dir)
    time = measuring_minutes(config, PROMPTS, runs, gpu=None)
    takes = "the time for it is not known"
    if time:
        takes = f"some {duration(60 * time[1] + STARTING_HERE_SECONDS)} on this machine (very rough)"
    with_it, without = (judge_usd(config, runs, measured).range for measured in (PROMPTS, 0))
    usd = with_it[1] - without[1] if with_it and without else None
    judge = "the price of its judge is not known" if usd is None else f"{dollars(usd) if usd else 'nothing'} to judge"
    return f"{made}each judged: {takes}, {judge}"


def _drawn(config: TrainConfig) -> list[Sample]:
    """The samples that the seed draws. Raises BadTrace for data that is not valid."""
    samples = list(read_samples(data_folder(config.data) / "train.jsonl"))
    if not samples:
        raise ConfigError(f"{config.data}/train.jsonl has no sample", "Prepare data first")
    return [samples[i] for i in np.random.default_rng(config.seed).permutation(len(samples))[:PROMPTS]]


def _answered(config: TrainConfig, samples: Sequence[Sample], runs_dir: str | Path) -> list[dict[str, Any]]:
    """A row for each sample, as yet without scores. The model leaves memory with it."""
    with loading_libraries():
        from accelerate.utils.memory import clear_device_cache

        from grpo_kit.models.checkpoints import adapted
        from grpo_kit.models.generate import as_trained
        from grpo_kit.models.load import device_can_bf16, load_model, load_tokenizer, torch_threads
    tokenizer, group = load_tokenizer(config.model_name, config.chat_template_kwargs), config.num_generations
    bf16 = decided(config.bf16, device_can_bf16()) and config.use_lora
    with torch_threads(config.torch_threads):
        model: Any = load_model(config.model_name, bf16, config.load_in_4bit)
        if config.adapter:
            model = adapted(model, adapter_weights(config.adapter, runs_dir))
        asked = [sample for sample in samples for _ in range(group)]
        answers = as_trained(model, tokenizer, asked, config, config.seed)
    del model
    clear_device_cache(garbage_collection=True)
    each = [answers[i * group : (i + 1) * group] for i in range(len(samples))]
    return [
        {
            "sample_id": sample.id,
            "asked": last_turn(sample.prompt),
            "answers": [*map(str, own)],
            "cut": [answer.is_cut for answer in own],
        }
        for sample, own in zip(samples, each, strict=True)
    ]


def _file_of(config: TrainConfig, runs_dir: str | Path) -> Path:
    """Where a probe of these settings is kept; another file where anything that decides it is another. Asks no network.
    Raises OSError where the data is not here."""
    judging = ["judge", *(JudgeConfig.model_fields.keys() - set(names_where(JudgeConfig, "resume")))]
    settings = {name: getattr(config, name) for name in [*DRAWN_BY, "adapter", *sorted(judging)]}
    folders = [SHIPPED.get(config.model_name, Path(config.model_name))]
    if config.adapter:
        folders.append(adapter_weights(config.adapter, runs_dir))
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file()]
    files += [Path(config.judge_prompt)] if config.judge_prompt else []
    stats = [(file.name, (found := file.stat()).st_size, found.st_mtime_ns) for file in files]
    # A judge whose rules have changed judges anew; one that is asked over a network has its settings among those above.
    rules = [getattr(resolve_name(JUDGES[name]), "version", "") for name in config.rungs if name in RULES]
    train = data_folder(config.data) / "train.jsonl"
    data = fingerprint_of(train, train.stat().st_mtime_ns)
    return CACHE / "probes" / f"{digest([settings, stats, rules, data, version_of('grpo_kit')], size=16)}.json"
