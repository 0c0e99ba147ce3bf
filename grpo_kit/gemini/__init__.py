"""Talking to Gemini: sdk.py sends one prompt, client.py many at once. Judges and rubrics stand on it."""

from dataclasses import dataclass


@dataclass
class Usage:
    """What was asked of Gemini so far. `usd` is None where the model's price is not known."""

    calls: int = 0  # requests sent, retries among them
    retries: int = 0
    failures: int = 0  # questions that were left without an answer
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens
