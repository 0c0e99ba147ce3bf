"""Makes what the demo ships: its dialogues, and the tiny model (Gemma's architecture), which starts mediocre.

    .venv/bin/python scripts/demo/build.py [--traces DIR] [--model DIR]

The model learns twice. From whole dialogues it learns the language, and to copy what users and results say. Then it
learns replies of mixed quality, few of them good: it knows every kind of reply, and has yet to learn which one the
moment calls for. That is left to GRPO.
"""

import argparse
import json
import math
import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dialogues
import torch
import world
from torch.nn.functional import cross_entropy

from grpo_kit.data.demo import EVAL_FRACTION, TRACES
from grpo_kit.data.prepare import prepare
from grpo_kit.data.readers import read_traces
from grpo_kit.data.readers.base import Learn, ReadOptions
from grpo_kit.data.samples import Sample, read_samples
from grpo_kit.models.chat_template import chat_template_of
from grpo_kit.models.prompts import prompt_tokens
from grpo_kit.models.shapes import TINY_MODEL

N_TRACES, N_DIALOGUES = 330, 12_000  # that the demo ships, and that the model learns from
GOOD_REPLIES = 0.33
SEED = 20251206

CHAT_TEMPLATE = """{{ bos_token }}
{%- for message in messages -%}
<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}
{{ message.content | trim }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}"""
SPECIAL = ["<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>"]

# What the tokenizer keeps apart: marks of the prompt and the keys of JSON, with the punctuation around them, so that
# prompts are short; and the space before a name or a number: a value is then the same piece in JSON and in a sentence.
PIECES = r"""(?:user|model|tool)\n|\n*Tool (?:call|result): | ?(?:[^\w\s]*\w+":)+[^\w\s]*| (?=[A-Z\d$])"""
PIECES += r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"


class Told(NamedTuple):
    """A dialogue and the samples that the kit makes of it."""

    dialogue: dict
    samples: list[Sample]


Example = tuple[list[int], list[float]]  # tokens, and what the loss at each of them counts


def write_traces(out: Path, made: Sequence[dict]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "schema.json").write_text(json.dumps(world.schema(), indent=1) + "\n")
    lines = ",\n".join(json.dumps(dialogue, separators=(",", ":")) for dialogue in made)
    (out / "dialogues_001.json").write_text(f"[\n{lines}\n]\n")


def make_traces(out: Path) -> set[str]:
    """Writes the SGD folder `out` and returns the openings of its held-out dialogues, which the model must not see."""
    rng = random.Random(SEED)
    write_traces(out, [dialogues.dialogue(rng, f"demo_{i:05d}") for i in range(N_TRACES)])
    (out / "LICENSE.txt").write_text("CC0-1.0: these dialogues were made by scripts/demo/build.py.\n")
    with tempfile.TemporaryDirectory() as prepared:
        prepare(out, prepared, eval_fraction=EVAL_FRACTION)
        return {opening(sample) for sample in read_samples(Path(prepared) / "eval.jsonl")}


def opening(sample: Sample) -> str:
    return next(message["content"] for message in sample.prompt if message["role"] == "user")


def make_corpus(rng: random.Random, n: int, held_back: set[str], learn: Learn = "answers") -> list[Told]:
    """Dialogues to learn from, read as the kit reads traces; none opens as a held-out one does."""
    made = [dialogues.dialogue(rng, f"{i}") for i in range(n)]

    def refuse(error: Exception) -> None:
        raise error

    with tempfile.TemporaryDirectory() as folder:
        write_traces(Path(folder), made)
        traces = read_traces(Path(folder), "sgd", refuse, ReadOptions(learn=learn))
        told = [Told(dialogue, trace.samples) for dialogue, (_, trace) in zip(made, traces, strict=True)]
    return [each for each in told if opening(each.samples[0]) not in held_back]


