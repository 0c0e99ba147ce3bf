"""ipywidgets panels for a notebook: thin views of settings, quote, runs and samples, which do their work elsewhere."""

from grpo_kit.widgets.monitor import Monitor, monitor
from grpo_kit.widgets.panel import LaunchPanel, launch_panel
from grpo_kit.widgets.run_table import RunTable, runs
from grpo_kit.widgets.sample_browser import SampleBrowser, samples

__all__ = ["LaunchPanel", "Monitor", "RunTable", "SampleBrowser", "launch_panel", "monitor", "runs", "samples"]
