"""A pretended chat model that writes rubrics and judges by them, for want of a real one.

    .venv/bin/python tests/rubric_judge.py --port 8765

A rubric asks for what the person's reply names, three words a clause. An answer scores the mean, over the clauses, of
the share of a clause's words that stand in it: other words for the same earn nothing, unlike by a real one.
"""

import argparse
import json
import re

from judge_server import JudgeServer, Reply, Request, says

SHORT = 3  # letters of the longest word that says nothing by itself
STOP = "that this with your have would there from which what when they them then than about into also will".split()


def words(text: str) -> list[str]:
    found = (word.strip(".,") for word in re.findall(r"[\w£$€.,:-]+", text.lower()))
    return [word for word in found if (len(word) > SHORT and word not in STOP) or re.search(r"\d", word)]


def part(prompt: str, name: str) -> str:
    """What stands between the tags of that name."""
    found = re.search(rf"<{name}(?: \d+)? (\w+)>\n(.*?)\n</{name}(?: \d+)? \1>", prompt, re.DOTALL)
    return found[2] if found else ""


def clauses(reply: str) -> list[str]:
    named = list(dict.fromkeys(words(reply)))[:18]
    return [f"mention {', '.join(named[i : i + 3])}" for i in range(0, len(named), 3)] or ["answer briefly"]


def verdict(rubric: str, answer: str, number: int) -> dict:
    said, criteria, scores = set(words(answer)), [], []
    for clause in filter(None, (each.strip() for each in rubric.split(";"))):
        asked = words(clause.removeprefix("mention "))
        share = sum(word in said for word in asked) / max(1, len(asked))
        criteria.append({"criterion": clause, "met": "yes" if share == 1 else "partly" if share else "no"})
        scores.append(share)
    score = round(sum(scores) / max(1, len(scores)), 3)
    analysis = f"It has {score:.0%} of the words asked for."
    return {"analysis": analysis, "answer": number, "criteria": criteria, "score": score}


def reply(request: Request) -> Reply:
    if '"criteria": a list of one to six' in request.prompt:
        return says(json.dumps({"criteria": clauses(part(request.prompt, "reply"))[:6]}))
    rubric = part(request.prompt, "criteria")
    each = [verdict(rubric, text, number) for number, text in enumerate(request.replies, 1)]
    return says(json.dumps({"answers": each} if request.is_group else each[0]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    server = JudgeServer(reply, parser.parse_args().port)
    print(server.url, flush=True)
    server.serve_forever()
