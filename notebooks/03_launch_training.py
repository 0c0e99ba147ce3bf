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
interactive = None  # whether somebody is there to click; None: in JupyterLab yes, in a batch no
run_id = None  # None: a new run named for the time; a name that is there already is gone on with
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
canaries = None  # "block" refuses to train with a judge that rewards answers worth nothing
other_settings = {}
config_file = None  # JSON of settings, such as a sweep's best.json; they go before those above
result_file = None  # None: result.json in the run's folder, or for a run on Modal in runs_dir/RUN

# %%
# %matplotlib inline
import json
import os
from pathlib import Path

import pandas as pd
from IPython.display import display

import grpo_kit as kit
from grpo_kit import plots, widgets
from grpo_kit.training import diagnostics as signs
from grpo_kit.utils.files import write_json
from grpo_kit.widgets import tables as browsing

print(f"The work is done on: {kit.backend(backend)}")
if interactive is None:
    interactive = "JPY_SESSION_NAME" in os.environ

# %% [markdown]
# ## Settings and launch
#
# Settings that cannot work are refused here, before anything is loaded: a misspelt name, a group of one, a batch
# that groups do not divide.
#
# The panel shows what most runs change; the rest is folded, and every control's tooltip says what it is. Beside it
# stands what the run will take: memory against the GPU, minutes, dollars, and what stands in its way, each with its
# fix. Below that, the same settings as code: copy the line, or run `panel.config`, to have the run again in a batch.
#
# **Launch** checks all of it once more and starts the run in a process of its own, here or on Modal's GPU. The kernel
# stays free, so other cells run meanwhile. **Detach** looks away, **Stop** ends the run at its next step with a
# checkpoint, **Resume** goes on from there. To lose the page or the kernel does not end the run:
# `widgets.monitor(run_id, runs_dir)` comes back to it.
#
# *What to look at.* Reward should rise and then level off. Answers whose length runs away, or an entropy that falls to
# nothing in the first steps, mean that the model has found one trick; a growing share of groups without spread means
# that there is little left to compare. The panel says so in words when it sees it, and what to try.

# %%
names = """model_name data run_id seed max_steps learning_rate num_generations temperature beta use_lora lora_r
    judge gemini_model canaries""".split()
asked = {name: globals()[name] for name in names if globals()[name] is not None}
from_file = json.loads(Path(config_file).read_text()) if config_file else {}
config = kit.TrainConfig(**{**asked, **from_file, **other_settings})
panel = widgets.launch_panel(config, runs_dir=runs_dir)
panel

# %% [markdown]
# In a batch nobody clicks, so the run is launched here and waited for. In JupyterLab this cell takes the panel's run:
# run it, and the cells below, once the panel shows that the run is under way or complete.

# %%
if interactive:
    run = panel.run
    print(run or "No run yet: click Launch above, and run the cells from here on when there is something to see.")
else:
    print(kit.quote(config, runs_dir, ask=False))  # the launch asks
    run = kit.train.remote(config, runs_dir=runs_dir)

# %% [markdown]
# ## Against earlier runs
#
# Select runs to lay them over each other, told apart by the settings that differ. Believe a setting when several seeds
# agree.

# %%
widgets.runs(runs_dir)

# %% [markdown]
# The last few as a plain figure, which the saved notebook keeps.

# %%
earlier = [kit.Run(name, runs_dir) for name in kit.runs(runs_dir)["run"].tail(6)]
plots.compare_runs(earlier) if earlier else print("No runs yet.")

# %% [markdown]
# ## What it writes
#
# A curve can rise for bad reasons, so read the answers. Answers of one group are compared with each other, so look for
# what the better ones have in common: is it what you wanted, or only what the judge likes?

# %%
if run:
    display(widgets.samples(run))

# %% [markdown]
# One group of the first step, and one of the last.

# %%
pd.set_option("display.max_colwidth", 110)
if run and run.status["step"]:
    completions = browsing.completions(run)
    for step in (completions["step"].min(), completions["step"].max()):
        group = completions[completions["step"] == step].head(8)
        display(group[["step", "asked", "completion", "score", "reason"]].round(2))

# %% [markdown]
# ## The result, in a figure and a file
#
# The learning curve as it stands, kept in the saved notebook and as a picture, and `result.json` for whoever runs this
# in a batch.

# %%
if run and run.status["step"]:
    status, metrics = run.status, run.metrics()
    for sign in signs.signs(metrics, run.config):
        print(sign)
    folder = Path(runs_dir) / run.id
    folder.mkdir(parents=True, exist_ok=True)
    figure = plots.learning_curve(run)
    figure.savefig(folder / "learning_curve.png", dpi=150)
    print(folder / "learning_curve.png")
    last = metrics["reward"].tail(max(1, len(metrics) // 10)).mean()
    told = {name: status.get(name) for name in ("state", "step", "max_steps", "seconds", "usd", "quoted", "actual")}
    summary = {"run": run.id, **told, "reward": last, "settings": run.about["settings"]}
    write_json(Path(result_file or folder / "result.json"), summary)
    if told["quoted"]:
        display(pd.DataFrame({name: told[name] for name in ("quoted", "actual")}).drop("first_step", errors="ignore"))
    display(figure)

# %% [markdown]
# **Next:** [04_evaluate_checkpoints](04_evaluate_checkpoints.ipynb) — the curve above is on prompts that the model was
# trained on. Whether it got better is answered by prompts it has never seen.
