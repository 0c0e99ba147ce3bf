# %% [markdown]
# # 4. Evaluate checkpoints
#
# The reward rose in training. Did the model get better? A rising curve can mislead in three ways: it is measured on the
# training prompts, the gain may be chance, or the judge rewards something other than a good answer. This notebook
# checks each, then helps you to choose a checkpoint, save it for use elsewhere and talk to it.
#
# The base model and every checkpoint answer the same held-out prompts with the same seeds, and the same judge scores
# them. The comparison is paired, prompt by prompt, so the difficulty of a prompt cancels out.
#
# A **second judge**, which the model was not trained with, scores the same answers. `reference` costs nothing: it
# measures the words that an answer shares with the reply in the trace (SQuAD's F1), not its meaning. Gemini can check a
# run that was trained with the offline judge, and the other way round.

# %% tags=["parameters"]
run = None  # a run's name; None: the newest
runs_dir = "runs"
n = 128
temperature = None  # None: as the run was trained
judge = None  # "offline", "gemini" or "reference"; None: the judge the run was trained with
second_judge = "reference"  # or "offline" or "gemini"; None: no second judge
seed = 7
other_settings = {}  # of kit.EvalConfig, such as {"simulated_user": "gemini"}
compare_with = None  # another run's name: its models beside this run's, on the same prompts
merge_to = "merged"  # a folder in the run's own, unless the path is absolute; None: nothing is merged
serve = False  # True: an endpoint for OpenAI's clients, until endpoint.stop()
chat_with = None  # messages to talk to the models with; None: what users say in three held-out prompts
result_file = None  # None: result.json beside the evaluation

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd

import grpo_kit as kit
from grpo_kit import plots, widgets
from grpo_kit.utils.files import write_json
from grpo_kit.widgets import tables

if run is None and kit.runs(runs_dir).empty:
    raise kit.RunError(f"no runs under {runs_dir} yet: 03_launch_training makes one, or set run and runs_dir")
run = kit.Run(run or kit.runs(runs_dir)["run"].iloc[-1], runs_dir)
run

# %% [markdown]
# ## Scores
#
# `difference` is the mean gain over the base model on the same prompts, with a 95% interval from a paired bootstrap. If
# the interval contains 0, the gain may be chance: use more prompts, or train longer. Four times as many prompts make it
# half as wide. `wins` is the share of prompts on which the checkpoint beats the base model, ties counting half. Of
# agents the table has `success` too, the share of dialogues that succeed ([06_agents](06_agents.ipynb) has more of
# them). A run on Modal is evaluated there.

# %%
other = None if second_judge == judge else second_judge
settings = {"n": n, "temperature": temperature, "judge": judge, "second_judge": other, "seed": seed, **other_settings}
evaluation = kit.evaluate.remote(run, **settings)
plots.scores(evaluation)

# %% [markdown]
# ## Which checkpoint to take
#
# The highest mean is partly luck: among equally good checkpoints, one comes out on top. So the rule leaves out every
# checkpoint whose second judge's interval lies below the base model. Of the rest, the base model included, it takes the
# earliest whose mean by the first judge is within one standard error, prompt by prompt, of the highest. What follows
# speaks of that checkpoint; where the rule takes the base model, there is nothing to save yet, and it speaks of the
# newest.
#
# The checkpoint is chosen on the prompts that it is scored on, and the best of several is partly the luckiest: its mean
# and its interval lie a little too high. For a number to publish, evaluate again with another `seed`, or on other
# held-out prompts, and read the row of the checkpoint that is named here.

# %%
best = evaluation.best()
print(evaluation.chosen())

# %% [markdown]
# On the left, look for a curve that leaves the base model's band and levels off. If it still climbs at its end, train
# for more steps; if it peaks and falls, train for fewer. On the right, a real gain moves many prompts. If a few prompts
# gain much and many get worse, the model has traded one ability for another.

# %%
plots.evaluation_figure(evaluation)

# %% [markdown]
# ## What did GRPO add?
#
# A run with a warm start (`sft_steps`) has a model that only imitates the traces. The sentence below says whether GRPO
# added anything to it up to the newest checkpoint, prompt by prompt. With `compare_with` another run is set beside this
# one, such as one that GRPO trained from the base: the table has the base, the warm start and both runs' newest
# checkpoints, none of them chosen by its score, and `the newest gains` is what this run's scores more than each, with
# its interval.

# %%
print(evaluation.added() or "This run has no warm start.")

# %%
if compare_with:
    beside = kit.Run(compare_with, runs_dir)
    compared = plots.table(kit.compare(evaluation, kit.evaluate.remote(beside, **settings)))
else:
    compared = "No other run was named."
compared

# %% [markdown]
# ## Do the judges agree?
#
# A judge is an imperfect measure, and training exploits its flaws. Another judge should see a real improvement too. The
# rule: if the interval of the training judge's gain lies above 0 and the second judge's does not, the warning below is
# possible *reward hacking*; if the second judge's interval lies below 0, the warning is stronger. There are warnings,
# too, for a gain that may be chance, for answers more than twice as long as the base model's, and for many answers
# without a score.
#
# Where all models score near nothing, or both judges only compare words on these samples, that is a warning too.
#
# Compare the signs of the two judges' gains, not their sizes: the scales differ.

# %%
plots.table(evaluation.judges())

# %%
print("\n\n".join(evaluation.warnings()) or "No warnings.")

