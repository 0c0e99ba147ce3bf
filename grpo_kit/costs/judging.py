"""Forecasts of what judges cost, and a model that speaks for users: their calls, by an earlier run's price of one or by
the list's."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import mean

from grpo_kit.agents.episodes import USER, episodes
from grpo_kit.agents.user import SAID
from grpo_kit.config.environment import RULES, as_user, engines
from grpo_kit.config.judge import CLOUD, rungs
from grpo_kit.config.train import TrainConfig
from grpo_kit.costs.earlier import EarlierRun
from grpo_kit.costs.ranges import Estimate, times, total
from grpo_kit.data.demo import data_folder
from grpo_kit.data.samples import read_samples
from grpo_kit.errors import KitError
from grpo_kit.judges.chat.prices import judge_price, prices_of, unknown_price

TOKENS_ASKED, TOKENS_WRITTEN = 560, 160  # of a judgement: chat/absolute.txt at 4 letters a token, and a rubric
ALIKE = ("judge_model", "gemini_model", "judge_mode", "num_generations", "judge_input_price", "judge_output_price")
ALIKE += ("environment", "judge_replies", "simulated_user", "simulated_user_model")
USER_ASKED, USER_WRITTEN = 460, 40  # of what a user says: agents/asked_user.txt, with a goal
USUAL_REPLIES = 6.0  # of a dialogue with a user, where the data is not here


def judge_calls(config: TrainConfig, measured: int = 0) -> int:
    """Calls to judges in the whole run, without retries, and for so many prompts whose difficulty is measured before;
    answers that are equal count each. Of a dialogue with a user all its replies are judged, as many as in the trace."""
    held_out = config.evaluations() * config.eval_prompts
    answers = (answers_made(config) - held_out + measured * config.num_generations) // _in_a_call(config) + held_out
    each = replies_in_each(config) if config.judge_replies == "all" else 1
    return round(len(config.cloud_judges) * answers * config.judge_samples * each)


def _in_a_call(config: TrainConfig) -> int:
    """Answers that are judged together: replies of dialogues never are, as each has a conversation of its own."""
    return config.num_generations if config.judge_mode == "group" and not config.environment else 1


def answers_made(config: TrainConfig) -> int:
    """Completions of the whole run, those of held-out prompts among them."""
    made = config.completions_per_step * -(-config.max_steps // config.num_iterations)
    return made + config.evaluations() * config.eval_prompts


def user_calls(config: TrainConfig) -> int:
    """Calls to a model that speaks for users: after each reply of the trace but the last."""
    if config.simulated_user == RULES:
        return 0
    return round(answers_made(config) * max(1.0, replies_in_each(config) - 1))


def replies_in_each(config: TrainConfig) -> float:
    """The assistant's replies in a dialogue, as the traces have them: the mean."""
    if config.environment != USER:
        return 1.0
    try:
        train = data_folder(config.data) / "train.jsonl"
        return min(config.max_tool_calling_iterations, _replies(train, train.stat().st_mtime_ns))
    except (KitError, OSError):
        return USUAL_REPLIES


@lru_cache(8)
def _replies(path: Path, modified: int) -> float:
    return mean(len(each.columns[SAID]) for each in episodes(list(read_samples(path)), USER, str(path)))


def judge_usd(config: TrainConfig, runs: Sequence[EarlierRun], measured: int = 0) -> Estimate:
    """Dollars for judges and for a model that speaks for users; (0, 0, 0) where none is paid. Without canaries; what a
    cache holds or a ladder settles below is not taken off."""
    calls, said = judge_calls(config, measured), user_calls(config)
    if not calls and not said:
        return Estimate((0.0, 0.0, 0.0), "")
    # Of a ladder only the first rung is asked about every answer.
    surely = len(CLOUD.keys() & {name.split(">")[0] for name in config.judge}) / max(1, len(config.cloud_judges))
    told = f"{calls:,} calls" if surely == 1 else f"at most {calls:,} calls, if every answer goes up the ladder"
    told = " and ".join([told] * bool(calls) + [f"{said:,} calls for what users say"] * bool(said))
    for run in runs:
        same_judges = CLOUD.keys() & rungs(run.settings["judge"]) == {*config.cloud_judges}
        if run.usd and same_judges and run.has_same(config, ALIKE):
            usd = run.usd / run.calls
            least = 0.7 * (surely * calls + said) / (calls + said)
            source = f"{told}; ${usd:.2g} a call, as in {run.id}"
            return Estimate(times((calls + said) * usd, (least, 1, 1.2)), source)
    as_asked, user = as_user(config), config.simulated_user
    if unknown := unknown_price(config, config.cloud_judges) or unknown_price(as_asked, [user]):
        return Estimate(None, f"{unknown.what}: g{unknown.fix[1:]}")
    answers, judging, speaking, assumed = _in_a_call(config), 0.0, 0.0, []
    if calls:
        read = TOKENS_ASKED + (config.max_prompt_length + config.max_completion_length * (answers + 1)) // 2
        tokens = read, TOKENS_WRITTEN * answers
        judging = calls * mean(_usd(judge_price(config, judge), tokens) for judge in config.cloud_judges)
        assumed.append(f"{tokens[0]:,} tokens read and {tokens[1]:,} written a call")
    if said:
        tokens = USER_ASKED + config.max_completion_length // 2, USER_WRITTEN
        speaking = said * _usd(judge_price(as_asked, user), tokens)
        assumed.append(f"{tokens[0]:,} and {tokens[1]:,} tokens a call for a user")
    source = f"{told}; assumed: {', '.join(assumed)}, without thinking"
    dates = ", ".join(dict.fromkeys(prices_of(judge)["as_of"] for judge in engines(config)))
    source += "" if config.judge_input_price is not None else f", prices of {dates}"
    most = 3 if config.environment == USER else 2  # dialogues of a model that is not good yet are longer
    return Estimate(total(times(judging, (0.5 * surely, 1, most)), times(speaking, (0.5, 1, most))), source)


def _usd(price: tuple[float | None, float | None], tokens: tuple[int, int]) -> float:
    return (tokens[0] * (price[0] or 0.0) + tokens[1] * (price[1] or 0.0)) / 1e6
