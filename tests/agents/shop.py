"""An environment as TRL takes it: a shop whose stock is counted, with tools that fail and hang."""

import asyncio
import time


class Shop:
    def reset(self, id: str, **row) -> str:
        self.counted, self.order = [], id
        return f" (order {id})"

    def stock(self, item: str) -> int:
        """How much is left.

        Args:
            item: What is asked for.
        """
        self.counted.append(item)
        return {"tea": 4}[item]

    async def price(self, item: str) -> str:
        """What it costs.

        Args:
            item: What is asked for.
        """
        await asyncio.sleep(0)
        return f"${len(item)}"

    def wait(self) -> str:
        """Never answers."""
        time.sleep(60)
        return "at last"

    def get_reward(self) -> float:
        return float("tea" in self.counted)


class NoShop:
    """It has no reset."""


class Bare:
    def reset(self, **row): ...

    def stock(self, item):  # transformers wants types and a docstring
        return 1


class Closed(Shop):
    def __init__(self):
        raise OSError("no till")
