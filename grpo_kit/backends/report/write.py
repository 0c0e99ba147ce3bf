"""Writes a run's report: index.html, which opens without a kernel or network, and model_card.md for the hub.

Models and judges wrote much of what is in them, so all of it is escaped, and the page's policy lets only its own script
run and nothing be fetched.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grpo_kit.backends.report.facts import gather
from grpo_kit.backends.report.pictures import picture
from grpo_kit.backends.run import Run
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.utils.files import write_bytes

HERE = Path(__file__).parent
REPORTS_DIR = Path("reports")
LABELS = Path("labels.csv")
PAGE, CARD = "index.html", "model_card.md"


def report(run: Run | str | Path, out: str | Path | None = None, labels: str | Path | None = None) -> Path:
    """Writes a report of a run, here or on Modal, into the folder `out`; returns the path of its page.

    `index.html` is one file to send: settings, learning curve, evaluation, samples to browse, judge, verdict, cost,
    and the commands that make the run again. `model_card.md` tells the same as a README.md for the Hugging Face hub.
    What the run lacks, such as an evaluation, is named with the command that makes it. Neither holds keys, the URLs of
    private servers beyond their host, or the path of anybody's home.

    `run` may be a run's name or folder. `out` is reports/NAME by default, and may be written to again. `labels` is a
    file of people's labels (docs/labels.md), by default labels.csv where it is there.

    Raises RunError where there is no such run, ConfigError for labels that can't be read.
    """
    run = run if isinstance(run, Run) else Run(run)
    out = Path(out or REPORTS_DIR / run.id)
    people = Path(labels) if labels else LABELS if LABELS.exists() else None
    evaluations = run.evaluations()
    facts = gather(run, evaluations, people)
    page, card = page_of(facts, _figures(run, evaluations)), card_of(facts)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / CARD, card.encode())
    write_bytes(out / PAGE, page.encode())
    return out / PAGE


def _figures(run: Run, evaluations: list[Evaluation]) -> dict[str, Any]:
    from grpo_kit.plots.evaluation import breakdown, evaluation_figure
    from grpo_kit.plots.runs import learning_curve

    figures: dict[str, Any] = dict.fromkeys(("curve", "evaluation", "breakdown"))
    if not run.metrics().empty:
        alt = "Reward by training step, and below it loss, lengths, entropy, groups with no spread, time and failures"
        figures["curve"] = picture(learning_curve(run), alt)
    if evaluations:
        newest = evaluations[-1]
        alt = "Each model's mean score with its interval, and the differences prompt by prompt"
        figures["evaluation"] = picture(evaluation_figure(newest), alt)
        if len(newest.criteria().columns):
            figures["breakdown"] = picture(breakdown(newest), "Means of the judge's criteria, and the gain by service")
    return figures


def page_of(facts: dict[str, Any], figures: dict[str, Any]) -> str:
    """The page, whose policy names its style and script by their hashes."""
    texts = {name: (HERE / f"page.{name}").read_text() for name in ("css", "js")}
    allowed = {name: f"'sha256-{_sha256(text)}'" for name, text in texts.items()}
    policy = f"default-src 'none'; img-src data:; style-src {allowed['css']}; script-src {allowed['js']}; "
    policy += "base-uri 'none'; form-action 'none'"
    environment = _environment(autoescape=True)
    own = {name: Markup(text) for name, text in texts.items()}
    return environment.get_template("page.html").render(facts, **own, figures=figures, policy=policy)


def card_of(facts: dict[str, Any]) -> str:
    """The model card: Markdown with the hub's fields in front. What models wrote is in fenced blocks."""
    from huggingface_hub import ModelCardData

    base, on_hub = facts["base"], re.match(r"hf://([\w.-]+/[\w.-]+)", facts["data"]["source"] or "")
    named = {
        "base_model": base["name"] if base["is_on_hub"] else None,
        "license": base["licence"],
        "datasets": [on_hub[1]] if on_hub else None,
    }
    fields = ModelCardData(
        library_name="peft" if facts["adapts"] else "transformers",
        pipeline_tag="text-generation",
        tags=["grpo", "trl", "grpo_kit", *(["lora"] if facts["adapts"] else [])],
        **{name: value for name, value in named.items() if value},
    )
    environment = _environment(autoescape=False, finalize=_escaped)
    environment.filters["fenced"] = _fenced
    shown = _telling(facts["samples"], facts["evaluation"])
    return environment.get_template("card.md").render(facts, fields=Markup(fields.to_yaml()), shown=shown)


def _environment(**options: Any) -> Environment:
    looks = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=FileSystemLoader(HERE), **looks, **options)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # tojson escapes <, > and & all the same
    return environment


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _escaped(value: Any) -> str:
    """Text of which Markdown makes nothing, on one line; what is marked as safe stays as it is."""
    if isinstance(value, Markup):
        return str(value)
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", " ".join(str(value).split()))


def _fenced(text: str) -> Markup:
    """The text as a block of Markdown in which it can mean nothing: its fence is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}text\n{text}\n{fence}")


def _telling(samples: list[dict], evaluation: dict | None) -> list[dict]:
    """Three samples: the largest gain, the middle one and the largest loss by the first judge, or the first three."""
    if not evaluation or not evaluation["base"]:
        return samples[:3]

    def gain(sample: dict) -> float:
        after, before = (sample["answers"][evaluation[name]]["verdicts"][0]["score"] for name in ("trained", "base"))
        return 0.0 if None in (after, before) else after - before

    ranked = sorted(samples, key=gain, reverse=True)
    return [ranked[i] for i in sorted({0, len(ranked) // 2, len(ranked) - 1})]
