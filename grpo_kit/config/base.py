"""How settings are read: strict about names, errors that read as one sentence, values as a shell types them."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from grpo_kit.errors import ConfigError


class Settings(BaseModel):
    """What all configs share: strictness about names, and errors that read as one sentence."""

    # Built when first used, which keeps `import grpo_kit` quick.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), defer_build=True)
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **settings: Any):
        known = type(self).model_fields
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]}?" if near else f" The settings are: {', '.join(known)}."
                raise ConfigError(f"{name} is no setting of {type(self).__name__}.{hint}")
        try:
            super().__init__(**settings)
        except ValidationError as error:
            problems = []
            for problem in error.errors():
                name = str(problem["loc"][0]) if problem["loc"] else ""
                message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
                given = f"{name}={settings.get(name)!r}: should be " if name else ""
                problems.append(given + message)
            raise ConfigError("\n".join(dict.fromkeys(problems))) from None
        self._given = {name: getattr(self, name) for name in settings}

    def __eq__(self, other: object) -> bool:
        """Equal settings are equal, whether given or by default."""
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    def __repr__(self) -> str:
        """The Python that makes it: what was asked for."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were asked for, without defaults and recipes."""
        return dict(self._given)

    @classmethod
    def from_text(cls, flags: Mapping[str, str | None]) -> Self:
        """Settings as a shell gives them. Only what was typed counts, so that recipes fill in the rest."""
        given: dict[str, Any] = {name: text for name, text in flags.items() if text is not None}
        for name, text in given.items():
            if (
                text == "none"
                and name in cls.model_fields
                and type(None) in get_args(cls.model_fields[name].annotation)
            ):
                given[name] = None
        return cls(**given)

    def replace(self, **changes: Any) -> Self:
        """The same settings but for `changes`; checked as if typed anew."""
        return type(self)(**{**self._given, **changes})


def _weights(value: Any) -> Any:
    """ "gemini=0.7,offline=0.3", ["gemini"] or {"gemini": 0.7} -> weights by name; 1 where none is given."""
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    pairs = [str(part).partition("=") for part in parts]
    names = [name.strip() for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("names, each once")
    return {name.strip(): weight or 1.0 for name, _, weight in pairs}


def _paths(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _absolute(value: Any) -> Any:
    return str(Path(value).expanduser().resolve()) if isinstance(value, str | Path) else value


Weights = Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], BeforeValidator(_weights)]


def _reporters(value: Any) -> Any:
    return [] if value in (None, "none") else _paths(value)


Reporters = Annotated[list[Literal["trackio", "wandb", "tensorboard"]], BeforeValidator(_reporters)]
Paths = Annotated[list[str], BeforeValidator(_paths)]
AbsolutePath = Annotated[str, BeforeValidator(_absolute)]
