"""`kit.prepare`: traces in, samples out, with rubrics that a chat model may write."""

from pathlib import Path

from grpo_kit.config.judge import CLOUD, JudgeConfig
from grpo_kit.data import prepare as data
from grpo_kit.data.readers.base import Ground, Learn


def prepare(
    traces: Path | str,
    out: Path | str,
    *,
    eval_fraction: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
    format: str = "auto",
    strict: bool = False,
    learn: Learn = "answers",
    ground: Ground = "results",
    max_results: int = 3,
    rubric: str = "schema",
    judge_config: JudgeConfig | None = None,
) -> dict:
    """Writes train.jsonl, eval.jsonl and data_card.json into the folder `out`; see grpo_kit.data.prepare.prepare.

    `rubric` "schema" leaves each sample the rubric that its trace gives it. "gemini", "openai" and "anthropic"
    have a model write one for each sample, asked as `judge_config` says; where that fails the sample keeps its own, and
    the card counts how often. The rubrics are kept in rubrics.cache.sqlite in `out`, even if this process is killed, so
    none is paid for twice.
    Raises ConfigError too where it can't be asked at all (no key, a wrong one, a model that is gone).
    """
    data.check_choice("rubric", rubric, ("schema", *CLOUD))
    rewrite = None
    if rubric != "schema":
        from grpo_kit.judges.rubric_writer import CACHE_FILE, RubricWriter

        rewrite = RubricWriter(judge_config or JudgeConfig(), Path(out) / CACHE_FILE, rubric).rewrite
    options = {"eval_fraction": eval_fraction, "seed": seed, "skip_bad": skip_bad, "format": format, "strict": strict}
    options |= {"learn": learn, "ground": ground, "max_results": max_results}
    return data.prepare(traces, out, **options, rewrite_rubrics=rewrite)
