"""Is the trained model better? Base model and checkpoints answer the same held-out prompts and are judged alike.

Everything is paired: same prompts, same seeds, scores compared prompt by prompt. Nothing here knows of Modal.
"""

import json
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from grpo_kit.agents.asked_user import asked_user
from grpo_kit.agents.dialogue import dialogues_with
from grpo_kit.agents.episodes import episodes
from grpo_kit.config.base import names_where
from grpo_kit.config.environment import check_user, in_environment, spoken_in
from grpo_kit.config.evaluation import EvalConfig
from grpo_kit.config.judge import NEED_MODEL, JudgeConfig, rungs, shared_rungs
from grpo_kit.costs.earlier import earlier_runs
from grpo_kit.costs.forecast import evaluation_minutes
from grpo_kit.costs.memory import decided, device_of
from grpo_kit.costs.ranges import range_text
from grpo_kit.data.demo import DEFAULT_DATA, data_folder
from grpo_kit.data.samples import Sample, fingerprint, read_samples
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.evaluation.agents import agent_line, agent_numbers, by_environment, successes
from grpo_kit.evaluation.agreement import in_words, log_prob_agreement, score_agreement, served_models
from grpo_kit.evaluation.result import Evaluation, write_evaluation
from grpo_kit.evaluation.statistics import Answered, describe
from grpo_kit.judges.base import Judge, make_judge
from grpo_kit.judges.batch import judge_batch, run_async
from grpo_kit.judges.cache import RewardCache, caches_to_start_from
from grpo_kit.judges.measures import is_mostly_words
from grpo_kit.models.checkpoints import BASE, Checkpoints, checkpoints_of
from grpo_kit.models.endpoint import Endpoint, endpoint_at
from grpo_kit.models.generate import generate
from grpo_kit.models.load import check_model, load_tokenizer, no_template, torch_threads
from grpo_kit.models.prompts import fit_prompts, prompt_tokens
from grpo_kit.models.vllm_engine import VllmModel, check_vllm
from grpo_kit.rewards.ready import text_of
from grpo_kit.rewards.replies import judge_completions
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory, now
from grpo_kit.utils.files import check_folder, write_json
from grpo_kit.utils.text import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Say = Callable[[str], None]


