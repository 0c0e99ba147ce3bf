"""The settings of the judge."""

from typing import Literal

from pydantic import Field

from grpo_kit.config.base import AbsolutePath, Paths, Settings


class JudgeConfig(Settings):
    """How Gemini is asked, wherever it judges or writes rubrics. The key comes from GEMINI_API_KEY."""

    gemini_model: str = Field("gemini-3.5-flash-lite", min_length=1, description="The Gemini model that is asked.")
    gemini_mode: Literal["absolute", "group"] = Field(
        "absolute",
        description="absolute: one answer a call; group: all of a prompt's answers in one call, against each other.",
    )
    gemini_samples: int = Field(1, ge=1, le=32, description="Judgements of each answer, whose mean is its score.")
    gemini_temperature: float | None = Field(
        None, ge=0, le=2, description="The judge's sampling temperature; None: 0, or 1 where gemini_samples is above 1."
    )
    gemini_prompt: AbsolutePath | None = Field(
        None, description="A text file to ask with, in place of grpo_kit/judges/gemini/absolute.txt or group.txt."
    )
    gemini_timeout: float = Field(
        30.0, gt=0, le=600, description="Seconds that a call waits for the server before it counts as failed."
    )
    gemini_max_retries: int = Field(5, ge=0, le=20, description="Further tries of a call that failed in passing.")
    gemini_max_in_flight: int = Field(
        32, ge=1, le=256, description="Calls to the model under way at a time, over all runs of a process."
    )
    gemini_requests_per_minute: int | None = Field(
        None, ge=1, description="Calls in any minute, over all runs of the process; None: no limit of our own."
    )
    gemini_input_price: float | None = Field(
        None, ge=0, description="Dollars per million tokens read; None: as in grpo_kit/judges/gemini/prices.json."
    )
    gemini_output_price: float | None = Field(
        None, ge=0, description="Dollars per million tokens written; None: as in grpo_kit/judges/gemini/prices.json."
    )
    gemini_sdk: Literal["auto", "google-genai", "google-generativeai"] = Field(
        "auto", description="Google's library to call with; auto: google-genai where it is installed."
    )
    cache_from: Paths = Field(
        [], description="Runs, folders or .sqlite files whose judgements are taken over, so none is paid for again."
    )
