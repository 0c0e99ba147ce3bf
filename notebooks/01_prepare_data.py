# %% [markdown]
# # 1. Prepare data
#
# This notebook turns dialogue traces into *samples*: a conversation up to the assistant's turn, the reply that was
# given, and a rubric of what a good reply does. It then shows you what you have, because looking at the data is the
# cheapest experiment there is.
#
# By default it reads the small dialogues that come with the kit. For your own, set `traces` to a
# [Schema-Guided Dialogue](https://github.com/google-research-datasets/dstc8-schema-guided-dialogue) folder, or to a
# JSONL file of chat messages, and `out` to `data/processed`, where the other notebooks look first.

# %% tags=["parameters"]
traces = ""  # "": the dialogues that come with the kit
out = "data/demo"
eval_fraction = 0.3
seed = 0
rubric = "schema"  # "gemini": Gemini writes a rubric for each sample; needs GEMINI_API_KEY
result_file = None  # None: result.json in out

# %%
# %matplotlib inline
import json
from pathlib import Path

import pandas as pd

import grpo_kit as kit
from grpo_kit import plots
from grpo_kit.data import demo
from grpo_kit.utils.files import write_json

traces = Path(traces or demo.TRACES)

# %% [markdown]
# ## From traces to samples
#
# Whole dialogues are held out, not single turns: two turns of one dialogue share most of their text, so a turn in
# `eval.jsonl` whose dialogue is in `train.jsonl` would measure memory. Dialogues that start with the same words stay
# together too, since their first prompts are the same. The split is a hash of those words, so adding files does not
# change it.

# %%
card = kit.prepare(traces, out, eval_fraction=eval_fraction, seed=seed, rubric=rubric)
pd.Series(card["samples"], name="samples").to_frame()

# %% [markdown]
# `data_card.json` records what was read, counted and left out, and a fingerprint. Each run on this data records the
# same fingerprint.

# %%
print(json.dumps({name: value for name, value in card.items() if not isinstance(value, dict)}, indent=2))

# %% [markdown]
# ## One dialogue, turn by turn
#
# Each assistant turn becomes a sample. Read a few: is the reply one you would want? Does the rubric say what makes it
# right? A rubric that you disagree with here becomes a reward that teaches the wrong thing later.

# %%
samples = list(kit.read_samples(Path(out) / "train.jsonl"))
first = [sample for sample in samples if sample.dialogue_id == samples[0].dialogue_id]
pd.set_option("display.max_colwidth", 90)
pd.DataFrame(
    {
        "the user says": [sample.prompt[-1]["content"] for sample in first],
        "reply in the trace": [sample.ground_truth for sample in first],
        "rubric": [sample.rubric for sample in first],
    }
)

# %% [markdown]
# ## No overlap between train and eval
#
# The check reads both files again and raises an error if a dialogue or a prompt is in both.

# %%
kit.check_splits(Path(out) / "train.jsonl", Path(out) / "eval.jsonl")
print(f"no dialogue and no prompt of {out}/train.jsonl is in {out}/eval.jsonl")

# %% [markdown]
# ## What there is, and how much
#
# Look for services or acts that are nearly absent: the model cannot learn them, and an average over the rest hides
# that. Look at the longest prompts too; `max_prompt_length` should be long enough for most of them.

# `result.json` holds the counts, for batch runs of this notebook.

# %%
counts = {name: card[name] for name in ("samples", "dialogues", "fingerprint")}
write_json(Path(result_file or Path(out) / "result.json"), {"data": out, "traces": str(traces), **counts})
plots.data_overview(card)

# %% [markdown]
# **Next:** [02_prototype_rewards](02_prototype_rewards.ipynb) — before you train on a reward, check it on answers
# whose quality you know.
