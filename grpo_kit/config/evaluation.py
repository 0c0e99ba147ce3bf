"""The settings of an evaluation."""

from typing import Literal

from pydantic import Field

from grpo_kit.config.judge import JudgeConfig
from grpo_kit.config.modal import ModalConfig


class EvalConfig(JudgeConfig, ModalConfig):
    """How checkpoints are compared with the base model."""

    n: int = Field(128, ge=2, description="Held-out prompts, the same for every model.")
    temperature: float | None = Field(
        None, ge=0, le=5, description="Sampling temperature; 0 takes the likeliest token; None: as the run was trained."
    )
    seed: int = Field(7, ge=0, lt=2**32, description="Chooses the prompts and seeds sampling, alike for every model.")
    batch_size: int = Field(32, ge=1, description="Prompts decoded together.")
    max_prompt_length: int | None = Field(None, ge=16, description="Tokens; None: as the run was trained.")
    max_completion_length: int | None = Field(None, ge=1, description="Tokens; None: as the run was trained.")
    judge: Literal["offline", "gemini", "reference"] | None = Field(
        None, description="Who scores the answers; None: the judge the run was trained with (its weightiest)."
    )
    second_judge: Literal["offline", "gemini", "reference"] | None = Field(
        "reference",
        description="A second judge, which the run was not trained with: reference (words shared with the trace's own "
        "reply; free), offline or gemini; None: no second one.",
    )
    data: str | None = Field(None, description="Folder of eval.jsonl; None: the data the run was trained on.")
