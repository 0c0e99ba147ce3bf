"""`kit.quote`: what a run will do, need and cost, and what stands in its way, before it does."""

from contextlib import suppress
from pathlib import Path

from grpo_kit.backends.doctor import checks_of
from grpo_kit.backends.start import known_here
from grpo_kit.config.backend import chosen_backend
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.preflight.check import quote_remaining
from grpo_kit.preflight.quote import Quote
from grpo_kit.runs.directory import RUNS_DIR
from grpo_kit.runs.resume import config_to_resume


def quote(
    config: TrainConfig | None = None,
    runs_dir: str | Path = RUNS_DIR,
    backend: str | None = None,
    by: str | None = None,
    ask: bool = True,
) -> Quote:
    """Says what a run with these settings will do, need and cost, and what stands in its way; see Quote.

    It takes seconds, in which data, hub, Modal and judge are asked as a launch asks them; without `ask` milliseconds.
    Times come from earlier runs under `runs_dir` where they fit, or from the one that is called `by` alone. `backend`:
    "local" or "modal"; None: the chosen one. A run that exists already is quoted for the steps that are left (on Modal
    only with `ask`). Print it, or leave it as a cell's last line.
    """
    config = config or TrainConfig()
    on_modal, status = (backend or chosen_backend()) == "modal", {}
    with suppress(ConfigError, RunError):  # the quote of what was asked for has it as a problem
        if not on_modal:
            if known := known_here(config.run_id, Path(runs_dir)):
                config, status = config_to_resume(known, config), known.status
        elif ask:
            from grpo_kit.backends.modal.storage import known_on_modal

            if known := known_on_modal(config.run_id):  # whose data has another name there
                config, status = config_to_resume(known, config, check=False), known.status
    checks = tuple(checks_of(config, on_modal)) if ask else ()
    return quote_remaining(config, status, runs_dir, on_modal, by, checks)
