"""Makes the tiny model that can call tools, which 06_agents trains: it knows how to call, and seldom does.

    .venv/bin/python scripts/demo/agent.py [--model DIR]

It learns as the tiny model does (build.py), from the same world: first whole dialogues with their calls and results,
then turns of mixed quality, in most of which it answers without having looked anything up.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import build
import dialogues
import torch
from world import SLOTS

from grpo_kit.data.samples import Sample, call_text
from grpo_kit.data.tool_calls import TOOL_CALLS
from grpo_kit.models.shapes import TINY_AGENT

CALLS, WRONG_CALLS = 0.35, 0.1  # shares of the turns that need a call
GOOD_REPLIES = {True: 0.5, False: 0.25}  # after a result, and else

# Gemma's, with a turn of the tool's own; calls are written as the kit writes those that are learnt.
CHAT_TEMPLATE = """{{ bos_token }}
{%- if tools %}<start_of_turn>user
{{ tools | tojson }}<end_of_turn>
{% endif -%}
{%- for message in messages -%}
<start_of_turn>{{ {'assistant': 'model', 'tool': 'tool'}.get(message.role, 'user') }}
{{ message.content | trim }}
{%- for call in message.tool_calls or [] -%}
{{ '\\n' if message.content or not loop.first }}{"arguments":
{{- call.function.arguments | tojson(separators=(',', ':'), sort_keys=true) -}}
,"name":"{{ call.function.name }}"}
{%- endfor %}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}"""


def unbroken(told: build.Told) -> build.Told:
    """The dialogue with all of its calls, as it is lived; the kit's data leaves a service's older ones out."""
    said, samples = list(told.samples[0].prompt), []
    for sample in told.samples:
        turn = max(i for i, message in enumerate(sample.prompt) if message["role"] == "user")
        before = max(i for i, message in enumerate(said) if message["role"] == "user")
        said = said[:before] + sample.prompt[turn:] if samples and samples[-1].turn_index == sample.turn_index else said
        if samples and samples[-1].turn_index != sample.turn_index:
            said = [*said, {"role": "assistant", "content": samples[-1].ground_truth}, *sample.prompt[turn:]]
        samples.append(sample.replace(prompt=list(said)))
    return build.Told(told.dialogue, samples)


def mixed(tokenizer: Any, corpus: Sequence[build.Told], rng: random.Random) -> list[build.Example]:
    """Prompts with one reply or call each, which is seldom the right one."""
    sequences = []
    for told in corpus:
        for sample in told.samples:
            said = reply(sample, told.dialogue, rng)
            prompt, tokens = build.answered(tokenizer, sample, said)
            sequences.append((prompt + tokens, [0.0] * len(prompt) + [1.0] * len(tokens)))
    return sequences


def reply(sample: Sample, dialogue: dict, rng: random.Random) -> str:
    poor = dialogues.poor_reply(rng, dialogue, sample.turn_index)
    chance = rng.random()
    if calls := sample.columns.get(TOOL_CALLS):
        if chance < CALLS:
            return sample.ground_truth
        return call_text([_wrong(call, rng) for call in calls]) if chance < CALLS + WRONG_CALLS else poor
    return sample.ground_truth if chance < GOOD_REPLIES[sample.prompt[-1]["role"] == "tool"] else poor


def _wrong(call: dict, rng: random.Random) -> dict:
    """The call with another value of one of its arguments."""
    slot = rng.choice([slot for slot in call["arguments"] if slot in SLOTS])
    return {**call, "arguments": {**call["arguments"], slot: rng.choice(SLOTS[slot][0])}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=TINY_AGENT, help="where the model goes")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(build.SEED)
    with TemporaryDirectory() as traces:  # the same as the demo's
        held_back, rng = build.make_traces(Path(traces)), random.Random(build.SEED + 1)
    corpus = build.make_corpus(rng, build.N_DIALOGUES, held_back, learn="calls")
    tokenizer = build.make_tokenizer(corpus[:1000], CHAT_TEMPLATE)
    model = build.make_model(tokenizer)
    print(f"{len(corpus)} dialogues, {len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    lived = [told if i % 2 else unbroken(told) for i, told in enumerate(corpus)]
    build.learn(model, build.whole(tokenizer, lived), rng, steps=1500, batch=16, scale=1.0)
    rng = random.Random(build.SEED + 2)
    build.learn(model, mixed(tokenizer, lived[:2000], rng), rng, steps=600, batch=16, scale=0.15)
    build.save(model, tokenizer, args.model)


if __name__ == "__main__":
    main()
