"""The settings of the judge."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from grpo_kit.config.base import AbsolutePath, Listed, Settings, judge, reward
from grpo_kit.errors import ConfigError
from grpo_kit.utils.text import did_you_mean

# All judges by name. A new one is a file with its class, and its entry here; one that is asked over the network has an
# entry in CLOUD as well. The class is imported when one is made: the libraries behind it take their time.
JUDGES = {
    "offline": "grpo_kit.judges.offline.judge:OfflineJudge",
    "gemini": "grpo_kit.judges.gemini:GeminiJudge",
    "openai": "grpo_kit.judges.openai:OpenAIJudge",
    "anthropic": "grpo_kit.judges.anthropic:AnthropicJudge",
    "reward_model": "grpo_kit.judges.reward_model:RewardModelJudge",
    "exact": "grpo_kit.judges.exact:ExactJudge",
    "reference": "grpo_kit.judges.reference:ReferenceJudge",
}
LADDER = "grpo_kit.judges.ladder:LadderJudge"  # of several of them, by names such as offline>gemini


class Cloud(NamedTuple):
    """A judge that is asked over the network."""

    keys: tuple[str, ...]  # environment variables; the first that is set has its key
    key_page: str  # where one gets a key


CLOUD = {
    "gemini": Cloud(("GEMINI_API_KEY", "GOOGLE_API_KEY"), "https://aistudio.google.com/apikey"),
    "openai": Cloud(("OPENAI_API_KEY",), "https://platform.openai.com/api-keys"),
    "anthropic": Cloud(("ANTHROPIC_API_KEY",), "https://console.anthropic.com/settings/keys"),
}
NEED_MODEL = {*CLOUD, "reward_model"}
_SHARED = "mode samples temperature prompt timeout max_retries max_in_flight requests_per_minute input_price"
_NAMED = re.compile(rf"(?:{'|'.join(JUDGES)})=")


def rungs(judges: Iterable[str | None]) -> list[str]:
    """The judges of JUDGES that these names mean, each once: of a ladder, such as offline>gemini, its rungs."""
    return list(dict.fromkeys(rung for name in judges if name for rung in name.split(">")))


def shared_rungs(judges: Iterable[str | None], others: Iterable[str | None]) -> str:
    """The judges that both mean, in words; "" where there is none."""
    return ", ".join(sorted({*rungs(judges)} & {*rungs(others)}))


def _known(name: str) -> str:
    found = [rung.strip().lower() for rung in name.split(">")]
    if len(set(found)) < len(found):
        raise ValueError("a ladder of judges, each once, such as offline>gemini")
    for rung in found:
        if rung not in JUDGES:
            hint = did_you_mean(rung, JUDGES)
            raise ValueError(f"one of {', '.join(JUDGES)}, or a ladder of them, such as offline>gemini.{hint}")
    return ">".join(found)


def _in_order(bounds: list[float]) -> list[float]:
    if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] <= 1:
        raise ValueError("two scores from 0 to 1, the lower one first, such as 0.2,0.8")
    return bounds


def _an_address(url: str) -> str:
    if not re.fullmatch(r"https?://[^@\s]+", url):
        raise ValueError("an address such as http://localhost:8000/v1, without a password, as settings are shown")
    return url


def check_ladder(name: str, bounds: Sequence[float]) -> None:
    """Raises ConfigError for a ladder with a rung that has only sure scores, 0 and 1, and so leaves nothing to the
    next."""
    for rung, above in pairwise(rungs([name])):
        if rung == "exact" and not {0, 1} & {*bounds}:
            what = (
                f"exact scores 0 or 1: with judge_ladder_bounds={bounds[0]:g},{bounds[1]:g} nothing goes up to {above}"
            )
            raise ConfigError(what, "With judge_ladder_bounds=0,0.5 it judges what exact calls wrong")


JudgeName = Annotated[str, AfterValidator(_known)]


class JudgeConfig(Settings):
    """How a model is asked, wherever one judges or writes rubrics. Keys come from the environment: see CLOUD."""

    renamed: ClassVar[Mapping[str, str]] = {
        f"gemini_{name}": f"judge_{name}" for name in [*_SHARED.split(), "output_price"]
    }

    judge_model: str | None = judge(
        None,
        "The model that judges; for reward_model a folder or a name on the hub. Several: openai=NAME,anthropic=NAME.",
        "step",
        "scale",
        min_length=1,
    )
    gemini_model: str = judge(
        "gemini-3.5-flash-lite",
        "The Gemini model to ask, if judge_model does not name it.",
        "step",
        "scale",
        min_length=1,
    )
    judge_base_url: Annotated[str, AfterValidator(_an_address)] | None = judge(
        None, "The server that judge=openai asks, such as http://localhost:8000/v1; None: OpenAI's.", "resume"
    )
    judge_mode: Literal["absolute", "group"] = judge(
        "absolute",
        "absolute: one call for each answer; group: one call for all answers to a prompt, compared.",
        "step",
        "judging",
        "scale",
    )
    judge_ladder_bounds: Annotated[Listed[float], AfterValidator(_in_order)] = judge(
        [0.2, 0.8],
        "For a ladder such as offline>gemini: answers with a score between these two go to the next judge.",
        "step",
        "judging",
        "scale",
    )
    judge_samples: PositiveInt = judge(1, "Judgements of each answer; the score is the mean.", "step", "judging", le=32)
    judge_temperature: NonNegativeFloat | None = judge(
        None, "The judge's sampling temperature; None: 0, or 1 if judge_samples is above 1.", "judging", le=2
    )
    judge_prompt: AbsolutePath | None = judge(
        None, "Your own prompt for the judge, a text file, in place of judges/chat/absolute.txt.", "judging", "scale"
    )
    judge_timeout: PositiveFloat = judge(
        30.0, "Seconds that a call waits for the server before it counts as failed.", "resume", le=600
    )
    judge_max_retries: NonNegativeInt = judge(5, "How often a call that failed is tried again.", "resume", le=20)
    judge_max_in_flight: PositiveInt = judge(
        32, "Calls at the same time, over all runs of a process.", "resume", le=256
    )
    judge_requests_per_minute: PositiveInt | None = judge(
        None, "Calls in any minute, over all runs of a process; None: no limit.", "resume"
    )
    judge_input_price: NonNegativeFloat | None = judge(
        None, "Dollars per million tokens read; None: as in grpo_kit/judges/chat/prices.json.", "resume"
    )
    judge_output_price: NonNegativeFloat | None = judge(
        None, "Dollars per million tokens written; None: as in grpo_kit/judges/chat/prices.json.", "resume"
    )
    gemini_sdk: Literal["auto", "google-genai", "google-generativeai"] = judge(
        "auto", "Google's library to use; auto: google-genai, if it is installed.", "resume"
    )
    cache_from: Listed[str] = reward(
        [], "Runs, folders or .sqlite files whose judgements are used again, not paid for again.", "resume", "judging"
    )

    @classmethod
    def present_names(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As Settings has it; where gemini is the only judge with a model, judge_model is gemini_model."""
        found = cls._renamed(settings)
        model = found.get("judge_model")
        if model is None or _NAMED.match(str(model)):
            return found
        if not {"judge", "second_judge"} & cls.model_fields.keys():  # whichever judge is made asks this model
            return {"gemini_model": model} | found
        asked = " ".join(str(found.get(each)) for each in ("judge", "second_judge", "simulated_user"))
        judges = {*re.findall(r"\w+", asked)} & NEED_MODEL or ({"gemini"} if "gemini_model" in found else set())
        return found | {"gemini_model": found.pop("judge_model")} if judges == {"gemini"} else found

    def model_of(self, judge: str) -> str:
        """The model that a judge of NEED_MODEL asks. Raises ConfigError where none is named."""
        named, given = {}, self.judge_model or ""
        if _NAMED.match(given):
            named = dict(part.strip().split("=", 1) for part in given.split(",") if "=" in part)
        usual = self.gemini_model.removeprefix("models/") if judge == "gemini" else None if named else given
        if not (model := named.get(judge) or usual):
            fix = f"Give judge_model={judge}=NAME beside the others" if named else "Give judge_model too"
            raise ConfigError(f"judge={judge} needs the name of a model", fix)
        return model
