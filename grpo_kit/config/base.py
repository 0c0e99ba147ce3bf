"""How settings are declared and read: strict about names, errors of one sentence, values as a shell types them."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo

from grpo_kit.config.usual_names import by_usual_name
from grpo_kit.errors import ConfigError, SecretGiven
from grpo_kit.utils.text import did_you_mean
from grpo_kit.utils.yaml_text import read_yaml

# The groups of the launch panel, in its order; the first is open, the others are folded.
Group = Literal[
    "Run",
    "Batches and lengths",
    "GRPO",
    "LoRA and 4 bits",
    "Warm start",
    "Optimiser",
    "Reward",
    "Judge",
    "Saving and reports",
    "Memory and machine",
]
Role = Literal[
    "resume",  # a run may be resumed with another value, as no score depends on it
    "spread",  # how a step's completions are spread over passes and processes, which resuming may change as well
    "step",  # seconds and memory of a step don't compare between runs that differ in it
    "size",  # seconds of a step grow with it
    "memory",  # the peak of memory doesn't compare between runs that differ in it
    "scale",  # rewards don't compare between runs that differ in it
    "judging",  # how answers are judged; of no meaning where a model writes rubrics
]


def setting(
    default: Any,
    description: str,
    *roles: Role,
    group: Group = "Memory and machine",
    slider: tuple[int, int] | list[float] | None = None,
    suggested: Sequence[str] = (),
    **constraints: Any,
) -> Any:
    """Declares a setting with all that the rooms ask about it; `constraints` are those of pydantic's Field.

    slider: the usual range in the launch panel, or its positions; a value outside widens it.
    suggested: texts that the launch panel offers.
    """
    about = {"roles": roles, "group": group, "slider": slider, "suggested": suggested}
    return Field(default, description=description, json_schema_extra=about, **constraints)


run, batches = partial(setting, group="Run"), partial(setting, group="Batches and lengths")
grpo, lora, optimiser = (partial(setting, group=group) for group in ("GRPO", "LoRA and 4 bits", "Optimiser"))
reward, judge, warm = (partial(setting, group=group) for group in ("Reward", "Judge", "Warm start"))
saving = partial(setting, group="Saving and reports")


def about(field: FieldInfo) -> dict[str, Any]:
    """The roles, group, slider and suggested texts that a setting was declared with."""
    return cast(dict, field.json_schema_extra)


def names_where(model: type["Settings"], *roles: Role) -> tuple[str, ...]:
    """The model's settings that have one of these roles."""
    return tuple(name for name, field in model.model_fields.items() if set(roles) & set(about(field)["roles"]))