# %% [markdown]
# What could be known before training: the verdict on the run's data, judge and start model, with the probe where one
# was made.

# %%
print(kit.will_it_learn(run.config, runs_dir=runs_dir, on_modal=run.storage.backend != "local"))

# %% [markdown]
# ## Where the gain comes from
#
# Left: the judge's own criteria. A gain in length or ending alone is a cheap one. Right: each service, since a mean can
# hide one that got worse. A hollow point has fewer than 10 prompts and is only a hint; to be sure, raise `n` or hold
# out more of that service in [01_prepare_data](01_prepare_data.ipynb). The table has the classes of dialogue act too
# (offer, inform, notify, confirm, request, goodbye), where the samples have acts.

# %%
plots.breakdown(evaluation)

# %%
plots.table(pd.concat({"service": evaluation.services(), "act": evaluation.by_act()}, names=["by", "of"]))

# %% [markdown]
# Longer answers are a common way to trick a judge. Good: the points of both models are spread alike, and the legend
# says that there is no clear trend. Bad: the trained model's answers have moved right, and longer ones score higher.
# Then add `length=0.1` to `reward_funcs`, or change what the judge rewards.

# %%
plots.length_against_score(evaluation)

# %% [markdown]
# ## Read both sides
#
# Browse the answers here, sorted by gain, loss or disagreement; the tab `While it trained` has the completions of each
# step. The tables below, which the saved notebook keeps, show where the model gained most and lost most. Losses teach
# more: a pattern in them shows a gap in the rubric or in the judge.

# %%
browser = widgets.samples(run)
browser.tabs.selected_index = 1
browser

# %%
trained = evaluation.trained["name"]
samples = evaluation.samples()
samples["asked"] = samples["id"].map(tables.answers(evaluation).set_index("id")["asked"])
gain = "difference" if evaluation.base else f"{trained} score"
columns = ["asked", *(["base", "base score"] if evaluation.base else []), trained]
columns += [f"{trained} score", f"{trained} reason"]
columns = list(dict.fromkeys([*columns, gain]))
plots.table(samples.nlargest(6, gain)[columns])

# %%
plots.table(samples.nsmallest(6, gain)[columns])

# %% [markdown]
# The last table shows where the two judges disagree. At the top are answers that only the first judge scores highly: if
# these look bad to you, the first judge has a flaw that the model may have found. At the bottom are answers that only
# the second judge scores highly: is the first too strict, or do they use the right words and miss the point?
# `disagreement` compares ranks: 0.5 means that half of all answers rank between the two judgements.

# %%
if "disagreement" in samples:
    parted = samples.dropna(subset="disagreement").sort_values("disagreement", ascending=False)
    shown = ["asked", "ground_truth", trained, f"{trained} score", f"{trained} second score", "disagreement"]
    table = plots.table(pd.concat([parted.head(4), parted.tail(4)])[shown])
else:
    table = "There is no second judge to disagree with."
table

# %% [markdown]
# ## Save it for use elsewhere
#
# A LoRA checkpoint is an adapter that needs its base model. Merging makes one model that plain `transformers` loads:
# `AutoModelForCausalLM.from_pretrained(folder)`. PEFT merges in float32, and the model is saved in its base's number
# format. Download a run on Modal first: `run = run.download("local_models/my_run")`.

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
# ## Serve it
#
# With `serve` the base model and all checkpoints stand behind an OpenAI-compatible endpoint, here or, for a run on
# Modal, there, where it costs nothing while nobody asks ([docs/serve.md](../docs/serve.md)). The cells below then talk
# to that, and `grpo-kit eval --endpoint URL` checks it.

# %%
endpoint = kit.serve(run, port=0) if serve else None
endpoint or "Nothing is served: set serve to True, or kit.serve(run) when you like."

# %% [markdown]
# ## Talk to it
#
# The base model and the checkpoint answer the same messages. By default they are asked what users say in held-out
# prompts, without what was said before. Set `chat_with` to what no held-out prompt asks: something off topic, a change
# of mind, a question back. A model that has learnt one trick shows it here sooner than in any mean. A list of messages
# is one conversation; another `seed` samples other answers, `temperature=0` takes the most likely ones.

# %%
chat_with = chat_with or list(dict.fromkeys(samples["asked"]))[:3]
if is_here or endpoint:
    talk = plots.table(kit.chat(endpoint or run, chat_with, checkpoint=trained, temperature=temperature, seed=seed))
else:
    talk = f"Run {run.id} is on Modal: set serve to True to talk to it there, or fetch it with run.download."
talk

# %% [markdown]
# In JupyterLab, type to the checkpoint here. It is loaded at the first message, and other cells can run meanwhile.

# %%
widgets.talk(endpoint or run, trained, temperature, seed) if is_here or endpoint else None

# %% [markdown]
# ## The result
#
# The result as a figure, as a file for other programs, and as one line.
#
# **Next:** if both judges see a gain, try a longer run or a larger model in
# [03_launch_training](03_launch_training.ipynb), and trust a setting when several seeds agree. If there is no gain, or
# the judges disagree, read the samples above again and change the reward in
# [02_prototype_rewards](02_prototype_rewards.ipynb).

# %%
result_file = Path(result_file or evaluation.path.with_name("result.json"))
result_file.parent.mkdir(parents=True, exist_ok=True)
write_json(result_file, evaluation.result())
print(result_file)
plots.evaluation_figure(evaluation)

# %%
print(evaluation.chosen())
print(evaluation.line())
