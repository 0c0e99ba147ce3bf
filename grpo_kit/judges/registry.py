"""All judges by name. A new one is a file with its class, and its entry here."""

from pkgutil import resolve_name

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.judges.base import Judge

# Loaded when it is made, from a JudgeConfig: Google's SDKs take their time.
JUDGES = {
    "offline": "grpo_kit.judges.offline.judge:OfflineJudge",
    "gemini": "grpo_kit.judges.gemini.judge:GeminiJudge",
    "reference": "grpo_kit.judges.reference:ReferenceJudge",
}


def make_judge(name: str, config: JudgeConfig | None = None) -> Judge:
    """The judge of that name. Raises ConfigError for a Gemini judge that can't work."""
    return resolve_name(JUDGES[name])(config or JudgeConfig())
