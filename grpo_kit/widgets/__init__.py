"""ipywidgets panels for a notebook: thin views of settings, runs, samples, rewards, labels; the work is elsewhere."""

from grpo_kit.widgets.curves import Curves
from grpo_kit.widgets.labels import LabelPanel, labels
from grpo_kit.widgets.launch_panel import LaunchPanel, launch_panel
from grpo_kit.widgets.monitor import Monitor, monitor
from grpo_kit.widgets.reward_lab import RewardLab, reward_lab
from grpo_kit.widgets.runs_table import RunTable, runs
from grpo_kit.widgets.samples import DataBrowser, SampleBrowser, data, samples
from grpo_kit.widgets.talk import TalkPanel, chat, talk

__all__ = ["Curves", "DataBrowser", "LabelPanel", "LaunchPanel", "Monitor", "RewardLab", "RunTable", "SampleBrowser"]
__all__ += ["TalkPanel", "chat", "data", "labels", "launch_panel", "monitor", "reward_lab", "runs", "samples", "talk"]
