"""The answers that a model generates."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from grpo_kit.config.train import TrainConfig
from grpo_kit.data.samples import Sample
from grpo_kit.data.thoughts import CLOSE, OPEN
from grpo_kit.data.tool_calls import CALL_MARKS
from grpo_kit.models.chat_template import Tools, chat_template_of
from grpo_kit.models.endpoint import ServedModel
from grpo_kit.models.files import ends_in
from grpo_kit.models.prompts import Prompt, fit_prompts, prompt_tokens
from grpo_kit.models.vllm_engine import VllmModel

ENDED_LEAVE = 32  # tokens after which the answers that have ended leave a batch: they cost as much as the others


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the model's own and the tokenizer's."""
    is_here = not isinstance(model, ServedModel)
    own = model.generation_config.eos_token_id if is_here else ends_in(Path(tokenizer.name_or_path))
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})


# The marks of a thought and of calls, as they are shown. Some are special tokens, which decoding leaves out.
MARKS = {mark: mark for mark in (OPEN, CLOSE, *CALL_MARKS)} | {"<|channel>": OPEN, "<channel|>": CLOSE}


def completion_text(tokenizer: Any, prompt: Prompt, tokens: Sequence[int]) -> str:
    """The completion's text. A thought stands between <think> and </think>, also where the model has other marks and
    where the prompt has opened it."""
    numbers = {tokenizer.added_tokens_encoder.get(mark): shown for mark, shown in MARKS.items()}
    parts = [
        "".join(numbers[token] for token in part) if is_mark else tokenizer.decode(list(part), skip_special_tokens=True)
        for is_mark, part in groupby(tokens, numbers.__contains__)
    ]
    is_open = prompt.rstrip().endswith(OPEN) if isinstance(prompt, str) else chat_template_of(tokenizer).opens_thought
    return "".join([f"{OPEN}\n"] * is_open + parts)


class Answer(str):
    """An answer's text; `is_cut` where the model had not ended it at max_completion_length. Its tokens and their
    log-probabilities are there where they were asked for, or an endpoint tells them."""

    is_cut = False
    tokens: Sequence[int] = ()
    log_probs: Sequence[float] = ()


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    tools: Sequence[Tools] | None = None,
    *,
    max_completion_length: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    log_probs: bool = False,
) -> list[Answer]:
    """One answer per prompt, its thought included, in order.

    They are decoded in batches of `batch_size`; temperature 0 takes the likeliest token. `model` is a PreTrainedModel,
    a PeftModel, or vLLM's or an endpoint's, which form batches themselves; `tools` are each prompt's JSON schemas.
    Every batch is seeded, so two models draw alike. With `log_probs` answers have tokens and log-probabilities, which
    takes memory for all scores of a batch.
    """
    if isinstance(model, ServedModel):
        return _served(model, tokenizer, prompts, tools, max_completion_length, temperature, top_p, seed)
    asked = [prompt_tokens(tokenizer, *each) for each in zip(prompts, tools or [()] * len(prompts), strict=True)]
    ends = end_tokens(model, tokenizer)
    how = {"max_completion_length": max_completion_length, "temperature": temperature, "top_p": top_p}

    def answer(prompt: Prompt, tokens: Sequence[int]) -> Answer:
        told = Answer(completion_text(tokenizer, prompt, tokens))
        told.is_cut = len(tokens) == max_completion_length and not set(ends) & set(tokens)
        told.tokens = up_to_end(tokens, ends)
        return told

    found: list[list[float]] | None = [] if log_probs else None
    made = generate_tokens(model, tokenizer, asked, ends, seed=seed, batch_size=batch_size, log_probs=found, **how)
    answers = [answer(*each) for each in zip(prompts, made, strict=True)]
    for each, own in zip(answers, found or (), strict=False):
        each.log_probs = own
    return answers


