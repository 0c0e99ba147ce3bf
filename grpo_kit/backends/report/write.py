"""Writes a run's report: index.html, which opens without a kernel or network, and model_card.md for the hub.

Models and judges wrote much of what is in them, so all of it is escaped, what a terminal would act on is left out, and
the page's policy lets only its own script run and nothing be fetched.
"""

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grpo_kit.backends.report.facts import gather
from grpo_kit.backends.report.settings import shareable
from grpo_kit.backends.run import Run
from grpo_kit.config.tables import as_typed, defaults_of
from grpo_kit.config.train import TrainConfig
from grpo_kit.evaluation.interpret import signed
from grpo_kit.evaluation.result import Evaluation
from grpo_kit.judges.labels import read_labels
from grpo_kit.plots.style import LOCK, NotebookFigure
from grpo_kit.utils.files import check_folder, write_bytes
from grpo_kit.utils.statistics import interval_text
from grpo_kit.utils.text import printable

HERE = Path(__file__).parent
LABELS = Path("labels.csv")
PAGE, CARD = "index.html", "model_card.md"
# Each colour of a figure that would be lost, or glare, on dark paper; white becomes the page's own: see page.css.
IN_THE_DARK = {
    "#000000": "#e6e9ed",
    "#757575": "#b3bac3",
    "#bbbbbb": "#67707b",
    "#e5e5e5": "#343a42",
    "#ffffff": "#15181d",
    "#0072b2": "#4aa8e0",
}


def report(run: Run | str | Path, out: str | Path | None = None, labels: str | Path | None = None) -> Path:
    """Writes a report of a run, here or on Modal, into the folder `out`; returns the path of its page.

    `index.html` is one file to send: settings, learning curve, evaluation, samples to browse, judge, verdict, cost,
    and the commands that make the run again. `model_card.md` tells the same as a README.md for the Hugging Face hub.
    What the run lacks, such as an evaluation, is named with the command that makes it. Neither holds keys, more of a
    URL than its host, or the path of anybody's home.

    `run` may be a run's name or folder. `out` is reports/NAME by default, and may be written to again. `labels` is a
    file of people's labels (docs/labels.md), by default labels.csv where it is there.

    Raises RunError where there is no such run, ConfigError for labels that can't be read and an `out` that can't be
    written to.
    """
    run = Run.of(run)
    check_folder(out := Path(out or Path("reports", run.id)))
    facts = gather(run, people_in(labels))
    page, card = _page(facts, _figures(run, facts["evaluation"])), _card(facts, facts["config"].use_lora)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / CARD, card.encode())
    write_bytes(out / PAGE, page.encode())
    return out / PAGE


def people_in(labels: str | Path | None) -> Path | None:
    """The file of people's labels, by default labels.csv if there. Raises ConfigError where it can't be read."""
    found = Path(labels) if labels else LABELS if LABELS.exists() else None
    if found:
        read_labels(found)
    return found


def model_card(run: Run, labels: Path | None, *, name: str, weights: str, is_adapter: bool, with_data: bool) -> str:
    """The model card of the checkpoint `weights` as it goes to the hub as `name`; without `with_data` it shows nothing
    that a prompt, an answer or an error message says. Raises as `report` does."""
    facts = gather(run, labels)
    if not with_data:  # an error may quote what it happened at
        facts["status"] = facts["status"] | {"reason": None}
    return _card(facts, is_adapter, name=name, weights=weights, with_samples=with_data)


def _figures(run: Run, evaluation: Evaluation | None) -> dict[str, Any]:
    from grpo_kit.plots.evaluation import breakdown, evaluation_figure
    from grpo_kit.plots.runs import learning_curve

    figures: dict[str, Any] = dict.fromkeys(("curve", "evaluation", "breakdown"))
    if not run.metrics().empty:
        alt = "Reward by training step, and below it loss, lengths, entropy, groups with no spread, time and failures"
        figures["curve"] = _picture(learning_curve(run), alt)
    if evaluation:
        alt = "Each model's mean score with its interval, and the differences prompt by prompt"
        figures["evaluation"] = _picture(evaluation_figure(evaluation), alt)
        if len(evaluation.criteria().columns):
            alt = "Means of the judge's criteria, and the gain by service"
            figures["breakdown"] = _picture(breakdown(evaluation), alt)
    return figures


