# %% [markdown]
# # 6. Agents that call tools
#
# Notebooks 01 to 05 train single replies. Here the model looks things up first: it may call a sample's tools, reads
# what they answer, and then replies. An *environment* answers its calls. `replay` is the trace itself: a call that the
# trace has gets the recorded result, any other an honest empty answer. `user` is a simulated user who follows the
# trace's goal through a whole dialogue. `module:Class` is an environment of your own, as TRL takes it.
#
# `tiny-agent` comes with the kit. It knows how to call, and seldom does: it makes up an answer instead.

# %% tags=["parameters"]
model_name = "tiny-agent"
data = "demo-calls"  # the kit's own; "data/processed": yours, of 01 with learn = "calls"
environment = "replay"
runs_dir = "runs"
backend = None  # "local" or "modal"; None: Modal where an account is set up, else this machine
run_id = "agent"
seed = 42
max_steps = None
n = 128  # held-out dialogues
other_settings = {}
result_file = None  # None: agents.json in the run's folder

# %%
# %matplotlib inline
from pathlib import Path

from IPython.display import display

import grpo_kit as kit
from grpo_kit import plots
from grpo_kit.utils.files import write_json
from grpo_kit.widgets import tables

print(f"The work is done on: {kit.backend(backend)}")

# %% [markdown]
# ## Settings
#
# Each score of a dialogue is a reward of its own. With `replay` they are `call` (the trace's calls and no others) and
# `grounded` (no value made up); the judge scores the reply with the result in view. `reward_funcs` sets their weights.

# %%
given = {"model_name": model_name, "data": data, "environment": environment, "run_id": run_id, "seed": seed}
given |= {"max_steps": max_steps} if max_steps else {}
config = kit.TrainConfig(**given, **other_settings)
print(config.judge | config.reward_funcs)
kit.quote(config)

# %% [markdown]
# ## Train
#
# The loss is only on what the model wrote: results and the user's words are masked.

# %%
run = kit.train.remote(config)
print(run.status["state"], run.status["step"])

# %%
plots.agent_curve(run)

# %% [markdown]
# ## Read the dialogues
#
# Some of the first dialogues, and of the last ones in which it called, with all rewards; the reason is the judge's
# own. `widgets.samples(run)` browses all of them.

# %%
told = tables.completions(run)
called = told[told["completion"].str.contains("tool: ")]
for rows in (told.head(3), called.tail(3)):
    display(plots.table(rows[["step", "asked", "completion", "rewards", "reason"]]))

# %% [markdown]
# ## Is it better?
#
# Base model and checkpoints have the same held-out dialogues. `success` is the share of them in which all calls are
# right, no value is made up, and the judge finds the reply good (with `user`: in which the goal is reached), with its
# 95% interval.

# %%
evaluation = kit.evaluate.remote(run, n=n)
plots.table(evaluation.agents())

# %%
before, after = (model["agent"] for model in (evaluation.base, evaluation.trained))
low, high = after["versus_base"]["interval"]
print(f"success {before['success']:.2f} -> {after['success']:.2f}, gain [{low:+.2f}, {high:+.2f}]")
write_json(Path(result_file or Path(runs_dir) / run.id / "agents.json"), {"base": before, "trained": after})
plots.evaluation_figure(evaluation)