class Settings(BaseModel):
    """The base of all configs: strict about names, with errors that read as one sentence."""

    # Built when first used, which keeps `import grpo_kit` quick.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    renamed: ClassVar[Mapping[str, str]] = {}  # present names by former ones, which keep working

    def __init__(self, **settings: Any):
        settings = self.present_names(settings)
        try:
            super().__init__(**settings)
        except ValidationError as invalid:
            errors = invalid.errors()
            if not errors[0]["loc"]:  # settings that do not go together
                raise errors[0].get("ctx", {})["error"] from None
            told = {str(error["loc"][0]): self._told(error, settings) for error in errors}
            raise ConfigError("\n".join(told.values())) from None
        self._given = {name: getattr(self, name) for name in settings}

    @classmethod
    def present_names(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a config under their present names. Raises as `_renamed` does."""
        return cls._renamed(settings)

    @classmethod
    def _renamed(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Some settings under their present names. Raises ConfigError for one that is given under both."""
        found: dict[str, Any] = {}
        for name, value in settings.items():
            present = cls.renamed.get(name, name)
            if present in found:
                former = next(former for former, now in cls.renamed.items() if now == present)
                raise ConfigError(f"{former} is the old name of {present}, and both are given", "Leave one out")
            found[present] = value
        return found

    @classmethod
    def names(cls) -> set[str]:
        """All names that are taken: the settings' own and former ones."""
        return {*cls.model_fields, *cls.renamed}

    @classmethod
    def _told(cls, error: Any, settings: dict[str, Any]) -> str:
        name, known = str(error["loc"][0]), cls.model_fields
        if name not in known:
            return cls._no_setting(name)
        allowed = re.sub("^(Input should|String should|Value error,) ", "", error["msg"])
        allowed = f"be {allowed}" if error["type"] == "value_error" else allowed
        value = re.sub(r"//[^/]*@", "//…@", repr(settings.get(name)))  # no password of a URL
        return f"{name}={value}: should {allowed}"

    @classmethod
    def _no_setting(cls, name: str, whose: str = "", beside: Collection[str] = ()) -> str:
        known = [*cls.model_fields, *beside]
        hint = by_usual_name(name, known) or did_you_mean(name, known) or " docs/settings.md lists all"
        return f"{name} is no setting of {whose or cls.__name__}.{hint}"

    def __eq__(self, other: object) -> bool:
        """Equal settings are equal, whether given or by default."""
        return isinstance(other, Settings) and type(self) is type(other) and self.model_dump() == other.model_dump()

    def __repr__(self) -> str:
        """The Python that makes it: what was asked for."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were asked for, without defaults and recipes."""
        return dict(self._given)

    @classmethod
    def from_text(cls, flags: Mapping[str, str | None], found: Mapping[str, Any] | None = None) -> Self:
        """Settings as a shell gives them, and those `found` in a file where there is no flag. Only what was given
        counts, so that recipes fill in the rest. Raises ConfigError."""
        given = cls.present_names({name: text for name, text in flags.items() if text is not None})
        for name in given.keys() & cls.model_fields.keys():
            if given[name] == "none" and type(None) in get_args(cls.model_fields[name].annotation):
                given[name] = None
        return cls(**{**(found or {}), **given})

    @classmethod
    def from_file(cls, file: str | Path, **settings: Any) -> Self:
        """The settings of a YAML or JSON file, and `settings` in place of those that it has too. Raises ConfigError for
        what is no setting or cannot work, and OSError for a file that can't be read."""
        return cls(**{**cls.found_in(file), **cls.present_names(settings)})

    @classmethod
    def found_in(cls, file: str | Path, whose: str = "", beside: Collection[str] = ()) -> dict[str, Any]:
        """A file's settings by their present names, and what it has of the options `beside` them, with values as they
        stand there. `whose` they are is what an error says in place of the model's name."""
        try:
            found = read_yaml(Path(file).read_text())
        except ValueError as error:
            raise ConfigError(f"{file} is not YAML or JSON: {error}", "Correct that line") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{file} holds no settings", "Write one a line, such as max_steps: 40")
        found = cls.present_names(found)
        for name in map(str, found):
            if name not in cls.model_fields and name not in beside:
                raise ConfigError(f"{file}: {cls._no_setting(name, whose, beside)}")
        return found

    def replace(self, **changes: Any) -> Self:
        """The same settings but for `changes`; checked as if typed anew."""
        return type(self)(**{**self.given, **self._renamed(changes)})


def _weights(value: Any) -> Any:
    """ "gemini=0.7,offline=0.3", ["gemini"] or {"gemini": 0.7} -> weights by name; 1 where none is given."""
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    pairs = [str(part).partition("=") for part in parts]
    names = [name.strip() for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("names, each once")
    for name, _, weight in pairs:
        if ">" in weight:  # of a ladder's first judge
            number, _, above = map(str.strip, weight.partition(">"))
            raise ValueError(f"names with weights after them: {name.strip()}>{above}={number}")
    return {name.strip(): weight or 1.0 for name, _, weight in pairs}


def _mapping(value: Any) -> Any:
    """ "{enable_thinking: true}", as YAML or JSON write it, or "enable_thinking=true" -> {"enable_thinking": True}."""
    if not isinstance(value, str):
        return value
    text = value.strip().removesuffix("none")
    with suppress(ValueError):
        found = read_yaml(text if text.startswith("{") else "{" + text.replace("=", ": ") + "}")
        if None not in found.values():  # as where the space after a colon is missing
            return found
    raise ValueError("a mapping such as {enable_thinking: true}, with a blank after the colon")


# The words of a chat template, or of transformers' apply_chat_template, that the kit gives itself.
_KITS_WORDS = {*"messages conversation tools chat_template add_generation_prompt continue_final_message".split()}
_KITS_WORDS |= {*"tokenize padding truncation max_length return_tensors return_dict tokenizer_kwargs".split()}


def _not_the_kits(words: dict[str, Any]) -> dict[str, Any]:
    if own := sorted(_KITS_WORDS & words.keys()):
        raise ValueError(f"words of the model's chat template, and {', '.join(own)} the kit gives itself")
    return words


def _listed(value: Any) -> Any:
    if value in (None, "none"):
        return []
    if not isinstance(value, str):
        return value
    parts = value.strip().removeprefix("[").removesuffix("]").split(",")
    return [part.strip() for part in parts if part.strip()]


def _absolute(value: Any) -> Any:
    return str(Path(value).expanduser().resolve()) if isinstance(value, str | Path) else value


def _run_name(value: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ValueError("at most 100 letters, digits, dots, dashes and underscores, the first a letter or a digit")
    return value


Name = TypeVar("Name")
RunName = Annotated[str, AfterValidator(_run_name)]
Weights = Annotated[dict[Name, float], BeforeValidator(_weights)]
Mapped = Annotated[dict[str, Any], BeforeValidator(_mapping), AfterValidator(_not_the_kits)]
Listed = Annotated[list[Name], BeforeValidator(_listed)]  # "a,b" as a shell types it
AbsolutePath = Annotated[str, BeforeValidator(_absolute)]


def check_variable(notify: Any) -> None:
    """Raises SecretGiven for a webhook's URL in place of the variable that holds it."""
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", str(notify or "NONE")):
        raise SecretGiven(
            "notify should be the name of an environment variable, in capitals. A webhook's URL is a secret, and "
            "settings are written down",
            "`export GRPO_KIT_NOTIFY_URL=https://…`, and notify=GRPO_KIT_NOTIFY_URL",
        )
