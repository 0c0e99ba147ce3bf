"""Figures and tables. Each figure reads files and returns a matplotlib Figure, which a notebook shows."""

from grpo_kit.plots.agents import agent_curve as agent_curve
from grpo_kit.plots.data import data_overview as data_overview
from grpo_kit.plots.evaluation import (
    breakdown as breakdown,
    evaluation_figure as evaluation_figure,
    length_against_score as length_against_score,
    scores as scores,
)
from grpo_kit.plots.judges import intervals as intervals, score_distributions as score_distributions
from grpo_kit.plots.runs import compare_runs as compare_runs, learning_curve as learning_curve
from grpo_kit.plots.sweeps import best_so_far as best_so_far, setting_effects as setting_effects
from grpo_kit.plots.tables import table as table