def evaluate(
    target: RunDirectory | str | Path,
    config: EvalConfig | None = None,
    *,
    base_model: str | None = None,
    runs_dir: str | Path = RUNS_DIR,
    echo: Callable[[str], None] = tqdm.write,
    draw: Callable[[Evaluation], "Figure"] | None = None,
    endpoint: Endpoint | str | None = None,
    **settings,
) -> Evaluation:
    """Has the base model and what was trained from it answer `n` held-out prompts, and compares their scores.

    `target` is a run (or its name, or its folder), of which every checkpoint is evaluated, or the folder of one model:
    an adapter, which names its base itself, or a whole model, which is compared with the run's base where its folder
    lies in a run, else with `base_model`, else with nothing. A run that went on from another is compared with what it
    started from; base_model names its untrained base in place of that. A warm start is a model of its own, with which
    GRPO's checkpoints are compared too. `settings` are EvalConfig's fields by keyword.

    Besides the judge, `second_judge` scores the same answers: a gain that only the judge sees, which the model was
    trained to please, may be none.

    With `endpoint`, such as `kit.serve` gives, or its URL, the models that it serves answer. Their log-probabilities
    are compared with those of the weights here, and their scores with the run's own evaluation by the same settings,
    where there is one.

    Writes NAME.json, NAME.samples.jsonl and, where `draw` gives its figure, NAME.png into `eval/` of the run or folder.
    NAME has the settings in it, so the same settings again replace them. Raises ConfigError for a model or data that is
    not there, RunError for a run that is not there or has no checkpoint yet, BadTrace for an eval.jsonl that is not
    valid.
    """
    asked = (config or EvalConfig()).replace(**settings)
    subject = checkpoints_of(target, base_model, Path(runs_dir))
    check_folder(out := subject.home / "eval")
    endpoint = endpoint_at(endpoint) if isinstance(endpoint, str) else endpoint
    served = list(served_models(endpoint, subject)) if endpoint else []
    run, data = subject.run, _data(asked, subject.run)
    notes, by = list[str](), ""

    def note(text: str) -> None:
        notes.append(text)
        echo(text)

    if subject.base is None:
        note(f"No base model is known for {subject.folders[0]}: it is evaluated alone. Name its base with base_model")
    train = data / "train.jsonl"
    if asked.data is None and run and train.exists() and fingerprint([train]) != run.about["data"]["fingerprint"]:
        note(f"{data} is not what run {run.id} was trained on: it may have trained on some of these prompts")
    used = _as_trained(asked, subject)
    check_vllm(used.use_vllm)
    if used.environment and served:
        served[0][2].check_tokens()
    is_alone = bool(used.environment) and not any(subject.settings.judge.values())  # learnt from that alone
    if is_alone and used.second_judge == "reference":
        used = used.replace(second_judge=None)  # nothing was learnt from the words of the traces' replies
    judge = make_judge(used.judge, used)
    judge.check()
    second = make_judge(used.second_judge, used) if used.second_judge else None
    if second:
        second.check()
        if shared := run and shared_rungs([second.name], run.config.judge):
            note(f"{second.name} is not a held-out judge here: the run was trained with {shared}")
    if user := asked_user(used):
        user.check()
        note(f"{user.about} speaks for the user: its words are random, and kept beside the judgements")
    source = subject.source
    check_model(source, used)
    tokenizer = load_tokenizer(source, used.chat_template_kwargs)
    samples = _chosen(data / "eval.jsonl", used, tokenizer, note, echo)
    for caveat in [found for each in (judge, second) if each and (found := each.caveat(samples))]:
        note(caveat)
    out.mkdir(exist_ok=True)
    models: list[dict] = []
    answered: dict[str, Answered] = {}
    with closing(RewardCache(subject.cache)) as cache, torch_threads(subject.settings.torch_threads):
        for path in caches_to_start_from(used.cache_from, runs_dir):
            echo(f"{cache.copy_from(path)} judgements used again from {path}")
        count = len(served or subject.names)
        if not served and (quoted := evaluation_minutes(subject.settings, used, earlier_runs(runs_dir), None, count)):
            takes = range_text(quoted, lambda minutes: duration(60 * minutes))
            echo(f"{count * len(samples)} answers to make and judge: {takes}")
        started, engine = time.perf_counter(), "transformers"
        for name, source, model in served or subject.models(_longest(used, subject, tokenizer, samples), note):
            engine = "vllm" if isinstance(model, VllmModel) else "endpoint" if served else engine
            how = {"temperature": used.temperature, "top_p": subject.settings.top_p, "seed": used.seed}
            how |= {"max_completion_length": used.max_completion_length, "batch_size": used.batch_size}
            dialogues, completions, problems = [], [], []
            if used.environment:
                most_turns = subject.settings.max_tool_calling_iterations
                ask = (lambda *asked: run_async(judge_batch(user, cache, *asked)).verdicts) if user else None
                how |= {"most_turns": most_turns, "ask": ask}
                dialogues = dialogues_with(model, tokenizer, samples, used.environment, **how)
                completions = [each.messages for each in dialogues]
                problems = [each.problem for each in dialogues]
                answers = [text_of(each) for each in completions]
                if lost := list(filter(None, problems)):
                    note(f"{name}: {len(lost)} of {len(samples)} dialogues are left out. The last: {lost[-1]}")
            else:
                prompts, tools = [sample.prompt for sample in samples], [sample.tools for sample in samples]
                answers = completions = generate(model, tokenizer, prompts, tools, **how)
            del model  # makes room for the next
            told = (cache, samples, completions, problems)
            verdicts = run_async(judge_completions(judge, *told)).verdicts
            again = run_async(judge_completions(second, *told)).verdicts if second else None
            answered[name] = Answered(answers, verdicts, again, dialogues, successes(dialogues, verdicts))
            numbers = describe(name, answered, used.seed)
            if dialogues:
                numbers["agent"] = agent_numbers(answered[name], used.seed, answered.get(BASE) if models else None)
            if second:
                try:
                    numbers["second"] = describe(name, answered, used.seed, "second")
                except RunError as error:  # the first judge's numbers stand without it
                    note(f"No second judgement of {name} by {second.name}: {error}")
            numbers["seconds"], started = round(time.perf_counter() - started, 1), time.perf_counter()
            models.append({"name": name, "source": source, **numbers})
            scored = "" if is_alone else f"mean score {numbers['mean']:.3f} on "
            echo(f"{name}: {scored}{len(samples)} prompts{agent_line(numbers)}")
        agree = log_prob_agreement(subject, tokenizer, samples, answered) if served else {}
    weights = subject.settings.reward_funcs
    if is_alone and (by := by_environment(models, answered, judge.name, weights, used.seed)):
        note(f"The run learnt from its environment alone, so its models are compared by {by}")
    for each in filter(None, (judge, second)):
        if each.usage and each.usage.settled is not None:
            new = f"{each.usage.settled} new answers did not need its last judge"
            note(f"{each.name}: {new}; {each.usage.calls} calls were made for the others")
    results = {
        "made": now(),
        "target": run.id if run else str(subject.home),
        "n": len(samples),
        "config": used.model_dump(),
        "engine": engine,
        "data": {"file": str(data / "eval.jsonl"), "fingerprint": fingerprint([data / "eval.jsonl"])},
        "judge": _about(judge, run, samples),
        "by_environment": {"name": by, "trained_with": True} if by else None,
        "second_judge": _about(second, run, samples) if second else None,
        "simulated_user": {"name": user.about, "version": user.version, **vars(user.usage)} if user else None,
        "notes": notes,
        "models": models,
    }
    against = f"_base-{Path(base_model).name}" if base_model and run and run.config.adapter else ""
    name = f"{_name(asked, used.temperature, len(samples))}{against}"
    if endpoint:
        results["endpoint"] = {"url": endpoint.url, "log_probs": agree, "scores": {}}
        path, own = out / f"{name}_endpoint.json", out / f"{name}.json"
        evaluation = write_evaluation(path, results, samples, answered, draw)
        scores = score_agreement(evaluation, Evaluation.load(own)) if own.exists() else {}
        results["endpoint"]["scores"] = scores
        write_json(path, results)
        for line in in_words(agree, scores):
            echo(line)
        if not agree:
            echo(f"{endpoint.url} tells no numbers of tokens, so no log-probabilities are compared")
        if not scores:
            echo(f"There is no own evaluation by these settings ({own.name}) to compare the scores with")
    else:
        evaluation = write_evaluation(out / f"{name}.json", results, samples, answered, draw)
    for said in filter(None, [*evaluation.warnings(), evaluation.added()]):
        echo(said)
    return evaluation


