"""The settings of an evaluation."""

from pydantic import NonNegativeFloat, NonNegativeInt

from grpo_kit.config.base import Mapped, run
from grpo_kit.config.environment import Environment, Replies, Speaker
from grpo_kit.config.judge import JudgeConfig, JudgeName
from grpo_kit.config.modal import ModalConfig
from grpo_kit.config.train import Auto, Count, Tokens


class EvalConfig(JudgeConfig, ModalConfig):
    """How checkpoints are compared with the base model."""

    n: int = run(128, "Held-out prompts, the same for every model.", ge=1)
    temperature: NonNegativeFloat | None = run(
        None, "Sampling temperature; 0 takes the likeliest token; None: as the run was trained.", le=5
    )
    seed: NonNegativeInt = run(7, "Chooses the prompts and the random numbers, the same for every model.", lt=2**32)
    batch_size: Count = run(32, "Prompts decoded together; vLLM decides that itself.")
    use_vllm: bool | Auto = run("auto", "Generate with vLLM; auto: on a GPU, if it is installed.")
    max_prompt_length: Tokens | None = run(None, "Tokens; None: as the run was trained.", ge=16)
    max_completion_length: Tokens | None = run(None, "Tokens; None: as the run was trained.")
    chat_template_kwargs: Mapped | None = run(
        None, "Options of the chat template, such as {enable_thinking: true}; None: as the run was trained."
    )
    judge: JudgeName | None = run(
        None, "Who scores, such as offline or gemini; None: the run's own judge (its weightiest)."
    )
    second_judge: JudgeName | None = run(
        "reference", "A second judge the run was not trained with; reference: words shared with the trace's reply."
    )
    environment: Environment = run(
        None, "Who answers tool calls: replay, user or module:Class; None: as the run was trained."
    )
    simulated_user: Speaker | None = run(
        None, "Who speaks as the simulated user: rules, gemini, openai or anthropic; None: as the run was trained."
    )
    simulated_user_model: str | None = run(None, "The model that does; None: as the run was trained, or as judged.")
    judge_replies: Replies | None = run(
        None, "Replies of a dialogue with a user that are judged: all or last; None: as the run was trained."
    )
    data: str | None = run(None, "Folder of eval.jsonl; None: the data the run was trained on.")
