"""Figures. Each reads files and returns a matplotlib Figure, which a notebook shows."""

from grpo_kit.plots.data import data_overview as data_overview
from grpo_kit.plots.evaluation import breakdown as breakdown
from grpo_kit.plots.evaluation import evaluation_figure as evaluation_figure
from grpo_kit.plots.evaluation import length_against_score as length_against_score
from grpo_kit.plots.judges import intervals as intervals
from grpo_kit.plots.judges import score_distributions as score_distributions
from grpo_kit.plots.runs import compare_runs as compare_runs
from grpo_kit.plots.runs import learning_curve as learning_curve
from grpo_kit.plots.sweeps import best_so_far as best_so_far
from grpo_kit.plots.sweeps import setting_effects as setting_effects
