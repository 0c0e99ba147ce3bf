# %% [markdown]
# # 2. Prototype the reward
#
# GRPO makes a model do more of whatever the reward scores highly. If the reward is wrong, an hour of GPU time makes a
# model that does the wrong thing very well. So test the reward here first, on answers whose quality you know. Each
# section asks one question; the sentence under its figure says what your data answer.
#
# The **offline** judge checks an answer against the turn's dialogue acts by rules and costs nothing. A judge that reads
# (**gemini**, **openai**, **anthropic**) goes by the rubric; it judges each answer alone (`gemini absolute`) or all
# answers to a prompt against each other (`gemini group`). A **reward_model** scores without one. With Gemini's key both
# of its modes are compared: about 750 calls, fewer with a smaller `n`. All judgements are kept in `out`, so running
# this again costs nothing.

# %% tags=["parameters"]
data = "data/processed"  # where there is none, the samples that come with the kit
out = "runs/prototype"  # keeps the judgements, versions of the reward, and people's labels
model_name = "tiny"
judge = "offline"  # offline, gemini, openai, anthropic, reward_model, exact or reference; or such as "gemini group"
judges = None  # to compare it with, such as ["offline", "openai"]; None: offline, and gemini where its key is set
judge_settings = {}  # such as {"judge_model": "gpt-5-mini"}
labels = None  # a CSV file of people's labels; None: labels.csv in out
interactive = None  # whether somebody can label and edit; None: yes in JupyterLab, no in a batch
n = 64
repeats = 4
seed = 0
result_file = None  # None: result.json in out

# %%
# %matplotlib inline
from pathlib import Path

import grpo_kit as kit
from grpo_kit import widgets

study = kit.prototype(data, judge, judges, judge_settings, model_name, out, n, repeats, seed)

# %% [markdown]
# ## What does the judge see?
#
# This is the turn with the most dialogue acts. The offline judge reads its acts and reference; one that reads gets all
# of it in its prompt.

# %%
study.look()

# %% [markdown]
# ## Are its reasons good ones?
#
# The reply in the trace, beside answers that only look like one. If an answer that you would reject scores well, stop
# here and change the judge or the rubric.

# %%
study.reasons()

# %% [markdown]
# ## What would another rubric, prompt or reward change?
#
# Find a sample, edit its rubric, the judge's prompt or a reward in Python, and press Ctrl+Enter: the same answers are
# scored before and after the edit. The panel says which edits this judge reads. Save writes what you have edited as
# files that training takes, and shows the code; `lab.config` and `lab.rewards` hand it on. In a batch it is only shown.

# %%
lab = widgets.reward_lab(study.folder, study.kind, study.judge_config, study.answer, out, interactive)
lab

# %% [markdown]
# ## Can the judge tell a right reply from a wrong one?
#
# The reply in the trace should score near 1, its first half lower (half of a short reply may do), and the reply to
# another turn far lower. Where the curves overlap, the reward is noise. The last curve is the model you are about to
# train. It should lie between the others: at the left edge it has nothing to reinforce, at the right edge nothing to
# learn.

# %%
study.known_answers()

# %% [markdown]
# ## Which judge does it best?
#
# Mean scores of the same answers, with 95% intervals. A tie counts as half a turn put right.

# %%
study.compare()

# %% [markdown]
# ## Is there anything to compare within a group?
#
# GRPO learns from differences *within* a group of answers to one prompt. A group whose scores are all equal teaches
# nothing, however high they are.

# %%
study.spread()

# %% [markdown]
# ## Does it agree with people?
#
# Score answers from 1 to 5, or choose between two, by keyboard: click the panel, then press a key. It does not say who
# wrote an answer or what a judge said of it. Where judges differ comes first. Each label is saved in `labels.csv` at
# once; two people use two names. Then run this again from the next cell on. Until there are labels, **stand-in labels**
# are used, which no person gave: 1 for the reply in the trace, 0 for its first half and for the reply to another turn.

# %%
file = labels or Path(out) / "labels.csv"
panel = widgets.labels(study.samples, study.to_label, file, study.judged, interactive=interactive)
panel

# %% [markdown]
# Spearman: does the judge rank answers as people do? Weighted kappa: how near do its scores come to theirs, beyond
# chance (Cohen's, with quadratic weights)? Accuracy, of passing (0.5 or more) what they pass (3 or more), matters only
# by how far it lies above always guessing the more frequent label. If an interval is too wide to decide, label more.

# %%
study.agreement(panel.labels)

# %% [markdown]
# ## Does it agree with itself?
#
# The same answers are judged several times: how far do the scores scatter, and how many pass once and fail another
# time? `judge_samples` takes the mean of several judgements, at several times the cost.

# %%
study.consistency()

# %% [markdown]
# ## Does it prefer long answers, or early ones?
#
# Among answers of equal quality, score and length should not be correlated (Spearman near 0; undefined where all scores
# are equal), and padding added to the reference should gain nothing. A judge that compares should ignore the order of
# the answers, which are shuffled each time.

# %%
study.biases()

# %% [markdown]
# ## Can it be fooled?
#
# Canaries are answers that no judge should reward (beyond the dotted line), and the reference, which it should reward,
# on a few prompts. A training run tries them first and warns about those that fail; with `canaries="block"` it does not
# start.

# %%
study.canaries()

# %% [markdown]
# ## What does it cost?
#
# Measured on the judgements of known answers, without cached ones. `cache_from="prototype"` in `kit.TrainConfig` lets a
# run reuse the judgements made here.

# %%
study.costs()

# %% [markdown]
# ## What would a reward of your own add?
#
# You can add any Python function in TRL's form: it gets lists (`completions`, `prompts`, and every column of the data
# that it names) and returns a score for each completion, or `None` for no score: `kit.train(config,
# rewards={politeness: 0.1})`. Its mean appears in the metrics under its name. Ready-made rewards have names:
# `kit.train(config, reward_funcs="length=0.1,repetition=0.1")`; the others are `format`, and `tool_call` for data that
# has calls to learn.


# %%
def politeness(completions, **_):
    return [1.0 if "please" in completion[-1]["content"].lower() else 0.0 for completion in completions]


study.rewards([politeness, "length", "format", "repetition"])

# %% [markdown]
# ## Will it learn?
#
# The verdict on data, judge and model together, as `grpo-kit doctor`, the launch panel and every launch give it. The
# probe is eight groups sampled from the model and judged; it is kept, so the notebooks after this one know it too.

# %%
print(kit.probe(study.config))
print(kit.will_it_learn(study.config))

# %% [markdown]
# ## The result, in a figure and a file
#
# Train with this judge if the reply in the trace lies far to the right of the others, the canaries pass, and most
# groups have a spread. `result.json` holds the numbers.

# %%
study.save(result_file)

# %% [markdown]
# **Next:** [03_launch_training](03_launch_training.ipynb) — train on this reward and watch it learn.