def generate_tokens(
    model: Any,
    tokenizer: Any,
    asked: Sequence[list[int]],
    ends: list[int],
    *,
    max_completion_length: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int,
    log_probs: list[list[float]] | None = None,
) -> list[list[int]]:
    """The same of prompts as tokens: an answer's tokens up to one of `ends`, and what pads it after that. `log_probs`
    is filled with each answer's."""
    import torch
    from transformers import GenerationConfig

    if isinstance(model, VllmModel):
        return model.answers(asked, ends, max_completion_length, temperature, top_p, seed)
    if isinstance(model, ServedModel):
        sampling = {"temperature": temperature, "top_p": top_p, "stop_token_ids": ends}
        choices = model.answers([(tokens, ()) for tokens in asked], seed, max_tokens=max_completion_length, **sampling)
        if log_probs is not None:
            log_probs += [list(choice.log_probs) for choice in choices]
        return [list(choice.tokens) for choice in choices]
    tokenizer.padding_side = "left"
    drawn = temperature > 1e-5  # as vLLM: scores divided by less may be infinite
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if drawn else {}
    generation = GenerationConfig(  # as TRL generates: the model's own defaults for sampling stay out
        pad_token_id=tokenizer.pad_token_id, eos_token_id=ends, return_dict_in_generate=True, **sampling
    )
    answers: list[list[int]] = []
    model.eval()
    for start in range(0, len(asked), batch_size):
        batch = tokenizer.pad({"input_ids": asked[start : start + batch_size]}, return_tensors="pt").to(model.device)
        ids, mask, cache, left = batch["input_ids"], batch["attention_mask"], None, max_completion_length
        made, told, under_way = [[] for _ in ids], [[] for _ in ids], list(range(len(ids)))
        how = {"generation_config": generation, "output_logits": log_probs is not None}
        torch.manual_seed(seed + start)
        while under_way and left:
            generation.max_new_tokens = min(left, ENDED_LEAVE)
            with torch.inference_mode():
                output: Any = model.generate(ids, attention_mask=mask, past_key_values=cache, **how)
            new = output.sequences[:, ids.shape[1] :]
            for place, row in enumerate(under_way):
                made[row] += new[place].tolist()
                if log_probs is not None:
                    told[row] += log_probs_of(torch.stack([step[place] for step in output.logits]), new[place].tolist())
            stay = [place for place, row in enumerate(under_way) if set(ends).isdisjoint(made[row])]
            under_way, left, cache = [under_way[place] for place in stay], left - new.shape[1], output.past_key_values
            if stay and left:
                ids, mask = output.sequences[stay], torch.nn.functional.pad(mask[stay], (0, new.shape[1]), value=1)
                cache.reorder_cache(torch.tensor(stay, device=ids.device))  # which keeps those that are named
        answers += made
        if log_probs is not None:
            log_probs += [own[: len(up_to_end(tokens, ends))] for own, tokens in zip(told, made, strict=True)]
    return answers


def up_to_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The tokens without what pads them."""
    end = next((place for place, token in enumerate(tokens, 1) if token in ends), len(tokens))
    return list(tokens[:end])


def log_probs_of(scores: Any, tokens: Sequence[int]) -> list[float]:
    """The log-probability of each token by the scores (logits) of all, a row for each."""
    import torch

    chosen = torch.tensor(tokens, device=scores.device)[:, None]
    return scores.float().log_softmax(-1).gather(1, chosen)[:, 0].tolist()


def log_probs_after(model: Any, asked: list[int], tokens: Sequence[int]) -> list[float]:
    """The log-probability that a model of transformers gives to each token, when it has read those asked and before."""
    import torch

    with torch.inference_mode():
        read = torch.tensor([[*asked, *tokens]], device=model.device)
        return log_probs_of(model(input_ids=read).logits[0, len(asked) - 1 : -1], tokens)


def _served(
    model: ServedModel,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    tools: Sequence[Tools] | None,
    length: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[Answer]:
    """The endpoint's answers. Its conversations are written as the model's chat template can write them."""
    schemas = tools or [()] * len(prompts)
    asked: list[tuple[Any, Tools]] = [
        (prompt, ()) if isinstance(prompt, str) else chat_template_of(tokenizer).as_written(prompt, each)
        for prompt, each in zip(prompts, schemas, strict=True)
    ]
    how = {"max_tokens": length, "temperature": temperature, "top_p": top_p}
    how |= {"chat_template_kwargs": told} if (told := getattr(tokenizer, "chat_template_kwargs", {})) else {}
    answers = []
    for prompt, choice in zip(prompts, model.answers(asked, seed, **how), strict=True):
        # The tokens tell a thought's marks, which a text may lack.
        answers.append(Answer(completion_text(tokenizer, prompt, choice.tokens) if choice.tokens else choice.text))
        answers[-1].is_cut, answers[-1].tokens, answers[-1].log_probs = choice.is_cut, choice.tokens, choice.log_probs
    return answers


def as_trained(model: Any, tokenizer: Any, samples: Sequence[Sample], config: TrainConfig, seed: int) -> list[Answer]:
    """An answer to each sample, drawn as a run with these settings draws its completions."""
    tools = [sample.tools for sample in samples]
    fitted = fit_prompts([sample.prompt for sample in samples], tokenizer, config.max_prompt_length, tools)
    how = {name: getattr(config, name) for name in ("max_completion_length", "temperature", "top_p")}
    return generate(model, tokenizer, [fit.prompt for fit in fitted], tools, seed=seed, **how)