def make_tokenizer(corpus: Sequence[Told], chat_template: str = CHAT_TEMPLATE) -> Any:
    """Pieces for the corpus's words; what is told of each service is one piece or two, so that prompts are short."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def fast() -> Any:
        names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end_of_turn>"}
        made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
        made.chat_template = chat_template
        return made

    tokenizer = Tokenizer(models.BPE())
    splits = [
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    template = chat_template_of(fast())
    briefings = {told.samples[0].prompt[0]["content"] for told in corpus}
    tools = {json.dumps(told.samples[0].tools) for told in corpus if told.samples[0].tools}
    briefings = sorted(briefings | tools)
    apart = re.compile("|".join(map(re.escape, [*SPECIAL, *briefings])))
    texts = [
        part
        for told in corpus
        for sample in told.samples
        for part in [*apart.split(template.render(sample.prompt, sample.tools)), sample.ground_truth]
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=1400,  # more than there are pieces
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(briefing, normalized=False) for briefing in briefings])
    return fast()


def make_model(tokenizer: Any) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            query_pre_attn_scalar=2,  # 256, as Gemma has it, is too soft an attention to pick one of 200 tokens
            initializer_range=0.1,  # at 0.02 what a token is drowns in what the layers add to it
            sliding_window=512,
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def answered(tokenizer: Any, sample: Sample, reply: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, as the kit has them, and of a reply to it."""
    said = tokenizer(reply, add_special_tokens=False)["input_ids"]
    return prompt_tokens(tokenizer, sample.prompt, sample.tools), [*said, tokenizer.eos_token_id]


def whole(tokenizer: Any, corpus: Sequence[Told]) -> list[Example]:
    """The dialogues with all their replies; a new sequence begins where an older call leaves the prompt.

    What the prompts hold is learnt too, at a fifth of the weight: calls repeat what the user said, which is practice.
    """
    sequences = []
    for told in corpus:
        tokens, weights = [], []
        for sample in told.samples:
            prompt, reply = answered(tokenizer, sample, sample.ground_truth)
            if prompt[: len(tokens)] != tokens:
                sequences.append((tokens, weights))
                tokens, weights = [], []
            weights = weights + [0.2] * (len(prompt) - len(tokens)) + [1.0] * len(reply)
            tokens = prompt + reply
        sequences.append((tokens, weights))
    return sequences


def mixed(tokenizer: Any, corpus: Sequence[Told], rng: random.Random) -> list[Example]:
    """Prompts with one reply each, which is seldom a good one."""
    sequences = []
    for told in corpus:
        for sample in told.samples:
            poor = dialogues.poor_reply(rng, told.dialogue, sample.turn_index)
            is_good = rng.random() < GOOD_REPLIES
            prompt, reply = answered(tokenizer, sample, sample.ground_truth if is_good else poor)
            sequences.append((prompt + reply, [0.0] * len(prompt) + [1.0] * len(reply)))
    return sequences


def learn(model: Any, sequences: list[Example], rng: random.Random, *, steps: int, batch: int, scale: float) -> None:
    """Trains the model with Muon (its matrices) and AdamW (the rest), at their usual learning rates times `scale`."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimisers = [
        torch.optim.Muon(matrices, lr=0.02 * scale, weight_decay=0.0),
        torch.optim.AdamW(others, lr=3e-3 * scale, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        return min(1, (step + 1) / 30) * (0.51 + 0.49 * math.cos(math.pi * step / steps))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimiser, rate) for optimiser in optimisers]
    batches: list[list[Example]] = []
    model.train()
    for step in range(steps):
        if not batches:  # of sequences of about one length each
            drawn = sorted(rng.sample(sequences, 16 * batch), key=lambda sequence: len(sequence[0]))
            batches = [drawn[i : i + batch] for i in range(0, len(drawn), batch)]
            rng.shuffle(batches)
        loss = mean_loss(model, batches.pop())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in (*optimisers, *schedulers):
            each.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)


def mean_loss(model: Any, batch: list[Example]) -> torch.Tensor:
    def padded(rows: list[list]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)

    tokens, weights = padded([tokens for tokens, _ in batch]), padded([weights for _, weights in batch])[:, 1:]
    counts = weights > 0
    hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state[counts]
    losses = cross_entropy(model.lm_head(hidden), tokens[:, 1:][counts], reduction="none")
    return (losses * weights[counts]).sum() / weights.sum()


def save(model, tokenizer, folder) -> None:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, default=TRACES, help="where the dialogues go")
    parser.add_argument("--model", type=Path, default=TINY_MODEL, help="where the model goes")
    args = parser.parse_args()

    torch.set_num_threads(1)  # as quick as two at this size, and the same result on any machine
    torch.manual_seed(SEED)
    held_back, rng = make_traces(args.traces), random.Random(SEED + 1)
    corpus = make_corpus(rng, N_DIALOGUES, held_back)
    tokenizer = make_tokenizer(corpus[:1000])
    model = make_model(tokenizer)
    print(f"{len(corpus)} dialogues, {len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    learn(model, whole(tokenizer, corpus), rng, steps=1500, batch=16, scale=1.0)
    rng = random.Random(SEED + 2)
    learn(model, mixed(tokenizer, corpus[:2000], rng), rng, steps=600, batch=16, scale=0.15)
    save(model, tokenizer, args.model)


if __name__ == "__main__":
    main()