def _about(judge: Judge, run: RunDirectory | None, samples: list[Sample]) -> dict[str, Any]:
    """Who judged and what was used for it; `trained_with` is None where that is not known, `by_words` says whether most
    of the samples were judged by word overlap alone."""
    trained_with = bool(shared_rungs([judge.name], run.config.judge)) if run else None
    usage = asdict(judge.usage) if judge.usage else {}
    by_words = is_mostly_words(judge.name, samples)
    return {"name": judge.name, "version": judge.version, "trained_with": trained_with, "by_words": by_words, **usage}


def _as_trained(config: EvalConfig, subject: Checkpoints) -> Any:
    """`config` with the settings that it leaves open, and the judge's that it does not name, taken from the run."""
    trained = subject.settings
    names = ["temperature", "max_prompt_length", "max_completion_length", "chat_template_kwargs"]
    taken = {name: getattr(trained, name) for name in names if getattr(config, name) is None}
    taken |= spoken_in(config, trained)
    if config.judge is None:
        taken["judge"] = max(trained.judge, key=lambda name: trained.judge[name])
    if config.second_judge == taken.get("judge", config.judge):
        if "second_judge" in config.given and config.second_judge:
            raise ConfigError(f"second_judge={config.second_judge} is the first judge too", "Name another, or None")
        taken["second_judge"] = None
    # Each answer is judged by itself here, and caches are no part of how it is judged.
    asked_alike = JudgeConfig.model_fields.keys() - config.given.keys() - {"judge_mode", "cache_from"}
    asked = rungs(taken.get(name, getattr(config, name)) for name in ("judge", "second_judge", "simulated_user"))
    if not NEED_MODEL.intersection(asked) - {"gemini"}:
        asked_alike -= {"judge_model"}  # that of a judge which is not asked here
    used = config.replace(**{name: getattr(trained, name) for name in asked_alike}, **taken)
    check_user(used)
    return used


