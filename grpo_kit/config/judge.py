"""The settings of the judge."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from grpo_kit.config.base import AbsolutePath, Paths, Settings, setting


class JudgeConfig(Settings):
    """How Gemini is asked, wherever it judges or writes rubrics. The key comes from GEMINI_API_KEY."""

    gemini_model: str = setting(
        "gemini-3.5-flash-lite", "The Gemini model that is asked.", "step", "scale", group="Gemini", min_length=1
    )
    gemini_mode: Literal["absolute", "group"] = setting(
        "absolute",
        "absolute: one answer a call; group: all of a prompt's answers in one call, against each other.",
        "step",
        "judging",
        "scale",
        group="Gemini",
    )
    gemini_samples: PositiveInt = setting(
        1, "Judgements of each answer, whose mean is its score.", "step", "judging", group="Gemini", le=32
    )
    gemini_temperature: NonNegativeFloat | None = setting(
        None,
        "The judge's sampling temperature; None: 0, or 1 where gemini_samples is above 1.",
        "judging",
        group="Gemini",
        le=2,
    )
    gemini_prompt: AbsolutePath | None = setting(
        None,
        "A text file to ask with, in place of grpo_kit/judges/gemini/absolute.txt or group.txt.",
        "judging",
        "scale",
        group="Gemini",
    )
    gemini_timeout: PositiveFloat = setting(
        30.0, "Seconds that a call waits for the server before it counts as failed.", "resume", group="Gemini", le=600
    )
    gemini_max_retries: NonNegativeInt = setting(
        5, "Further tries of a call that failed in passing.", "resume", group="Gemini", le=20
    )
    gemini_max_in_flight: PositiveInt = setting(
        32, "Calls to the model under way at a time, over all runs of a process.", "resume", group="Gemini", le=256
    )
    gemini_requests_per_minute: PositiveInt | None = setting(
        None, "Calls in any minute, over all runs of the process; None: no limit of our own.", "resume", group="Gemini"
    )
    gemini_input_price: NonNegativeFloat | None = setting(
        None,
        "Dollars per million tokens read; None: as in grpo_kit/judges/gemini/prices.json.",
        "resume",
        group="Gemini",
    )
    gemini_output_price: NonNegativeFloat | None = setting(
        None,
        "Dollars per million tokens written; None: as in grpo_kit/judges/gemini/prices.json.",
        "resume",
        group="Gemini",
    )
    gemini_sdk: Literal["auto", "google-genai", "google-generativeai"] = setting(
        "auto", "Google's library to call with; auto: google-genai where it is installed.", "resume", group="Gemini"
    )
    cache_from: Paths = setting(
        [],
        "Runs, folders or .sqlite files whose judgements are taken over, so none is paid for again.",
        "resume",
        "judging",
        group="Reward",
    )
