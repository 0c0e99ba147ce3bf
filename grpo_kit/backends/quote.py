"""`kit.quote`: what a run will do, need and cost, and what stands in its way, before it does."""

from contextlib import suppress
from pathlib import Path

from grpo_kit.backends.doctor import what_it_needs
from grpo_kit.config.backend import chosen_backend
from grpo_kit.config.train import TrainConfig
from grpo_kit.errors import ConfigError, RunError
from grpo_kit.preflight.check import quote_remaining
from grpo_kit.preflight.quote import Quote
from grpo_kit.runs.directory import RUNS_DIR, RunDirectory, is_run
from grpo_kit.runs.resume import to_go_on_with, with_settings_of


def quote(
    config: TrainConfig | None = None,
    runs_dir: str | Path = RUNS_DIR,
    backend: str | None = None,
    by: str | None = None,
    ask: bool = True,
) -> Quote:
    """What a run with these settings will do, need and cost, and what stands in its way; see Quote.

    It takes seconds, in which data, hub, Modal and judge are asked as a launch asks them; without `ask` milliseconds.
    Times come from earlier runs under `runs_dir` where they fit, or from the one that is called `by` alone. `backend`:
    "local" or "modal"; None: the chosen one. Of a run that is there already it is what is left of it (on Modal only
    with `ask`). Print it, or leave it as a cell's last line.
    """
    config = config or TrainConfig()
    on_modal, status = (backend or chosen_backend()) == "modal", {}
    with suppress(ConfigError, RunError):  # which is a problem in the quote of what was asked for
        if known := _known(config.run_id, runs_dir, on_modal, ask):
            own = to_go_on_with if on_modal else with_settings_of  # whose data is named otherwise there
            config, status = own(known, config), known.status
    checks = tuple(what_it_needs(config, on_modal)) if ask else ()
    return quote_remaining(config, status, runs_dir, on_modal, by, checks)


def _known(run_id: str | None, runs_dir: str | Path, on_modal: bool, ask: bool) -> RunDirectory | None:
    if not on_modal:
        return RunDirectory(run_id, runs_dir) if run_id and is_run(Path(runs_dir) / run_id) else None
    if not ask:
        return None
    from grpo_kit.backends.modal.storage import known_on_modal

    return known_on_modal(run_id)
