"""Prices of models that judge, in dollars for a million tokens: by prices.json, with its dates, or by settings."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from grpo_kit.config.judge import CLOUD, JudgeConfig
from grpo_kit.errors import Problem

PRICES_FILE = "grpo_kit/judges/chat/prices.json"


@cache
def prices_of(judge: str) -> dict[str, Any]:
    """What prices.json has of a judge; "models" has [input, output] by model, "as_of" the date."""
    return json.loads(Path(__file__).with_name("prices.json").read_bytes())[judge]


def judge_price(config: JudgeConfig, judge: str) -> tuple[float | None, float | None]:
    """Dollars for a million tokens that a judge of CLOUD reads and that it writes; None where that is not known. A
    model on a server of one's own costs what the settings say."""
    known = {} if judge == "openai" and config.judge_base_url else prices_of(judge)["models"]
    read, written = known.get(config.model_of(judge), (None, None))
    own = config.judge_input_price, config.judge_output_price
    return (read if own[0] is None else own[0], written if own[1] is None else own[1])


def unknown_price(config: JudgeConfig, judges: list[str]) -> Problem | None:
    """The first of these judges of CLOUD whose model has no price; None where all have one."""
    for judge in judges:
        if judge in CLOUD and None in judge_price(config, judge):
            fix = "Give judge_input_price and judge_output_price (dollars per million tokens; 0 where it is free)"
            is_own = judge == "openai" and config.judge_base_url
            where = "on a server that judge_base_url names" if is_own else f"in {PRICES_FILE}"
            return Problem(f"{config.model_of(judge)} has no price {where}", fix)
    return None
