"""Will it learn? One verdict on data, judge and model, made of the same checks wherever it is shown.

It blocks nothing. Red: nothing would be learnt, as far as can be seen. Amber: what is learnt may not be what was meant.
Green: nothing of that was seen; without a probe of the model (training/probe.py) that says little, and it says so.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.demo import DEFAULT_DATA, KITS_OWN, data_folder
from grpo_kit.data.samples import Sample, messages_of, numbered_lines, sample_from
from grpo_kit.errors import KitError, Problem
from grpo_kit.judges.measures import EARNS, IN_WORDS, Measure, measure_of
from grpo_kit.judges.reference import words_of
from grpo_kit.models.shapes import TINY_MODEL
from grpo_kit.models.start import started
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.training.difficulty import ALWAYS
from grpo_kit.training.probe import PROMPTS, Probe, known_probe

Level = Literal["green", "amber", "red"]
LEVELS: list[Level] = ["green", "amber", "red"]
LOOKED_AT = 1000  # samples of the data, evenly over it
FEW_TEACH = 1 / 4  # of groups
MANY_CUT = 1 / 3  # of completions
FOREIGN = 0.1  # of words that tiny does not know: 0 of the demo's, a third of Schema-Guided Dialogue's
ASK_FOR_PROBE = "`grpo-kit doctor --probe` with these settings, kit.probe(config) or the panel's Probe"


@dataclass(frozen=True)
class Verdict:
    """Whether a run would learn. `reasons` are what speaks against it, each with its level and what would change it."""

    data: str  # what is read: folder, samples, source, rubrics
    judged: str  # by what the judge goes on this data
    reasons: tuple[tuple[Level, Problem], ...] = ()
    probe: Probe | None = None
    is_of_data: bool = False  # of data and judge alone
    samples: int = 0  # to train on; 0 where the data can't be read

    @property
    def level(self) -> Level:
        return LEVELS[max((LEVELS.index(level) for level, _ in self.reasons), default=0)]

    def lines(self) -> list[str]:
        """Judge and model in a line, then each reason, the worst first."""
        reasons = sorted(self.reasons, key=lambda reason: -LEVELS.index(reason[0]))
        said = [f"{level}: {problem}" for level, problem in reasons]
        if self.probe:
            return [*said, self.judged, f"probe: {self.probe.line()}"]
        return [*said, self.judged] + ([] if self.is_of_data else [f"no probe was made of the model: {ASK_FOR_PROBE}"])

    def __str__(self) -> str:
        return "\n  ".join([f"Will it learn? {self.level.capitalize()}", self.data, *self.lines()])

    __repr__ = __str__


class Seen(NamedTuple):
    """A train.jsonl, as far as it was looked at."""

    total: int  # of all samples
    samples: list[Sample]  # at most LOOKED_AT of them, evenly
    foreign: float  # share of words that the tiny model does not know


def will_it_learn(
    config: TrainConfig | None = None,
    *,
    runs_dir: str | Path = RUNS_DIR,
    on_modal: bool = False,
    data_only: bool = False,
) -> Verdict:
    """The verdict on a run with these settings; with `data_only` on its data and judge alone. Loads no model and asks
    no network; uses a probe that was made before. Raises nothing for data or a model that can't be read."""
    config = config or TrainConfig()
    folder = Path(config.data)
    try:
        if not on_modal or ":" in config.data:
            folder = data_folder(config.data)
        train, judges = folder / "train.jsonl", tuple(config.judge.items())
        seen = _seen(train, modified := train.stat().st_mtime_ns)
        measures = _measures(judges, train, modified)
    except (KitError, OSError, ValueError):
        seen, measures = None, Counter[Measure]()
    if not seen or not seen.samples:
        where = f"data: {folder}/train.jsonl"
        problem = Problem("the data can't be checked: it is not here, or can't be read", "See the other problems")
        return Verdict(where, "judged by: not known without it", (("amber", problem),), is_of_data=data_only)
    reasons, found = list(_reasons_in_data(config, seen, measures)), None
    if not data_only:
        with suppress(KitError, OSError):
            config = started(config, runs_dir)
            found = known_probe(config, runs_dir)
        reasons += [*_reasons_of_tiny(config, seen), *(_reasons_in(found, config) if found else ())]
    told = _data_text(config, folder, seen), _judged_text(config, measures)
    return Verdict(*told, tuple(reasons), found, data_only, seen.total)


