"""An environment as TRL takes it: a shop whose stock is counted, with tools that fail and hang."""

import asyncio
import sqlite3
import sys
import threading
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

    async def leave(self) -> str:
        """Ends Python."""
        sys.exit(1)

    def get_reward(self) -> float:
        return float("tea" in self.counted)


class Ledger:
    """Its database belongs to one thread, and it has no tools that answer anything else."""

    def __init__(self):
        self.sales = sqlite3.connect(":memory:")

    async def reset(self, **row):
        print("opening")
        self.loop = asyncio.get_running_loop()

    async def count(self) -> str:
        """How many were sold."""
        assert self.loop is asyncio.get_running_loop()
        return str(self.sales.execute("select 7").fetchone()[0])

    def get_reward(self) -> None:
        self.sales.close()


class Mute:
    def reset(self, **row): ...


class Stuck(Shop):
    def reset(self, **row):
        time.sleep(60)


class Undecided(Shop):
    def get_reward(self) -> float:
        time.sleep(60)
        return 1.0


class Party:
    """Whoever comes waits for three, at the door, at the table and when it pays."""

    together = threading.Barrier(3, timeout=20)

    def reset(self, id: str, **row):
        self.place = int(id) + 0 * self.together.wait()

    def meet(self) -> int:
        """Who it is, once all three are there."""
        print("all are here")
        return self.place + 0 * self.together.wait()

    def get_reward(self) -> float:
        return self.place + 0.0 * self.together.wait()


class NoShop:
    """It has no reset."""


class Alone:
    def reset(self): ...


class Bare:
    def reset(self, **row): ...

    def stock(self, item):  # transformers wants types and a docstring
        return 1


class Closed(Shop):
    def __init__(self):
        raise OSError("no till")
