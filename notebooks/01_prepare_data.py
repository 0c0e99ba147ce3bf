# %% [markdown]
# # 1. Prepare data
#
# This notebook turns dialogue traces into *samples*: a conversation up to the assistant's turn, the reply that was
# given and, where there is one, a rubric of what a good reply does. It then shows you what you have, because looking at
# the data is the cheapest experiment there is.
#
# By default it reads the small dialogues that come with the kit. For your own, set `traces` to a file or folder of
# chats or of prompts with answers (JSON lines, a JSON array, CSV, Parquet), to `hf://owner/name`, or to a
# [Schema-Guided Dialogue](https://github.com/google-research-datasets/dstc8-schema-guided-dialogue) folder. Your
# samples go to `data/processed`, where the other notebooks and `grpo-kit train` look first.

# %% tags=["parameters"]
traces = ""  # "": the dialogues that come with the kit
out = None  # None: data/processed for your own traces, data/demo for the kit's
eval_fraction = 0.3
seed = 0
format = "auto"  # chat, gemini, sharegpt, samples or sgd, where it is not found out
learn = "answers"  # "calls": the assistant's tool calls are learnt too
ground = "results"  # what SGD's prompts hold beside what was said; history: nothing, acts: an upper bound
strict = False  # refuse what would be repaired
skip_bad = False  # leave out what can't be read, and count it
model_name = "tiny"  # whose tokens are counted: the model that you are going to train
rubric = "schema"  # "gemini": Gemini writes a rubric for each sample; needs GEMINI_API_KEY
result_file = None  # None: result.json in out

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd

import grpo_kit as kit
from grpo_kit import widgets
from grpo_kit.data import demo
from grpo_kit.utils.files import write_json

pd.set_option("display.max_colwidth", 90)
out = out or (demo.DEFAULT_DATA if traces else "data/demo")
traces = traces or demo.TRACES
config = kit.TrainConfig(data=out, model_name=model_name)
options = {"format": format, "learn": learn, "ground": ground, "strict": strict, "skip_bad": skip_bad}

# %% [markdown]
# ## From traces to samples
#
# Whole dialogues are held out, not single turns: two turns of one dialogue share most of their text, so a turn in
# `eval.jsonl` whose dialogue is in `train.jsonl` would measure memory. Dialogues that start with the same words stay
# together too, since their first prompts are the same. The split is a hash of those words, so adding files does not
# change it.
#
# What is odd is repaired and counted (`strict=True` would refuse it), and what can't be read is left out where
# `skip_bad` says so. `data_card.json` keeps all this, and a fingerprint that each run on this data records.

# %%
card = kit.prepare(traces, out, eval_fraction=eval_fraction, seed=seed, rubric=rubric, **options)
prepared = kit.prepared(out, config)
prepared.read()

# %% [markdown]
# ## Will it learn?
#
# Which judge this data allows, said before anything is trained. Dialogue acts let the offline judge check what an
# answer does; a rubric lets a judge that reads check it; without either, only the words that an answer shares with the
# reply in the trace are rewarded. Green, amber or red: each reason says what would change it.

# %%
print(kit.will_it_learn(config, data_only=True))

# %% [markdown]
# ## Read it
#
# Each assistant turn becomes a sample. Read a few: is the reply one you would want? Does the rubric, where there is
# one, say what makes it right? A rubric that you disagree with here becomes a reward that teaches the wrong thing
# later.
#
# A reply that states what stands nowhere in its prompt can't be earned: training on it teaches the model to invent.
# Keep such turns few by giving the model what the person who replied could see (`ground="results"` does it for
# dialogues with service results). The table begins with those turns; next come samples of which something will be cut.
# In JupyterLab, search and filter all samples below it; what the model will not get is struck out.

# %%
prepared.to_read()

# %%
widgets.data(prepared)

# %% [markdown]
# ## No overlap between train and eval
#
# The check reads both files again and raises an error if a dialogue or a prompt is in both.

# %%
kit.check_splits(Path(out) / "train.jsonl", Path(out) / "eval.jsonl")
print(f"no dialogue and no prompt of {out}/train.jsonl is in {out}/eval.jsonl")

# %% [markdown]
# ## What there is, and how long it is
#
# Tokens are those of `model_name`, as its chat template writes a prompt. A prompt that is too long loses old tool
# results, then its oldest turns; a completion that is too long is cut, and rarely scores well. Where many are cut,
# train with a larger `max_prompt_length` or `max_completion_length`, which cost memory and time. Services and acts,
# where the traces have any: those that are nearly absent the model cannot learn, and an average over the rest hides
# that.
#
# `result.json` holds the counts, for batch runs of this notebook.

# %%
counts = {name: card[name] for name in ("samples", "dialogues", "fingerprint")} | {"cut": prepared.counts()}
write_json(Path(result_file or Path(out) / "result.json"), {"data": out, "traces": str(traces), **counts})
prepared.content()

# %%
print(demo.where_found(out))

# %% [markdown]
# **Next:** [02_prototype_rewards](02_prototype_rewards.ipynb) — before you train on a reward, check it on answers
# whose quality you know. The line above says whether it finds these samples.
