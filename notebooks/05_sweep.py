# %% [markdown]
# # 5. Sweep
#
# One run proves little: another seed would give a higher or lower score, and you don't know by how much. A sweep runs a
# notebook many times with other settings, several at a time, so that you can compare the effect of a setting with the
# effect of chance. You can sweep any of the kit's notebooks, and your own. Notebook 04 evaluates each run of 03 on
# held-out prompts, and the sweep compares those scores.
#
# For long sweeps, use a shell: `grpo-kit sweep 03_launch_training grid.yaml --out sweeps/first`. If it is killed, the
# same command continues it.

# %% tags=["parameters"]
notebook = "03_launch_training"  # or a path
grid = {"learning_rate": [5e-4, 2e-3], "seed": [1, 2], "max_steps": 12, "save_steps": 12, "evaluation": {"n": 64}}
out = "sweeps/first"
jobs = None  # runs at a time; None: 2 here, up to 8 on Modal
budget = None  # US dollars for all runs together
halving = None  # a step: runs whose reward is behind at it, at twice as many steps and so on are stopped early
score = "trained"  # the column of the results that settings are compared by
result_file = None  # None: result.json in out

# %%
# %matplotlib inline
from pathlib import Path

from IPython.display import display

import grpo_kit as kit
from grpo_kit import plots
from grpo_kit.utils.files import write_json

# %% [markdown]
# ## The grid
#
# The sweep combines every value of each list with every value of the others; a single value holds for all runs. Names
# are the notebook's parameters and, for 03, any setting of `kit.TrainConfig`. All names and values are checked here,
# before anything runs. A grid may also be a YAML file, which can say two more things:
#
# ```yaml
# learning_rate: [5e-4, 2e-3]
# seed: [1, 2, 3]
# zip:                            # lists that go together: 4 with 0.8, 8 with 1.0
#   num_generations: [4, 8]
#   temperature: [0.8, 1.0]
# random:                         # 6 draws, each crossed with all of the above
#   n: 6
#   seed: 0
#   of: {lora_r: [4, 8, 16], beta: {log_uniform: [1e-4, 1e-1]}}
# evaluation: {n: 256}            # parameters of 04
# ```
#
# *How many seeds?* Two show whether chance is large, three or more whether a difference is likely real. When in doubt,
# add seeds before values.

# %%
sweep = kit.Sweep(notebook, grid, out)
sweep

# %% [markdown]
# ## What it will take
#
# The quote uses earlier runs in `out` and `runs`, else an estimate. A `budget` holds for all runs together: a
# run that it does not cover is not started, and a larger budget continues later.

# %%
print(sweep.quote(jobs, budget, halving))

# %% [markdown]
# ## Run it
#
# Each run is a folder in `out` with its executed notebooks, which open like any other. If a run fails, the others go
# on; its error is in the results and in its notebook. Interrupting this cell ends the current runs with a checkpoint;
# run it again, here or in a new kernel, to do what is missing.

# %%
sweep.run(jobs, budget, halving)

# %% [markdown]
# ## Results
#
# A row per run, also in `results.csv`. `trained` is the held-out score of the newest checkpoint with its 95% interval
# over prompts, `difference` its gain over the base model on the same prompts. The interval shows the effect of other
# prompts; only other seeds show the effect of a seed.

# %%
plots.table(sweep.results().drop(columns=["step", "ended"], errors="ignore"))

# %% [markdown]
# The seeds of one setting are pooled here. Compare `sd`, and `lowest` to `highest`, with the distance between the
# means.

# %%
plots.table(sweep.pooled(score))

# %% [markdown]
# ## What each setting does
#
# *Good:* the means differ, and the ranges of their runs do not overlap. *No result:* the points of one value lie among
# those of another.

# %%
plots.setting_effects(sweep, score)

# %% [markdown]
# The mean score by the first two settings, with all others pooled; put the names of other two in their place. Look for
# a setting whose effect depends on the other's value.

# %%
if len(sweep.settings) > 1:
    means = sweep.results().pivot_table(score, *sweep.settings[:2])
    display(means.style.background_gradient("cividis", axis=None).format("{:.2f}"))
else:
    print("Only one setting differs.")

# %% [markdown]
# ## The best setting
#
# The best setting has the highest mean over its seeds; the text says whether the next one is really worse. `best.json`
# holds it for 03: `config_file = "sweeps/first/best.json"`. As the best of several, its score is a little too high:
# train it again with a new seed for a number to publish.

# %%
best = sweep.best(score)
print(best["why"])

# %% [markdown]
# ## The result, in a figure and a file
#
# The best score so far against the cost. If the curve has been flat for long, more runs of this kind are not worth
# their cost.

# %%
results = sweep.results()
summary = {
    "sweep": out,
    "runs": len(results),
    "complete": int((results["state"] == "complete").sum()),
    "seconds": float(results["seconds"].sum()),
    "usd": float(results["usd"].fillna(0).sum()),
    "best": best,
}
result_file = Path(result_file or Path(out) / "result.json")
write_json(result_file, summary)
print(result_file)
plots.best_so_far(sweep, score)
