"""Prints the table of docs/settings.md: every setting of a training run, with its default and what it is."""

from grpo_kit.config.tables import defaults_of, fields_of
from grpo_kit.config.train import TrainConfig


def settings_table() -> str:
    settings = fields_of(TrainConfig).items()
    rows = [f"| `{name}` | {defaults_of(TrainConfig, name)} | {field.description} |" for name, field in settings]
    return "\n".join(["| setting | default | what it is |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(settings_table())
