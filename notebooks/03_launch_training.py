# %% [markdown]
# # 3. Launch training
#
# GRPO in one paragraph: for each prompt the model writes a group of answers; the judge scores them; answers better
# than their group's mean are made likelier, worse ones less likely. There is no value network and no labelled
# preference, only answers compared with their siblings.
#
# The settings below are TRL's, by TRL's names. `None` takes the kit's default for the model, and
# `other_settings` takes any further field of `kit.TrainConfig`.

# %% tags=["parameters"]
model_name = "tiny"
data = "data/processed"  # where there is none, the samples that come with the kit
runs_dir = "runs"
backend = None  # "local" or "modal"; None: Modal where an account is set up, else this machine
run_id = None  # None: a new run named for the time; a name that is there already is gone on with
seed = 42
max_steps = None
learning_rate = None
num_generations = None
temperature = None
beta = None
use_lora = None
lora_r = None
judge = None  # "offline", "gemini" (needs GEMINI_API_KEY), or both with weights: "gemini=0.7,offline=0.3"
gemini_model = None
canaries = None  # "block" refuses to train with a judge that rewards answers worth nothing
other_settings = {}

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd

import grpo_kit as kit
from grpo_kit import plots

print(f"The work is done on: {kit.backend(backend)}")

# %% [markdown]
# ## The settings
#
# Settings that cannot work are refused here, before anything is loaded: a misspelt name, a group of one, a batch
# that groups do not divide. What differs from the plain defaults is listed.

# %%
names = """model_name data run_id seed max_steps learning_rate num_generations temperature beta use_lora lora_r
    judge gemini_model canaries""".split()
asked = {name: globals()[name] for name in names if globals()[name] is not None}
config = kit.TrainConfig(**asked, **other_settings)
print(
    f"{config.max_steps} steps of {config.prompts_per_step} prompts x {config.num_generations} completions: "
    f"{config.max_steps * config.completions_per_step} completions to write, judge and learn from"
)
defaults = {name: field.default for name, field in kit.TrainConfig.model_fields.items()}
pd.Series({k: v for k, v in config.model_dump().items() if v != defaults[k]}, name="setting", dtype=object).to_frame()

# %% [markdown]
# ## The run
#
# It is checked first, then trained by a process of its own, here or on Modal's GPU: to interrupt this cell, or to lose
# the kernel, does not end it. `kit.Run(run_id, runs_dir).watch()` comes back to it, `.stop()` ends it at its next step
# with a checkpoint, and the same `run_id` goes on from there. On Modal, put the data there once:
# `kit.upload_data.remote(data)`.
#
# Under the progress bar grows the learning curve. Reward should rise and then level off. Below it: answers whose length
# runs away, or an entropy that falls to nothing in the first steps, mean that the model has found one trick; a growing
# share of groups without spread means that there is little left to compare.

# %%
run = kit.train.remote(config, runs_dir=runs_dir)

# %%
file = Path(runs_dir) / f"{run.id}.png"
file.parent.mkdir(exist_ok=True)
plots.learning_curve(run).savefig(file, dpi=150)
print(file)

# %% [markdown]
# ## Against earlier runs
#
# The last few runs in the folder, told apart by the settings that differ. Believe a setting when several seeds agree.

# %%
plots.compare_runs([kit.Run(name, runs_dir) for name in kit.runs(runs_dir)["run"].tail(6)])

# %% [markdown]
# ## What it writes
#
# A curve can rise for bad reasons, so read the answers: one group of the first step, then one of the last. Answers of
# one group are compared with each other, so look for what the better ones have in common.

# %%
pd.set_option("display.max_colwidth", 110)
completions = run.completions()
completions["asked"] = [prompt[-1]["content"] for prompt in completions["prompt"]]
completions["reward"] = [sum(scores.values()) for scores in completions["rewards"]]
completions[completions["step"] == 1][["asked", "completion", "reward", "reason"]].head(8).round(2)

# %%
last = completions["step"].max()
completions[completions["step"] == last][["asked", "completion", "reward", "reason"]].head(8).round(2)

# %% [markdown]
# **Next:** [04_evaluate_checkpoints](04_evaluate_checkpoints.ipynb) — the curve above is on prompts that the model was
# trained on. Whether it got better is answered by prompts it has never seen.
