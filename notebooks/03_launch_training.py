# %% [markdown]
# # 3. Launch training
#
# GRPO in one paragraph: for each prompt the model writes a group of answers, and the judge scores them. Training makes
# answers above their group's mean more likely, and answers below it less likely. There is no value network and no
# labelled preference data; answers are only compared within their group.
#
# The settings below are TRL's, by TRL's names. `None` takes the kit's default for the model, and
# `other_settings` takes any further field of `kit.TrainConfig`.

# %% tags=["parameters"]
model_name = "tiny"
data = "data/processed"  # where there is none, the samples that come with the kit
runs_dir = "runs"
backend = None  # "local" or "modal"; None: Modal where an account is set up, else this machine
interactive = None  # whether somebody can click Launch; None: yes in JupyterLab, no in a batch
run_id = None  # None: a new run, named by the time; the name of an existing run resumes it
seed = 42
max_steps = None
learning_rate = None
num_generations = None
temperature = None
beta = None
use_lora = None
lora_r = None
judge = None  # "offline", "gemini" (needs GEMINI_API_KEY), or both: {"gemini": 0.7, "offline": 0.3}
gemini_model = None
canaries = None  # "block": no training with a judge that rewards worthless answers
other_settings = {}
config_file = None  # settings as YAML or JSON, such as a sweep's best.json; they override those above
result_file = None  # None: result.json in the run's folder, or for a run on Modal in runs_dir/RUN

# %%
# %matplotlib inline
import os
from pathlib import Path

import pandas as pd

import grpo_kit as kit
from grpo_kit import plots, widgets
from grpo_kit.runs.directory import recent_steps
from grpo_kit.training import diagnostics
from grpo_kit.utils.files import write_json
from grpo_kit.widgets import tables

print(f"The work is done on: {kit.backend(backend)}")
if interactive is None:
    interactive = "JPY_SESSION_NAME" in os.environ

# %% [markdown]
# ## Settings and launch
#
# This cell checks the settings before anything is loaded, and raises an error for a misspelt name, a group of one, or a
# batch that the group size does not divide.
#
# The panel shows the settings that most runs change; the others are folded, those without effect are hidden, and the
# tooltip of a control explains it. Beside the controls is the quote: memory, minutes, dollars. A problem has its fix
# beside it, which **Apply fix** makes; while the run would be refused, Launch is off. Below the quote are the same
# settings as code: copy the line, or run `panel.config`, to repeat the run in a batch.
#
# `learns` is the verdict: red, amber or green, with its reasons and what would change them. **Probe** has the model
# answer eight prompts here, which are judged as in training; its first click says what that takes and costs, the second
# makes it. Where the verdict is red, or a run is under way already, **Launch** wants a second click.
#
# **Launch** checks everything again and starts the run in its own process, here or on a Modal GPU. The kernel stays
# free, so you can run other cells. **Stop** ends the run at its next step with a checkpoint, **Resume** continues from
# there. Closing the page or restarting the kernel does not end the run: run this cell again, and the panel names the
# runs under way, each with a button that shows it.
#
# *What to look at.* The reward should rise and then level off. If answers get longer and longer, or the entropy drops
# to 0 in the first steps, the model has found one trick. If the share of groups without spread grows, there is little
# left to compare. The panel warns about these and says what to try.

# %%
names = """model_name data run_id seed max_steps learning_rate num_generations temperature beta use_lora lora_r
    judge gemini_model canaries""".split()
asked = {name: globals()[name] for name in names if globals()[name] is not None}
from_file = kit.TrainConfig.found_in(config_file) if config_file else {}
config = kit.TrainConfig(**{**asked, **from_file, **other_settings})
panel = widgets.launch_panel(config, runs_dir=runs_dir)
panel

# %% [markdown]
# In a batch nobody clicks Launch, so this cell launches the run and waits for it. In JupyterLab the sections below fill
# in by themselves once the panel's run has ended; to keep them in the saved notebook, run their cells again then.

# %%
if not interactive:
    panel.follow(kit.train.remote(config, runs_dir=runs_dir, figure=False))  # the panel has one

# %% [markdown]
# ## Against earlier runs
#
# Select runs to overlay their curves; the legend shows the settings that differ. Trust a difference only when several
# seeds agree.

# %%
widgets.runs(runs_dir)

# %% [markdown]
# ## Its completions
#
# A curve can rise for bad reasons, so read the answers. Training compares the answers of one group, so look for what
# the better ones have in common: is it what you want, or only what the judge rewards?

# %%
panel.after(lambda run: [widgets.samples(run)])

# %% [markdown]
# One group of the first step, and one of the last.


# %%
def groups(run):
    completions = tables.completions(run)
    for step in (completions["step"].min(), completions["step"].max()):
        group = completions[completions["step"] == step].head(8)
        yield plots.table(group[["step", "asked", "completion", "rewards", "reason"]])


panel.after(groups)

# %% [markdown]
# ## The result, in a figure and files
#
# The scores of the first steps against those of the last: has all of the curve moved, or did a few good answers become
# many? The learning curve above is kept as a picture, beside `result.json` for batch runs.


# %%
def result(run):
    status, metrics = run.status, run.metrics()
    yield from map(str, diagnostics.diagnose(metrics, run.config))
    folder = Path(runs_dir) / run.id
    folder.mkdir(parents=True, exist_ok=True)
    plots.learning_curve(run).savefig(folder / "learning_curve.png", dpi=150)
    yield str(folder / "learning_curve.png")
    told = {name: status.get(name) for name in ("state", "step", "max_steps", "seconds", "usd", "quoted", "actual")}
    summary = {"run": run.id, **told, "reward": run.recent_reward()[0], "settings": run.about["settings"]}
    write_json(Path(result_file or folder / "result.json"), summary)
    if told["quoted"]:
        spent = pd.DataFrame({name: told[name] for name in ("quoted", "actual")}).T.infer_objects()
        yield plots.table(spent.drop(columns=["first_step", "measuring"], errors="ignore"), minutes="time")
    scored, steps = tables.completions(run).dropna(subset="score"), recent_steps(status["step"])
    ends = {"first": scored["step"] <= steps, "last": scored["step"] > scored["step"].max() - steps}
    yield plots.score_distributions({f"{end} {steps} steps": list(scored["score"][part]) for end, part in ends.items()})


panel.after(result)

# %% [markdown]
# **Next:** [04_evaluate_checkpoints](04_evaluate_checkpoints.ipynb) — the curve above is on prompts that the model was
# trained on. Only held-out prompts show whether it got better.
