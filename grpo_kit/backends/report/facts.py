"""What a report tells of a run: gathered from the run's files, as texts, rows and numbers for page and card alike."""

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from grpo_kit.backends.report.settings import commands, settings_rows, shareable
from grpo_kit.backends.run import Run
from grpo_kit.config.judge import NEED_MODEL
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import HERE
from grpo_kit.data.demo import data_folder
from grpo_kit.data.prepare import CARD, TRAIN
from grpo_kit.data.samples import Sample, fingerprint, messages_of, said_in
from grpo_kit.evaluation.interpret import signed
from grpo_kit.evaluation.labelling import Labelling, agreement_table
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.judges.labels import read_labels
from grpo_kit.models.files import read_object
from grpo_kit.preflight.verdict import Verdict, will_it_learn
from grpo_kit.runs.directory import UNFINISHED, now, place_of
from grpo_kit.training.diagnostics import diagnose
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.statistics import interval_text
from grpo_kit.utils.text import dollars, duration

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
Row = dict[str, Any]


def gather(run: Run, evaluations: list[Evaluation], labels: Path | None) -> Row:
    """All that page and card tell, by name, but for the figures: of the run, the newest of its `evaluations`, and
    people's `labels`, a file.

    Raises ConfigError for labels that can't be read, RunError for a run on Modal that is out of reach.
    """
    config, status, about = run.config, run.status, run.about
    evaluation = evaluations[-1] if evaluations else None
    is_here = run.storage.backend == "local"
    runs_dir = run.path.parent if is_here else Path("runs")
    verdict = will_it_learn(config, runs_dir=runs_dir, on_modal=not is_here)
    told = {
        "id": run.id,
        "state": status["state"],
        "is_unfinished": status["state"] in UNFINISHED,
        "place": f"{place_of(status)} of {status['max_steps']}",
        "reason": status["reason"],
        "made": _when(now()),
        "about": _about(run, verdict),
        "base": _base(config),
        "adapts": config.use_lora,
        "data": _data(config, about["data"]),
        "settings": settings_rows(config),
        "verdict": {"level": verdict.level, "lines": [verdict.data, *verdict.lines()]},
        "signs": [{"what": sign.what, "fix": sign.fix} for sign in diagnose(run.metrics(), config)],
        "costs": _costs(status, evaluation),
        "versions": about["versions"] | ({"git commit": about["git_commit"]} if about.get("git_commit") else {}),
        "commands": commands(run, evaluation),
        "judges": _judges(config, about, evaluation),
        "lengths": {"prompt": config.max_prompt_length, "completion": config.max_completion_length},
        "evaluation": _evaluation(evaluation, evaluations) if evaluation else None,
        "agreement": _agreement(evaluation, labels) if evaluation and labels else [],
    }
    return shareable(told) | {"samples": _samples(evaluation) if evaluation else []}


def _when(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M} UTC"


def _about(run: Run, verdict: Verdict) -> list[tuple[str, str]]:
    """The run in a few rows: what was trained, on what, by whose judgement, when, where, and how far."""
    config, status, about = run.config, run.status, run.about
    trained = f"LoRA of rank {config.lora_r}" if config.use_lora else "all weights"
    trained += f", going on from {config.adapter}" if config.adapter else ""
    imitated = f"{config.sft_steps} steps of imitation, then " if config.sft_steps else ""
    size = f"{config.prompts_per_step} prompts × {config.num_generations} completions each"
    where = "the author's machine" if about.get("machine", HERE) == HERE else f"Modal, {about['machine']}"
    return [
        ("model", f"{config.model_name}, {trained}"),
        ("trained", f"{imitated}{place_of(status)} of {status['max_steps']} of GRPO, {size}"),
        ("data", verdict.data),
        ("judge", verdict.judged),
        ("when", f"{_when(status['started'])}, for {duration(status['seconds'])}"),
        ("where", where),
    ]


def _base(config: TrainConfig) -> Row:
    """The base model's name, whether it is on the hub, and its licence where its folder or the cache has its card."""
    from huggingface_hub import metadata_load, try_to_load_from_cache

    name, card = config.model_name, None
    is_on_hub = bool(HUB_NAME.fullmatch(name)) and not Path(name).exists()
    card = try_to_load_from_cache(name, "README.md") if is_on_hub else Path(name, "README.md")
    found = metadata_load(card) if isinstance(card, str | Path) and Path(card).is_file() else None
    return {"name": name, "is_on_hub": is_on_hub, "licence": (found or {}).get("license")}


def _data(config: TrainConfig, about: Row) -> Row:
    """What is known of the data without showing it: the data card's counts, where it is that of these samples."""
    train, card = data_folder(config.data) / TRAIN, {}
    if train.is_file() and fingerprint([train]) == about["fingerprint"]:
        card = read_object(train.with_name(CARD))
    return about | {name: card.get(name) for name in ("source", "dialogues", "samples_per_service")}


