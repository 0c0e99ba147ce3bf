"""What a report tells of a run, gathered from the run's files for page and card alike."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_kit.backends.report.settings import asked_for, commands, shareable
from grpo_kit.backends.run import Run
from grpo_kit.config.environment import as_user
from grpo_kit.config.judge import NEED_MODEL
from grpo_kit.config.tables import fields_of
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import HERE
from grpo_kit.data.demo import data_folder
from grpo_kit.data.prepare import CARD, TRAIN
from grpo_kit.data.samples import Sample, conversation_text, fingerprint, messages_of, said_in
from grpo_kit.evaluation.labelling import Labelling, agreement_table
from grpo_kit.evaluation.result import Evaluation, main_evaluation
from grpo_kit.judges.labels import read_labels
from grpo_kit.models.files import read_object
from grpo_kit.plots.tables import table
from grpo_kit.preflight.verdict import Verdict, will_it_learn
from grpo_kit.runs.directory import RUNS_DIR, UNFINISHED, now, place_of
from grpo_kit.training.diagnostics import diagnose
from grpo_kit.utils.json_lines import read_lines
from grpo_kit.utils.text import dollars, duration, printable_in

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
Row = dict[str, Any]


def gather(run: Run, labels: Path | None) -> Row:
    """All that page and card tell, by name, but for the figures. `labels` is a file of people's labels.

    Raises ConfigError for labels that can't be read, RunError for a run on Modal that is out of reach.
    """
    config, status, about, evaluations = run.config, run.status, run.about, run.evaluations()
    evaluation = main_evaluation(evaluations)
    is_here = run.storage.backend == "local"
    verdict = will_it_learn(config, runs_dir=run.path.parent if is_here else RUNS_DIR, on_modal=not is_here)
    rows = read_lines(evaluation.samples_path) if evaluation else []
    return {
        "id": run.id,
        "config": config,
        "status": status,
        "is_unfinished": status["state"] in UNFINISHED,
        "place": f"{place_of(status)} of {status['max_steps']}",
        "made": now(),
        "about": _about(config, status, about, verdict),
        "base": _base(config),
        "data": _data(config, about["data"]),
        "fields": fields_of(TrainConfig),
        "asked_for": asked_for(config),
        "verdict": verdict,
        "signs": diagnose(run.metrics(), config),
        "costs": _costs(status, evaluation),
        "versions": about["versions"] | ({"git commit": about["git_commit"]} if about.get("git_commit") else {}),
        "commands": [shareable(line) for line in commands(run, evaluation)],
        "judges": _judges(config, about, evaluation),
        "evaluation": evaluation,
        "agents": table(evaluation.agents()).columns() if evaluation else {},
        "others": [each for each in evaluations if each is not evaluation],
        "samples": printable_in([_shown(row) for row in rows]),
        "agreement": _agreement(evaluation, rows, labels) if evaluation and labels else [],
    }


def _about(config: TrainConfig, status: Row, about: Row, verdict: Verdict) -> list[tuple[str, str]]:
    """The run in a few rows: what was trained, on what, by whose judgement, when, where, and how far."""
    trained = f"LoRA of rank {config.lora_r}" if config.use_lora else "all weights"
    trained += f", going on from {config.adapter}" if config.adapter else ""
    imitated = f"{config.sft_steps} steps of imitation, then " if config.sft_steps else ""
    size = f"{config.prompts_per_step} prompts × {config.num_generations} completions each"
    machine = about.get("machine", HERE)
    return [
        ("model", f"{config.model_name}, {trained}"),
        ("trained", f"{imitated}{place_of(status)} of {status['max_steps']} of GRPO, {size}"),
        ("data", verdict.data),
        ("judge", verdict.judged),
        *([("environment", config.environment)] if config.environment else []),
        ("when", f"{status['started'][:16].replace('T', ' ')} UTC, for {duration(status['seconds'])}"),
        ("where", "the author's machine" if machine == HERE else f"Modal, {machine}"),
    ]


def _base(config: TrainConfig) -> Row:
    """The base model's name, whether it is on the hub, and its licence where its folder or the cache has its card."""
    from huggingface_hub import metadata_load, try_to_load_from_cache

    name = config.model_name
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


def _costs(status: Row, evaluation: Evaluation | None) -> list[list[str]]:
    """Rows of what was quoted and what was taken: time, dollars and memory."""
    shown = {
        "training": ("minutes", lambda minutes: duration(60 * minutes)),
        "machine": ("usd_machine", dollars),
        "judge, in training": ("usd_judge", dollars),
        "peak of memory": ("memory_gib", "{:.1f} GiB".format),
    }

    def told(found: Row, name: str, text: Any) -> str:
        return "not known" if found.get(name) is None else text(found[name])

    parts = [status.get(part) or {} for part in ("quoted", "actual")]
    rows = [[title, *(told(part, *how) for part in parts)] for title, how in shown.items()]
    if evaluation:
        result = evaluation.result()
        rows.append(["evaluation", "–", duration(result["seconds"])])
        rows.append(["judges, in the evaluation", "–", told(result, "judge_usd", dollars)])
    return rows


def _judges(config: TrainConfig, about: Row, evaluation: Evaluation | None) -> list[tuple[str, str, str, str]]:
    """Name, use, model and version of each judge and reward; a version is that of a judge's prompt and rules."""
    models = {name: config.model_of(name) for name in config.rungs if name in NEED_MODEL}
    rows = []
    for name, weight in zip(about["rewards"], about["reward_weights"], strict=True):
        model = ", ".join(models[rung] for rung in name.split(">") if rung in models)
        rows.append((name, f"training, weight {weight:g}", model or "–", about["judges"].get(name, "–")))
    if version := about["judges"].get("simulated_user"):
        model = as_user(config).model_of(config.simulated_user)
        rows.append(("simulated_user", "training, speaks for the user", model, version))
    uses = {"judge": "evaluation", "second_judge": "evaluation, second judge"}
    for part, kind in (uses | {"simulated_user": "evaluation, speaks for the user"}).items():
        if evaluation and (judge := evaluation.results.get(part)):
            by = ", by word overlap alone" if judge.get("by_words") else ""
            rows.append((judge["name"], kind + by, "–", judge["version"]))
    return rows


def _shown(row: Row) -> Row:
    """A sample as it is shown: its prompt, and the dialogues that models had from there, as turns and as text."""
    dialogues = {name: told["messages"] for name, told in row["answers"].items() if "messages" in told}
    told = {
        name: row["answers"][name] | {"turns": _said(each), "answer": conversation_text(each)}
        for name, each in dialogues.items()
    }
    return row | {"prompt": _said(row["prompt"]), "answers": row["answers"] | told}


def _said(prompt: Any) -> list[Row]:
    return [{"role": turn["role"], "said": said_in(turn)} for turn in messages_of(prompt)]


def _agreement(evaluation: Evaluation, rows: list[Row], path: Path) -> list[Any]:
    """The judges' agreement with people's labels of this evaluation's answers, and people's with each other; of scores,
    then of choices. People are numbered, not named."""
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
