"""The dialogues that a model has with samples' worlds outside training."""

from collections.abc import Sequence
from typing import Any

from grpo_kit.agents.dialogue import Ask, Dialogue, begun, converse
from grpo_kit.data.samples import Sample
from grpo_kit.models.endpoint import ServedModel
from grpo_kit.models.generate import end_tokens, generate_tokens, up_to_end
from grpo_kit.models.shapes import positions_of


def dialogues_with(
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample],
    environment: str,
    *,
    max_completion_length: int,
    most_turns: int,
    ask: Ask | None = None,
    **how: Any,
) -> list[Dialogue]:
    """One with each sample, in order; `ask` is as `converse` takes it, `how` as `generate` does."""
    ends = end_tokens(model, tokenizer)
    dialogues = begun(samples, environment, tokenizer, ask is not None)

    served, room = isinstance(model, ServedModel), max_completion_length

    def generate(asked: list[list[int]], group: int) -> tuple[list[list[int]], list[list[float]] | None]:
        drawn = [] if served else None
        made = generate_tokens(model, tokenizer, asked, ends, max_completion_length=room, log_probs=drawn, **how)
        return [up_to_end(tokens, ends) for tokens in made], drawn

    longest = (served and model.longest) or positions_of(tokenizer.name_or_path)
    converse(dialogues, tokenizer, generate, ends, room=room, longest=longest, most_turns=most_turns, ask=ask)
    return dialogues
