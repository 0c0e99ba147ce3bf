"""Tasksets of verifiers from 0.4 on: sums to do, without and with a server of tools."""

import verifiers.v1 as vf


class Data(vf.TaskData):
    answer: str


class Calculator(vf.Toolset[vf.ToolsetConfig, vf.State]):
    TOOL_PREFIX = "calc"

    @vf.tool
    def add(self, a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b


class Sum(vf.Task[Data, vf.State, vf.TaskConfig]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(self.data.answer in (trace.last_reply or ""))


class Sums(vf.Taskset[Sum, vf.TasksetConfig]):
    def load(self):
        return [
            Sum(Data(prompt=f"What is {i} plus 1?", system_prompt="Be short.", answer=str(i + 1))) for i in range(12)
        ]


class SumWithTools(Sum):
    @classmethod
    def toolsets(cls, config):
        return [Calculator(vf.ToolsetConfig())]


class SumsWithTools(vf.Taskset[SumWithTools, vf.TasksetConfig]):
    def load(self):
        return [SumWithTools(each.data) for each in Sums(vf.TasksetConfig()).load()]


if __name__ == "__main__":
    Calculator.run()
