# %% [markdown]
# # 4. Evaluate checkpoints
#
# The reward rose in training. Did the model get better? Three things can make a rising curve worthless: the prompts are
# those it was trained on, the gain is within chance, or the judge pays for something else than a good answer. This
# notebook looks at each, then helps you to choose a checkpoint, save it for use elsewhere and talk to it.
#
# The base model and every checkpoint answer the same held-out prompts with the same seeds, and the same judge scores
# them. The comparison is paired, prompt by prompt, so that what is hard about a prompt cancels out.
#
# A **second judge**, which the model was not trained to please, scores the same answers. `reference` costs nothing: it
# counts the words that an answer shares with the reply in the trace (SQuAD's F1). A run that was trained with the
# offline judge can be checked by Gemini, and the other way round.

# %% tags=["parameters"]
run = None  # a run's name; None: the newest
runs_dir = "runs"
n = 128
temperature = None  # None: as the run was trained
judge = None  # "offline", "gemini" or "reference"; None: the judge the run was trained with
second_judge = "reference"  # or "offline" or "gemini"; None: no second one
seed = 7
merge_to = "merged"  # a folder in the run's own, unless the path is absolute; None: nothing is merged
chat_with = ["I would like a table, please.", "Please book a room in Paris.", "Which movies are on tonight?"]
result_file = None  # None: result.json beside the evaluation

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd

import grpo_kit as kit
from grpo_kit import plots, widgets
from grpo_kit.utils.files import write_json
from grpo_kit.widgets import tables as browsing

pd.set_option("display.max_colwidth", 90)
if run is None and kit.runs(runs_dir).empty:
    raise kit.RunError(f"no runs under {runs_dir} yet: 03_launch_training makes one, or set run and runs_dir")
run = kit.Run(run or kit.runs(runs_dir)["run"].iloc[-1], runs_dir)
run

# %% [markdown]
# ## Scores
#
# `difference` is the mean gain over the base model on the same prompts, with a 95% interval from a paired bootstrap.
# An interval that holds 0 is no result: use more prompts, or train longer. Four times the prompts make it half as wide.
# `win_rate` is the share of prompts on which the checkpoint beats the base model, ties counting half. A run on Modal is
# evaluated there.

# %%
other = None if second_judge == judge else second_judge
evaluation = kit.evaluate.remote(run, n=n, temperature=temperature, judge=judge, second_judge=other, seed=seed)
evaluation.summary().round(3).drop(columns="stdev min max wins ties losses".split(), errors="ignore")

# %% [markdown]
# On the left, look for a curve that leaves the base model's band and levels off. One that still climbs at its end asks
# for more steps; one that peaks and falls has gone on too long. On the right, a real gain moves many prompts; a few
# large bars and much that is worse is a trade, not a gain.

# %%
plots.evaluation_figure(evaluation)

# %%
plots.win_rates(evaluation)

# %% [markdown]
# ## Do the judges agree?
#
# A judge is an imperfect measure, and training pushes at its imperfections. What the model really learnt, another judge
# should see too. The rule: where the interval of the training judge's gain lies above 0 and that of the second judge
# does not, this is said below as possible *reward hacking*; where the second judge's interval lies below 0, the words
# are stronger. Also said: answers more than twice as long as the base model's, and many answers without a score.
#
# The sizes of two judges' gains can't be compared, since their scales differ. Their signs can.

# %%
evaluation.judges().round(3)

# %%
print("\n\n".join(evaluation.warnings()) or "No warnings.")

# %% [markdown]
# ## Where the gain comes from
#
# Left, the judge's own criteria: a score that rises by length or ending alone is a cheap one. Right, by service: a mean
# can hide one that got worse. A hollow point stands for fewer than 10 prompts, which is a hint and no more; to know,
# raise `n` or hold out more of that service in [01_prepare_data](01_prepare_data.ipynb).

# %%
plots.breakdown(evaluation)

# %%
evaluation.services().round(2)

# %% [markdown]
# Length is the oldest trick. Good: the points of both models lie alike, and the trend is said to be unclear. Bad: the
# trained model's answers have moved right, and longer ones score higher. Then add `length=0.1` to `reward_funcs`, or
# mend what the judge pays for.

# %%
plots.length_against_score(evaluation)

# %% [markdown]
# ## Read both sides
#
# Browse them here, sorted by gain, loss or disagreement; `While it trained` has the completions of each step. Below,
# for the saved notebook, where it gained most and where it lost most. Losses teach more: a pattern in them is the next
# rubric to write, or the next hole in the judge.

