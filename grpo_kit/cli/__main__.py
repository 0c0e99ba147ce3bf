"""`python -m grpo_kit.cli`: the same as `grpo-kit`."""

from grpo_kit.cli import main

main()