def _picture(figure: NotebookFigure, alt: str) -> dict[str, str]:
    """The figure as vectors, in `light` and `dark` data URLs; `alt` says what it shows to those who can't see it."""
    file = io.StringIO()
    with LOCK:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    dark = re.sub(r"#[0-9a-f]{6}\b", lambda found: IN_THE_DARK.get(found[0], found[0]), svg)
    dark = dark.replace("<svg ", f'<svg fill="{IN_THE_DARK["#000000"]}" ', 1)  # black is not written out
    return {"light": _url(svg), "dark": _url(dark), "alt": alt}


def _url(svg: str) -> Markup:
    return Markup(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}")


def _page(facts: dict[str, Any], figures: dict[str, Any]) -> str:
    """The page, whose policy names its style and script by their hashes."""
    own = {name: Markup((HERE / f"page.{name}").read_text()) for name in ("css", "js")}
    hashes = {name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in own.items()}
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{hashes['css']}'; "
    policy += f"script-src 'sha256-{hashes['js']}'; base-uri 'none'; form-action 'none'"
    template = _environment(_shared, autoescape=True).get_template("page.html")
    return printable(template.render(facts, **own, figures=figures, policy=policy))


def _card(facts: dict[str, Any], is_adapter: bool, name: str = "", weights: str = "", with_samples: bool = True) -> str:
    """The model card: Markdown with the hub's fields in front. What models wrote is in fenced blocks. `name` is the
    hub's, where it goes there."""
    from huggingface_hub import ModelCardData

    base, on_hub = facts["base"], re.match(r"hf://([\w.-]+/[\w.-]+)", facts["data"]["source"] or "")
    named = {
        "base_model": base["name"] if base["is_on_hub"] else None,
        "license": base["licence"],
        "datasets": [on_hub[1]] if on_hub else None,
    }
    fields = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["grpo", "trl", "grpo_kit", *(["lora"] if is_adapter else [])],
        **{name: value for name, value in named.items() if value},
    )
    shown = _telling(facts["samples"], facts["evaluation"]) if with_samples else []
    about = {"front": Markup(fields.to_yaml()), "shown": shown, "is_adapter": is_adapter, "with_samples": with_samples}
    template = _environment(_escaped).get_template("card.md")
    return printable(template.render(facts, **about, name=name, weights=weights))


def _environment(finalize: Any, **options: Any) -> Environment:
    looks = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined, "finalize": finalize}
    environment = Environment(loader=FileSystemLoader(HERE), **looks, **options)
    environment.filters |= {"fenced": _fenced, "interval": interval_text, "signed": signed, "typed": as_typed}
    environment.filters["default_of"] = lambda name: defaults_of(TrainConfig, name)
    environment.filters["when"] = lambda time: f"{time[:16].replace('T', ' ')} UTC"
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}  # tojson escapes <, > and & all the same
    return environment


def _shared(value: Any) -> Any:
    """Each text that a template shows, without what is private; what is marked as safe stays as it is."""
    return shareable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _escaped(value: Any) -> str:
    """Such a text on one line, of which Markdown makes nothing."""
    if isinstance(value, Markup):
        return str(value)
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", " ".join(shareable(str(value)).split()))


def _fenced(text: str) -> Markup:
    """The text as a block of Markdown in which it can mean nothing: its fence is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}text\n{text}\n{fence}")


def _telling(samples: list[dict], evaluation: Evaluation | None) -> list[dict]:
    """Three samples: the largest gain, the middle one and the largest loss by the first judge, or the first three."""
    if not evaluation or not evaluation.base:
        return samples[:3]
    order = evaluation.samples()["difference"].sort_values(ascending=False).index
    return [samples[order[i]] for i in sorted({0, len(order) // 2, len(order) - 1})]