# %%
browser = widgets.samples(run)
browser.tabs.selected_index = 1
browser

# %%
last = evaluation.trained["name"]
samples = evaluation.samples()
samples["asked"] = samples["id"].map(browsing.answers(evaluation).set_index("id")["asked"])
gain = "difference" if evaluation.base else f"{last} score"
columns = ["asked", *(["base", "base score"] if evaluation.base else []), last, f"{last} score", f"{last} reason"]
columns = list(dict.fromkeys([*columns, gain]))
samples.nlargest(6, gain)[columns].round(2)

# %%
samples.nsmallest(6, gain)[columns].round(2)

# %% [markdown]
# And where the two judges disagree. At the top, answers that the first judge likes and the second does not: if these
# look bad to you, the first judge has a hole, and the model may have found it. At the bottom, answers that only the
# second likes: is the first too strict, or are these good words that miss the point? `disagreement` compares ranks:
# 0.5 means that half of all answers stand between the two opinions.

# %%
if "disagreement" in samples:
    parted = samples.dropna(subset="disagreement").sort_values("disagreement", ascending=False)
    shown = ["asked", "ground_truth", last, f"{last} score", f"{last} second score", "disagreement"]
    table = pd.concat([parted.head(4), parted.tail(4)])[shown].round(2)
else:
    table = "There is no second judge to disagree with."
table

# %% [markdown]
# ## Which checkpoint to take
#
# The highest mean is partly luck: of several checkpoints that are as good, one comes out on top. So the rule is this.
# A checkpoint that the second judge surely finds worse than the base is out. Of what is left, the base model included,
# the earliest is taken whose mean by the first judge is within one standard error, prompt by prompt, of the highest. A
# later checkpoint has to earn its steps; and if it is the base model that is named, there is nothing to save yet.
#
# The mean of the one you choose is still a little flattered by the choice. For a number to publish, evaluate that
# checkpoint once more with another `seed`, or on prompts kept aside.

# %%
best = evaluation.best()
print(f"{best['name']}: {best['why']}")

# %% [markdown]
# ## Save it for use elsewhere
#
# A LoRA checkpoint is an adapter that needs its base model. Merged, it is one model that plain `transformers` loads:
# `AutoModelForCausalLM.from_pretrained(folder)`. The merge is made in float32 and checked: before and after, and again
# from the saved files, the logits on some prompts must be the same within rounding, or nothing is kept. A run on Modal
# is fetched first: `run = run.download("local_models/my_run")`.

# %%
is_here = run.storage.backend == "local"
if not is_here:
    print(f"Run {run.id} is on Modal: run.download('local_models/{run.id}') fetches it, then kit.merge merges it.")
elif best["name"] == "base" or merge_to is None:
    print("Nothing is merged.")
else:
    folder = run.path / merge_to / best["name"]
    if folder.exists():
        print(f"It was merged before: {folder}")
    else:
        print(kit.merge(run, folder, checkpoint=best["name"]))

# %% [markdown]
# ## Talk to it
#
# The same words to the base model and to the chosen checkpoint. Ask what no held-out prompt asks: something off the
# topic, a change of mind, a question back. A model that has learnt one trick shows it here sooner than in any mean. A
# conversation goes in as a list of messages; another `seed` draws other answers, `temperature=0` the likeliest.

# %%
checkpoint = last if best["name"] == "base" else best["name"]
if is_here:
    talk = kit.chat(run, chat_with, checkpoint=checkpoint, temperature=temperature, seed=seed)
else:
    talk = f"Run {run.id} is on Modal: run.download('local_models/{run.id}') fetches it, then kit.chat talks to it."
talk

# %% [markdown]
# ## The result
#
# In a figure, in a file for whatever comes after, and in a line.
#
# **Next:** a gain that both judges see is worth a longer run or a larger model; go back to
# [03_launch_training](03_launch_training.ipynb), and believe a setting when several seeds agree. No gain, or judges
# that part: read the samples above once more, then mend the reward in
# [02_prototype_rewards](02_prototype_rewards.ipynb).

# %%
result_file = Path(result_file or evaluation.path.with_name("result.json"))
result_file.parent.mkdir(parents=True, exist_ok=True)
write_json(result_file, evaluation.result())
print(result_file)
plots.evaluation_figure(evaluation)

# %%
print(evaluation.line())