def _data(config: EvalConfig, run: RunDirectory | None) -> Path:
    """The folder of eval.jsonl: the one asked for, or else what the run was trained on."""
    if config.data is None and run and (run.path / "data" / "eval.jsonl").exists():
        return run.path / "data"  # a run that was made on Modal has its own copy
    brought = in_environment(config.environment).get("data", DEFAULT_DATA)
    folder = data_folder(config.data or (run.config.data if run else brought))
    if not (folder / "eval.jsonl").exists():
        fix = f"`grpo-kit prepare TRACES --out {folder}` makes one, or name the folder that has it with data (--data)"
        raise ConfigError(f"no eval.jsonl in {folder}", fix)
    return folder


def _chosen(file: Path, config: Any, tokenizer: Any, note: Say, echo: Say) -> list[Sample]:
    """The samples that `config.seed` chooses, their prompts shortened to fit. A smaller n chooses some of the same."""
    held_out = episodes(list(read_samples(file)), config.environment, str(file), config.judge_replies)
    if len(held_out) < config.n:
        note(f"{file} has {len(held_out)} prompts, fewer than n={config.n}: all are used")
    chosen = [held_out[i] for i in np.random.default_rng(config.seed).permutation(len(held_out))[: config.n]]
    prompts, tools = [sample.prompt for sample in chosen], [sample.tools for sample in chosen]
    if tokenizer.chat_template is None and not all(isinstance(prompt, str) for prompt in prompts):
        raise no_template(tokenizer.name_or_path)
    fitted = fit_prompts(prompts, tokenizer, config.max_prompt_length, tools, echo)
    if shortened := sum(fit.is_shortened for fit in fitted):
        note(f"{shortened} of {len(chosen)} prompts lost old tool results or turns to fit max_prompt_length")
    questions = [sample.replace(prompt=fit.prompt) for sample, fit in zip(chosen, fitted, strict=True)]
    return sorted(questions, key=lambda sample: len(str(sample.prompt)))  # a batch's prompts are padded to the longest


def _longest(config: Any, subject: Checkpoints, tokenizer: Any, samples: list[Sample]) -> int | None:
    """Tokens of the longest prompt with its answer, where vLLM is to generate; else None."""
    device = device_of(subject.settings, gpu=None)
    if not decided(config.use_vllm, device.is_gpu and device.has_vllm):
        return None
    prompts = (prompt_tokens(tokenizer, sample.prompt, sample.tools) for sample in samples)
    return max(map(len, prompts)) + config.max_completion_length


def _name(asked: EvalConfig, temperature: float, n: int) -> str:
    """The settings in a file's name: those that were asked for, and the three that matter most always."""
    name = f"n{n}_t{temperature}_seed{asked.seed}"
    left_out = {"n", "temperature", "seed", *names_where(EvalConfig, "resume")}
    others = asked.model_dump(exclude=left_out, exclude_defaults=True)
    return name + "".join(f"_{setting}-{_short(value)}" for setting, value in others.items())


def _short(value: Any) -> str:
    """ "enable_thinking=true", "offline-gemini", "0.1,0.9"; a path's last part."""
    if isinstance(value, dict | list):
        return re.sub(r'[][{}"/\s]', "", json.dumps(value)).replace(":", "=")
    return Path(str(value)).name.replace(">", "-")
