# %% [markdown]
# # 4. Evaluate checkpoints
#
# The base model and every checkpoint answer the same held-out prompts with the same seeds, and the same judge scores
# them. The comparison is paired, prompt by prompt, so that what is hard about a prompt cancels out.

# %% tags=["parameters"]
run = None  # a run's name; None: the newest
runs_dir = "runs"
n = 128
temperature = None  # None: as the run was trained
judge = None  # "offline" or "gemini"; None: the judge the run was trained with
seed = 7

# %%
# %matplotlib inline
import pandas as pd

import grpo_kit as kit
from grpo_kit import plots

pd.set_option("display.max_colwidth", 90)
run = kit.Run(run or kit.runs(runs_dir)["run"].iloc[-1], runs_dir)
run

# %% [markdown]
# ## Scores
#
# `difference` is the mean gain over the base model on the same prompts, with a 95% interval from a paired bootstrap.
# An interval that holds 0 is no result: use more prompts, or train longer. `win_rate` is the share of prompts on which
# the checkpoint beats the base model, ties counting half. A run on Modal is evaluated there.

# %%
evaluation = kit.evaluate.remote(run, n=n, temperature=temperature, judge=judge, seed=seed)
evaluation.summary().round(3)

# %%
figure = plots.evaluation_figure(evaluation)
figure

# %% [markdown]
# The judge's criteria say where a gain comes from. A score that rises by length or ending alone is a cheap one.

# %%
evaluation.criteria().round(2)

# %% [markdown]
# ## Read both sides
#
# Where it gained most, and where it lost most. Losses teach more: a pattern in them is the next rubric to write, or the
# next hole in the judge.

# %%
last = evaluation.trained["name"]
samples = evaluation.samples().sort_values("difference", ascending=False)
samples["asked"] = samples["prompt"].str.rsplit(": ", n=1).str[-1]
columns = ["asked", "base", "base score", last, f"{last} score", "difference"]
samples[columns].head(6).round(2)

# %%
samples[columns].tail(6).round(2)

# %% [markdown]
# ## The result, in a line

# %%
print(evaluation.line())
