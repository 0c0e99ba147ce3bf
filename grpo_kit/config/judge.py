"""The settings of the judge."""

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from grpo_kit.config.base import AbsolutePath, Listed, Settings, gemini, reward

# All judges by name. A new one is a file with its class, and its entry here. The class is imported when one is made:
# Google's SDKs take their time.
JUDGES = {
    "offline": "grpo_kit.judges.offline.judge:OfflineJudge",
    "gemini": "grpo_kit.judges.gemini.judge:GeminiJudge",
    "exact": "grpo_kit.judges.exact:ExactJudge",
    "reference": "grpo_kit.judges.reference:ReferenceJudge",
}
if TYPE_CHECKING:
    JudgeName = str
else:
    JudgeName = Literal[tuple(JUDGES)]


class JudgeConfig(Settings):
    """How Gemini is asked, wherever it judges or writes rubrics. The key comes from GEMINI_API_KEY."""

    gemini_model: str = gemini("gemini-3.5-flash-lite", "The Gemini model to ask.", "step", "scale", min_length=1)
    gemini_mode: Literal["absolute", "group"] = gemini(
        "absolute",
        "absolute: an answer a call; group: all of a prompt's in one call, against each other.",
        "step",
        "judging",
        "scale",
    )
    gemini_samples: PositiveInt = gemini(1, "Judgements per answer; their mean is its score.", "step", "judging", le=32)
    gemini_temperature: NonNegativeFloat | None = gemini(
        None, "The judge's sampling temperature; None: 0, or 1 where gemini_samples is above 1.", "judging", le=2
    )
    gemini_prompt: AbsolutePath | None = gemini(
        None, "A text file to ask with, in place of judges/gemini/absolute.txt or group.txt.", "judging", "scale"
    )
    gemini_timeout: PositiveFloat = gemini(
        30.0, "Seconds that a call waits for the server before it counts as failed.", "resume", le=600
    )
    gemini_max_retries: NonNegativeInt = gemini(5, "Further tries of a call that failed in passing.", "resume", le=20)
    gemini_max_in_flight: PositiveInt = gemini(
        32, "Calls to the model under way at a time, over all runs of a process.", "resume", le=256
    )
    gemini_requests_per_minute: PositiveInt | None = gemini(
        None, "Calls in any minute, over all runs of the process; None: no limit of our own.", "resume"
    )
    gemini_input_price: NonNegativeFloat | None = gemini(
        None, "Dollars per million tokens read; None: as in grpo_kit/judges/gemini/prices.json.", "resume"
    )
    gemini_output_price: NonNegativeFloat | None = gemini(
        None, "Dollars per million tokens written; None: as in grpo_kit/judges/gemini/prices.json.", "resume"
    )
    gemini_sdk: Literal["auto", "google-genai", "google-generativeai"] = gemini(
        "auto", "Google's library to call with; auto: google-genai where it is installed.", "resume"
    )
    cache_from: Listed[str] = reward(
        [], "Runs, folders or .sqlite files whose judgements are taken over, not paid for again.", "resume", "judging"
    )
