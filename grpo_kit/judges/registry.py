"""All judges by name."""

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.judges.base import Judge


def make_judge(name: str, config: JudgeConfig | None = None) -> Judge:
    """The judge called "offline", "gemini" or "reference". Raises ConfigError for a Gemini judge that can't work."""
    if name == "gemini":
        from grpo_kit.judges.gemini.judge import GeminiJudge

        return GeminiJudge(config or JudgeConfig())
    if name == "reference":
        from grpo_kit.judges.reference import ReferenceJudge

        return ReferenceJudge()
    from grpo_kit.judges.offline.judge import OfflineJudge

    return OfflineJudge()
