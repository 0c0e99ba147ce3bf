"""What other libraries, papers and habit call the settings, and the commands."""

from collections.abc import Callable, Collection

_USUAL = {
    "model_name": "model model_id model_path model_name_or_path base_model",
    "data": "dataset dataset_name data_dir data_path train_file",
    "run_id": "run name run_name output_dir",
    "num_train_epochs": "epochs epoch num_epochs",
    "max_steps": "steps num_steps train_steps epochs epoch num_epochs",
    "learning_rate": "lr",
    "lr_scheduler_type": "scheduler lr_scheduler",
    "per_device_train_batch_size": "batch_size train_batch_size micro_batch_size bs",
    "gradient_accumulation_steps": "grad_accum grad_accum_steps accumulation_steps gradient_accumulation",
    "num_generations": "group_size num_rollouts num_samples n_samples",
    "max_completion_length": "max_new_tokens max_tokens max_length max_response_length completion_length",
    "max_prompt_length": "max_input_length prompt_length context_length",
    "beta": "kl kl_coef kl_coeff kl_beta",
    "epsilon": "clip clip_range clip_eps clip_epsilon",
    "lora_r": "lora_rank rank",
    "load_in_4bit": "qlora quantize quantization",
    "bf16": "dtype torch_dtype precision",
    "save_total_limit": "keep_checkpoints max_checkpoints",
    "max_usd": "budget max_cost max_dollars",
    "n": "num_prompts num_samples n_samples samples",
    "report_to wandb": "wandb use_wandb",
}
_COMMANDS = {"runs": "list ls status ps show", "eval": "evaluate test", "stop": "cancel kill", "delete": "rm remove"}
_COMMANDS |= {"export --to merged": "merge", "export": "convert", "push": "upload publish", "logs": "log tail"}
_COMMANDS |= {"train": "run start launch finetune fit", "chat": "ask generate", "doctor": "check validate"}
USUAL_COMMANDS = {usual: command for command, names in _COMMANDS.items() for usual in names.split()}
_SETTING = [(usual, name) for name, names in _USUAL.items() for usual in names.split()]


def by_usual_name(name: str, known: Collection[str], spelled: Callable[[str], str] = str) -> str:
    """ " Did you mean learning_rate?" for lr, where it is among `known`; empty for a name that is nobody's."""
    for usual, setting in _SETTING:
        if usual == name and setting.split()[0] in known:
            return f" Did you mean {spelled(setting)}?"
    return ""
