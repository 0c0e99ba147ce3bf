"""What OpenAI's and Anthropic's libraries, which one generator makes, have in common: errors and clients."""

import re
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from pydantic import SecretStr

from grpo_kit.errors import ConfigError
from grpo_kit.judges.chat.calls import on_thread, thread_transport
from grpo_kit.judges.chat.provider import CallFailed, Provider, Question, Reply, failure
from grpo_kit.utils.environment import version_of


class LibraryProvider(Provider):
    """Asks through such a library, which retries nothing here."""

    path: ClassVar[str]  # of its endpoint
    # Parts of a request that some models and servers refuse, which are then left out, by what their refusal names.
    optional: ClassVar[Mapping[str, str]]
    endpoint: ClassVar[str]  # the cloud's own

    def __init__(self, package: Any, client: type, key: SecretStr, address: SecretStr):
        """`client` is the library's plain one: its asynchronous one takes longer than threads. `address` may be empty.
        Raises ConfigError where it does not start."""
        self._key, self._refused = key, set[str]()
        transport = thread_transport()
        try:  # a redirect would take the key to another host
            own = transport(address.get_secret_value() or self.endpoint)
            http = package.DefaultHttpxClient(transport=own, follow_redirects=False)
        except Exception as error:  # such as for want of a certificate
            what = f"{package.__name__} can't be used ({type(error).__name__}: {error})"
            raise ConfigError(what, f"pip install --upgrade {package.__name__}") from None
        self._client: Any = client(
            api_key=key.get_secret_value(),
            base_url=address.get_secret_value() or self.endpoint,
            max_retries=0,
            http_client=http,
        )

    @abstractmethod
    def body(self, question: Question) -> dict[str, Any]:
        """The parts of a request beside model and messages."""

    @abstractmethod
    def reply(self, answer: dict[str, Any]) -> Reply:
        """What the model wrote. Raises CallFailed where that is nothing, anything where the answer is malformed."""

    @abstractmethod
    def there(self, model: str, seconds: float) -> list[str] | None:
        """As `lacks`; raises what the library does."""

    async def generate(self, model: str, question: Question, seconds: float) -> Reply:
        body = {"model": model, "messages": [{"role": "user", "content": question.prompt}], **self.body(question)}
        while True:
            asked = {name: value for name, value in body.items() if name not in self._refused}
            try:
                # Not by the endpoint's own method, whose conversions take as long as half of the rest of a call.
                post = partial(self._client.post, self.path, cast_to=object, body=asked, options={"timeout": seconds})
                answer = await on_thread(post)
                if not isinstance(answer, dict):
                    raise CallFailed("the answer is no JSON object", retry=True)
                return self.reply(answer)
            except CallFailed:
                raise
            except Exception as error:
                if not (refused := self._refused_in(error, asked)):
                    raise self._failed(error) from None
                self._refused |= refused

    async def lacks(self, model: str, seconds: float) -> list[str] | None:
        try:
            return await on_thread(partial(self.there, model, seconds))
        except Exception as error:
            raise self._failed(error) from None

    def schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """With its fields in the order to write them, and no others."""
        own = {**schema, **({"items": self.schema(schema["items"])} if "items" in schema else {})}
        if fields := schema.get("properties"):
            own["properties"] = {name: self.schema(fields[name]) for name in schema["required"]}
            own["additionalProperties"] = False
        return own

    def _refused_in(self, error: Exception, asked: dict[str, Any]) -> set[str]:
        """What the server refuses of an optional part of the request."""
        if getattr(error, "status_code", None) not in (400, 422):
            return set()
        said = getattr(error, "param", None) or str(error)
        return {name for name, pattern in self.optional.items() if name in asked and re.search(pattern, said)}

    def _failed(self, error: Exception) -> CallFailed:
        failed, said = failure(error, self._key), f"{error} {getattr(error, 'code', '')}"
        if failed.code == 402 or "insufficient_quota" in said or "credit balance is too low" in said:
            failed.quota = "the account's credit"
        elif failed.code == 429 and re.search(r"per day|\b[RT]PD\b", said):
            failed.quota = "the day's quota"
        return failed


def check_installed(package: str) -> None:
    """Raises ConfigError where a judge's library is not there."""
    if not version_of(package):
        raise ConfigError(f"judge={package} needs the package {package}", fix=f"pip install {package}")
