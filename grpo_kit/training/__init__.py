"""The GRPO run: planned, launched, trained by TRL, and diagnosed."""
