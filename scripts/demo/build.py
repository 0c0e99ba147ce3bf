"""Makes what the demo ships: its dialogues, and the tiny model (Gemma's architecture), which starts mediocre.

    .venv/bin/python scripts/demo/build.py [--traces DIR] [--model DIR]

The model is trained for some minutes on dialogues of mixed quality, few of whose replies are good: it knows the
language and the kinds of reply, and has yet to learn which one the moment calls for. That is left to GRPO.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import world

from grpo_kit.data.demo import EVAL_FRACTION, GROUND, TRACES
from grpo_kit.data.prepare import prepare
from grpo_kit.data.samples import read_samples
from grpo_kit.models.shapes import TINY_MODEL

N_TRACES, N_PAIRS = 400, 30_000
GOOD_REPLIES = 0.25
SEED = 20251206

CHAT_TEMPLATE = """{{ bos_token }}
{%- for message in messages -%}
<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}
{{ message.content | trim }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}"""


def turns_of(dialogue: dict):
    """Yields (chat messages so far, the system's reply, slots the user has given) for each system turn."""
    messages, known = [], {}
    for turn in dialogue["turns"]:
        if turn["speaker"] == "SYSTEM":
            yield list(messages), turn["utterance"], known
        else:
            known = {slot: values[0] for slot, values in turn["frames"][0]["state"]["slot_values"].items()}
        messages.append({"role": "user" if turn["speaker"] == "USER" else "assistant", "content": turn["utterance"]})


def make_traces(out: Path) -> set[str]:
    """Writes the SGD folder `out` and returns the openings of its held-out dialogues, which the model must not see."""
    rng = random.Random(SEED)
    dialogues = [world.dialogue(rng, f"demo_{i:05d}") for i in range(N_TRACES)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "schema.json").write_text(json.dumps(world.schema(), indent=1) + "\n")
    lines = ",\n".join(json.dumps(dialogue, separators=(",", ":")) for dialogue in dialogues)
    (out / "dialogues_001.json").write_text(f"[\n{lines}\n]\n")
    (out / "LICENSE.txt").write_text("CC0-1.0: these dialogues were made by scripts/demo/build.py.\n")
    with tempfile.TemporaryDirectory() as prepared:
        prepare(out, prepared, eval_fraction=EVAL_FRACTION, ground=GROUND)
        return {sample.prompt[0]["content"] for sample in read_samples(Path(prepared) / "eval.jsonl")}


def make_pairs(held_back: set[str]) -> list[dict]:
    """Prompt and completion pairs for supervised training; no prompt opens as a held-out dialogue does."""
    rng = random.Random(SEED + 1)
    pairs: list[dict] = []
    while len(pairs) < N_PAIRS:
        dialogue = world.dialogue(rng, "")
        if dialogue["turns"][0]["utterance"] in held_back:
            continue
        for prompt, good, known in turns_of(dialogue):
            is_good = rng.random() < GOOD_REPLIES
            reply = good if is_good else world.poor_reply(rng, good, dialogue["services"][0], known)
            pairs.append({"prompt": prompt, "completion": [{"role": "assistant", "content": reply}]})
    return pairs


def make_tokenizer(pairs: list[dict]):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for pair in pairs[:5000] for message in pair["prompt"] + pair["completion"])
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<end_of_turn>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer):
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
            sliding_window=512,
            max_position_embeddings=1024,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, default=TRACES, help="where the dialogues go")
    parser.add_argument("--model", type=Path, default=TINY_MODEL, help="where the model goes")
    parser.add_argument("--steps", type=int, default=1200, help="steps of supervised training")
    args = parser.parse_args()

    import torch
    from datasets import Dataset
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)  # as quick as two at this size, and the same result on any machine
    set_seed(SEED)
    pairs = make_pairs(make_traces(args.traces))
    tokenizer = make_tokenizer(pairs)
    model = make_model(tokenizer)
    print(f"{len(pairs)} pairs, {len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(pairs),
        args=SFTConfig(
            output_dir=str(args.model),
            max_steps=args.steps,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=30,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=50,
            seed=SEED,
        ),
    )
    trainer.train()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(args.model)
    tokenizer.save_pretrained(args.model)


if __name__ == "__main__":
    main()
