"""Judges are made by name: see JUDGES in config/judge.py."""

from pkgutil import resolve_name

from grpo_kit.config.judge import JUDGES, JudgeConfig
from grpo_kit.judges.base import Judge


def make_judge(name: str, config: JudgeConfig | None = None) -> Judge:
    """The judge of that name. Raises ConfigError for a Gemini judge that can't work."""
    return resolve_name(JUDGES[name])(config or JudgeConfig())
