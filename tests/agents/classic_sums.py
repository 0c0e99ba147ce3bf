"""Environments of verifiers up to 0.3: sums to do, with a tool, in talk, and one that rewrites what was said."""

import asyncio

import verifiers as vf
from datasets import Dataset

ROWS = [{"question": f"What is {i} plus 1?", "answer": str(i + 1)} for i in range(12)]


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: The first.
        b: The second.
    """
    print("adding")
    return a + b


MEETING = asyncio.Barrier(10)


async def meet() -> str:
    """Answers once ten rollouts ask."""
    await MEETING.wait()
    return "met"


async def right(completion, answer) -> float:
    return float(answer in (completion[-1].content or ""))


def rubric():
    return vf.Rubric(funcs=[right])


def tools():
    return vf.ToolEnv(dataset=Dataset.from_list(ROWS), tools=[add, meet], rubric=rubric(), max_turns=4)


class Talk(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **kwargs):
        return [vf.UserMessage(content="Are you sure?")]


def talk():
    return Talk(dataset=Dataset.from_list(ROWS), rubric=rubric(), max_turns=2)


class Forgetful(Talk):
    async def get_prompt_messages(self, state):
        return (await super().get_prompt_messages(state))[-1:]


def forgetful():
    return Forgetful(dataset=Dataset.from_list(ROWS), rubric=rubric(), max_turns=3)


class Broken(Talk):
    async def setup_state(self, state):
        raise KeyError("abacus")


def broken():
    return Broken(dataset=Dataset.from_list(ROWS), rubric=rubric())


class Silent(Talk):
    async def env_response(self, messages, state, **kwargs):
        await asyncio.sleep(60)


def silent():
    return Silent(dataset=Dataset.from_list(ROWS), rubric=rubric())
