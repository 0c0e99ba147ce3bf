"""Gemini's prices, in dollars for a million tokens: those of prices.json, with its date, or the settings' own."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from grpo_kit.config.judge import JudgeConfig


@cache
def gemini_prices() -> dict[str, Any]:
    """The content of prices.json; "models" has [input, output] by model, "as_of" the date."""
    return json.loads(Path(__file__).with_name("prices.json").read_bytes())


def judge_price(config: JudgeConfig) -> tuple[float | None, float | None]:
    """Dollars for a million tokens that Gemini reads and that it writes; None where that is not known."""
    known = gemini_prices()["models"].get(config.gemini_model.removeprefix("models/"), (None, None))
    own = config.gemini_input_price, config.gemini_output_price
    return (known[0] if own[0] is None else own[0], known[1] if own[1] is None else own[1])