@lru_cache(8)
def _seen(path: Path, modified: int) -> Seen:
    count = sum(1 for _ in numbered_lines(path))
    every = count // LOOKED_AT + 1
    lines = (line for i, (_, line) in enumerate(numbered_lines(path)) if i % every == 0)
    samples = [sample_from(line, default_id=str(i)) for i, line in enumerate(lines)]
    found = [word for sample in samples[:: len(samples) // 200 + 1] for word in _words(sample)]
    return Seen(count, samples, sum(word not in _words_of_tiny() for word in found) / max(1, len(found)))


@lru_cache(32)
def _measures(judges: tuple[tuple[str, float], ...], path: Path, modified: int) -> Counter[Measure]:
    """Of how many samples most weight of the judges goes by what; by word overlap or nothing only where none goes by
    more."""
    found = Counter[Measure]()
    for sample in _seen(path, modified).samples:
        weights: dict[Measure, float] = {}
        for name, weight in judges:
            measure = measure_of(name, sample)
            weights[measure] = weights.get(measure, 0.0) + weight
        found[max(weights, key=lambda each: (each != "nothing", each != "words", weights[each]))] += 1
    return found


def _data_text(config: TrainConfig, folder: Path, seen: Seen) -> str:
    """ "shop: 36 samples, prepared from Downloads/bikes.jsonl, no rubric"."""
    where = config.data if ":" in config.data else str(folder)
    if config.data in KITS_OWN and folder != Path(config.data):
        none = f", as there is no {config.data}/train.jsonl" if config.data == DEFAULT_DATA else ""
        where = f"the demo's{none}"
    try:
        card = json.loads((folder / "data_card.json").read_text())
        source, by = f", prepared from {card['source']}", card["rubrics"]["by"]
    except (OSError, ValueError, KeyError, TypeError):
        source, by = "", ""
    count = sum(bool(sample.rubric.strip()) for sample in seen.samples)
    writer = {"": "", "schema": " (from the traces)"}.get(by, f" (by {by})")
    rubric = f"{_share(count, seen)} with a rubric{writer}" if count else "no rubric"
    empty = sum(not words_of(sample.ground_truth) for sample in seen.samples)
    lacks = f", {_share(empty, seen)} without a reference" if empty else ""
    return f"{where}: {seen.total:,} samples{source}, {rubric}{lacks}"


def _share(count: int, seen: Seen) -> str:
    return "all" if count == len(seen.samples) else f"{count / len(seen.samples):.0%}"


def _judged_text(config: TrainConfig, measures: Counter[Measure]) -> str:
    """ "judged by offline: 75% by dialogue acts, 25% by word overlap alone"."""
    if not any(config.judge.values()):
        return f"rewarded by environment={config.environment} alone"
    shares = ((IN_WORDS[measure], count / measures.total()) for measure, count in measures.most_common())
    told = ", ".join(f"{'all' if share == 1 else f'{share:.0%}'} {how}" for how, share in shares)
    told += ", and by the next judge where it is unsure" * config.has_ladder
    return f"judged by {', '.join(config.judge)}: {told}"


def _reasons_in_data(config: TrainConfig, seen: Seen, measures: Counter[Measure]) -> Iterator[tuple[Level, Problem]]:
    names, total = ", ".join(config.judge), measures.total()
    if not any(config.judge.values()):
        return
    if measures["nothing"] == total:
        yield "red", Problem(f"{names} can judge nothing here: no sample has acts or a reference", "Add ground_truth")
    elif 2 * measures["words"] > total:
        share = "" if measures["words"] == total else f" on {measures['words'] / total:.0%} of the samples"
        lacks = "as it has no dialogue acts" if "offline" in config.rungs else "and by nothing else"
        what = f"only word overlap with the reply in the trace is rewarded{share}, {lacks}"
        if config.has_ladder:
            what = f"word overlap with the reply in the trace tells which answers go up the ladder{share}, {lacks}"
        write = "Have rubrics written (`grpo-kit prepare … --rubric gemini`), and use a judge that reads them"
        has_rubrics = any(sample.rubric.strip() for sample in seen.samples)
        fix = "Use a judge that reads the rubrics" if has_rubrics else write
        yield "amber", Problem(what, f"{fix} (judge=gemini); or judge=exact, where one answer is right")


def _reasons_of_tiny(config: TrainConfig, seen: Seen) -> Iterator[tuple[Level, Problem]]:
    if config.model_name == "tiny" and seen.foreign > FOREIGN:
        what = f"tiny knows only the demo's words, and does not know {seen.foreign:.0%} of the words of this data"
        fix = "Use a pretrained model, such as model_name=SmolLM2-135M-Instruct (`make smollm2`), or one from the hub"
        yield "red", Problem(what, fix)


def _words(sample: Sample) -> list[str]:
    said = [each["content"] for each in messages_of(sample.prompt) if each["role"] in ("user", "assistant")]
    return re.findall(r"[^\W\d_]+", " ".join([*said, sample.ground_truth]).lower())


@cache
def _words_of_tiny() -> frozenset[str]:
    """The words that are one token of the tiny model's; pieces of words are among them, which does no harm."""
    tokens = json.loads((TINY_MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    return frozenset(token.removeprefix("Ġ").lower() for token in tokens)


def _reasons_in(probe: Probe, config: TrainConfig) -> Iterator[tuple[Level, Problem]]:
    """What a probe tells. A warm start may yet change what the untrained model does, so red is amber before one."""
    worst: Level = "amber" if config.sft_steps else "red"
    before = ", before its warm start" if config.sft_steps else ""
    warm = "" if config.sft_steps else "Imitate the traces first (sft_steps=20), use "
    if not probe.scores:
        yield "red", Problem(f"{probe.judge} scored none of {probe.answers} answers", "kit.probe(config) shows why")
    elif not probe.earns:
        what = f"no answer of {probe.model} earns anything{before}: the best of {probe.answers} scores "
        fix = f"{warm or 'Use '}another model, or a judge that gives partial credit"
        yield worst, Problem(f"{what}{max(probe.scores):.3f}, and above {EARNS} would count", fix)
    elif probe.without_spread == 1 and probe.kinds[ALWAYS] == len(probe.rows):
        yield worst, Problem(f"every answer of {probe.model} earns the full score{before}", "Bring harder prompts")
    elif probe.without_spread > 1 - FEW_TEACH:
        share = "no group" if probe.without_spread == 1 else f"only {1 - probe.without_spread:.0%} of {PROMPTS} groups"
        what = f"{share} of {probe.model}'s answers differs enough in score to learn from{before}"
        fix = "Try a judge that gives partial credit, more num_generations, or a higher temperature"
        yield worst if probe.without_spread == 1 else "amber", Problem(what, fix)
    if probe.cut > MANY_CUT:
        longest = config.max_completion_length
        what = f"{probe.cut:.0%} of {probe.model}'s completions are cut at max_completion_length={longest}"
        yield (
            "amber",
            Problem(what, f"Use max_completion_length={2 * longest}; a model that never ends is not instruction-tuned"),
        )
