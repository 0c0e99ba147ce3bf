"""The settings that a model needs other than TrainConfig's defaults. A setting that the user gives always wins."""

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "max_steps": 40,
        "learning_rate": 2e-3,
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 28,
        "save_steps": 20,
        "torch_threads": 1,
    },
    "tiny-agent": {
        "environment": "replay",
        "data": "demo-calls",
        "max_steps": 60,
        "learning_rate": 2e-3,
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "max_completion_length": 128,
        "save_steps": 30,
        "torch_threads": 1,
    },
    "SmolLM2-135M-Instruct": {
        "learning_rate": 6e-4,
        "temperature": 0.6,  # at 1 this 4-bit copy of a small model writes little but noise
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "max_prompt_length": 128,
        "max_completion_length": 32,
    },
}