def _costs(status: Row, evaluation: Evaluation | None) -> list[tuple[str, str, str]]:
    """Rows of what was quoted and what was taken: time, dollars and memory."""

    def money(value: float | None) -> str:
        return "not known" if value is None else dollars(value)

    quoted, actual = status.get("quoted") or {}, status.get("actual") or {}
    shown = {
        "training": ("minutes", lambda minutes: duration(60 * minutes)),
        "machine": ("usd_machine", money),
        "judge, in training": ("usd_judge", money),
        "peak of memory": ("memory_gib", lambda gib: f"{gib:.1f} GiB" if gib else "not measured"),
    }
    rows = [
        (title, *(text(found[name]) if name in found else "–" for found in (quoted, actual)))
        for title, (name, text) in shown.items()
    ]
    if evaluation:
        result = evaluation.result()
        rows.append(("evaluation", "–", duration(result["seconds"])))
        rows.append(("judges, in the evaluation", "–", money(result["judge_usd"])))
    return rows


def _judges(config: TrainConfig, about: Row, evaluation: Evaluation | None) -> list[Row]:
    """Who scored, where, and by which model; a judge's version is that of its prompt and rules."""
    models = {name: config.model_of(name) for name in config.rungs if name in NEED_MODEL}
    rows = [
        {"name": name, "used": f"training, weight {weight:g}", "version": about["judges"].get(name, "–")}
        | {"model": ", ".join(models[rung] for rung in name.split(">") if rung in models)}
        for name, weight in config.judge.items()
    ]
    own = [name for name in about["rewards"] if name not in config.judge]
    rows += [{"name": name, "used": "training, a reward function", "version": "–", "model": ""} for name in own]
    for part, kind in (("judge", "evaluation"), ("second_judge", "evaluation, second judge")):
        if evaluation and (judge := evaluation.results[part]):
            by = ", by word overlap alone" if judge.get("by_words") else ""
            rows.append({"name": judge["name"], "used": kind + by, "version": judge["version"], "model": ""})
    return rows


def _evaluation(evaluation: Evaluation, found: list[Evaluation]) -> Row:
    best, results = evaluation.best(), evaluation.results
    return {
        "name": evaluation.path.stem,
        "made": _when(results["made"]),
        "n": results["n"],
        "line": evaluation.line(),
        "added": evaluation.added(),
        "base": evaluation.base and evaluation.base["name"],
        "trained": evaluation.trained["name"],
        "gain": signed(evaluation.trained["versus_base"]) if evaluation.base else "",
        "models": [model["name"] for model in evaluation.models],
        "rows": _rows(evaluation),
        "best": {"name": best["name"], "why": best["why"]},
        "warnings": evaluation.warnings(),
        "notes": results["notes"],
        "temperature": results["config"]["temperature"],
        "others": [{"name": each.path.stem, "line": each.line()} for each in found if each is not evaluation],
    }


def _rows(evaluation: Evaluation) -> list[Row]:
    """A row per judge and model: its mean and its gain over the base, with 95% intervals, and how many were judged."""
    return [
        {
            "judge": judge,
            "model": model["name"],
            "mean": numbers["mean"],
            "interval": numbers["interval"],
            "text": f"{numbers['mean']:.2f} {interval_text(numbers['interval'])}",
            "gain": signed(numbers["versus_base"]) if numbers["versus_base"] else "",
            "judged": numbers["judged"],
        }
        for judge, part in ((evaluation.judge, None), (evaluation.second_judge, "second"))
        for model in evaluation.models
        if judge and (numbers := model[part] if part else model)
    ]


def _samples(evaluation: Evaluation) -> list[Row]:
    """Each prompt with every model's answer, and each judge's score and reason. Models wrote these texts."""
    judges = {evaluation.judge: None} | ({evaluation.second_judge: "second"} if evaluation.second_judge else {})
    return [
        {
            "id": row["id"],
            "prompt": [{"role": turn["role"], "said": said_in(turn)} for turn in messages_of(row["prompt"])],
            "reference": row["ground_truth"],
            "rubric": row["rubric"],
            "answers": {
                name: {
                    "text": told["answer"],
                    "verdicts": [
                        {"judge": judge, "score": verdict["score"], "reason": verdict["reason"]}
                        for judge, part in judges.items()
                        if (verdict := told[part] if part else told)
                    ],
                }
                for name, told in row["answers"].items()
            },
        }
        for row in read_lines(evaluation.samples_path)
    ]


def _agreement(evaluation: Evaluation, path: Path) -> list[Row]:
    """The judges' agreement with people's labels of this evaluation's answers, and people's with each other; of scores,
    then of choices. People are numbered, not named."""
    rows = read_lines(evaluation.samples_path)
    samples = [Sample(row["id"], row["prompt"], row["ground_truth"]) for row in rows]
    labelling, people, labels = Labelling.of(samples, evaluation), {}, []
    for label in read_labels(path):
        if {label.answer, label.other_answer or label.answer} <= set(labelling.answers.get(label.sample_id, ())):
            number = people.setdefault(label.labeller, len(people) + 1)
            labels.append(replace(label, labeller=f"person {number}"))
    return [
        {"of": "choices" if choose else "scores", **row}
        for choose in (False, True)
        for row in agreement_table(labelling.agreement(labels, choose), choose).to_dict("records")
        if row["labels"]
    ]
