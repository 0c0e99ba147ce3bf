"""Every error of the kit with its fix, read from the code that raises it: docs/troubleshooting.md on the site.

    python scripts/site/errors.py

An error is a call such as `raise RunError("what is wrong", "what to do")`, of a class in grpo_kit/errors.py or one made
from it; a `Problem` is what a check reports. The texts are the code's own: what it fills in stands in braces.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from itertools import groupby, product
from pathlib import Path

KIT = Path(__file__).parents[2] / "grpo_kit"
MOST = 12  # texts of one expression
PLACE = "<!-- the list of errors -->"  # in docs/troubleshooting.md
ROOMS = {
    "agents": "Agents that call tools",
    "backends": "Launching and watching runs, here and on Modal",
    "cli": "The command line",
    "config": "Settings",
    "costs": "Budgets",
    "data": "Data",
    "errors.py": "Runs under way",
    "evaluation": "Evaluations",
    "judges": "Judges",
    "models": "Models",
    "plots": "Figures",
    "preflight": "Checks before a run",
    "rewards": "Rewards of your own",
    "runs": "Run folders",
    "sweeps": "Sweeps",
    "training": "Training",
    "utils": "Files",
    "widgets": "Widgets",
}


@dataclass(frozen=True)
class Entry:
    """One text of one call."""

    kind: str  # the class: ConfigError, Problem …
    what: str
    fixes: tuple[str, ...]  # one of them is said
    file: str  # below grpo_kit/
    line: int

    @property
    def room(self) -> str:
        return self.file.partition("/")[0]


def entries() -> list[Entry]:
    """All errors and problems, in the order of rooms, files and lines."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(KIT.rglob("*.py"))}
    known, constants = kinds(trees.values()), {}
    for node in (node for tree in trees.values() for node in tree.body):
        constants |= {name: value for name, value in _assigned(node) if name.isupper()}
    return [entry for path, tree in trees.items() for entry in _in_file(path, tree, known, constants)]


def kinds(trees: Iterable[ast.Module]) -> set[str]:
    """The names of Problem, KitError and all classes made from KitError."""
    found = {"Problem", "KitError"}
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    for _ in range(3):  # a class may be made from one that comes later
        found |= {each.name for each in classes if any(getattr(base, "id", "") in found for base in each.bases)}
    return found


def _in_file(path: Path, tree: ast.Module, known: set[str], constants: Mapping[str, ast.expr]) -> Iterator[Entry]:
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        kind = getattr(call.func, "id", "")
        own = next((each.name for each in classes if each.lineno <= call.lineno <= (each.end_lineno or 0)), "")
        if ast.unparse(call.func) == "super().__init__":  # a class whose text is always the same
            kind = own if own != "KitError" else ""
        if kind not in known or not call.args:
            continue
        around = [scope for scope in scopes if scope.lineno <= call.lineno <= (scope.end_lineno or 0)]
        given = {word.arg: word.value for word in call.keywords}
        fix = given.get("fix") or (call.args[1] if len(call.args) > 1 else ast.Constant(""))
        texts = Texts(constants, tree, around, call.lineno)
        fixes = [text for text in texts.of(fix) if text]
        for what in texts.of(call.args[0]):
            told = fixes
            if not fixes and "; " in what:  # "stopped at step 3; run_id first resumes it" says both in one
                what, _, both = what.rpartition("; ")
                told = [both]
            if _has_words(what):  # else it hands another error on
                yield Entry(kind, what, tuple(told), str(path.relative_to(KIT)), call.lineno)


class Texts:
    """What an expression may say at a line, by the assignments before it in the functions around it and the module."""

    def __init__(self, constants: Mapping[str, ast.expr], tree: ast.Module, around: list, line: int):
        self._named: dict[str, ast.expr] = dict(constants)
        columns: dict[str, int] = {}
        below = [node for scope in around for node in ast.walk(scope) if getattr(node, "lineno", line) <= line]
        for node in sorted([*tree.body, *below], key=lambda node: (node in below, getattr(node, "lineno", 0))):
            for name, value in _assigned(node):
                if isinstance(node, ast.AugAssign) and name in self._named:
                    before, column = self._named[name], columns.get(name, 0)
                    longer = ast.BinOp(before, ast.Add(), value)  # where it stands further in, it may be left out
                    value = ast.IfExp(value, longer, before) if node.col_offset > column else longer
                self._named[name], columns[name] = value, getattr(node, "col_offset", 0)

    def of(self, node: ast.expr, depth: int = 0) -> list[str]:
        """At most MOST texts, of which one is said."""
        deeper = depth + 1
        match node:
            case ast.Constant(value):
                return [str(value)]
            case ast.JoinedStr(values):
                return _products([self.of(each, deeper) for each in values])
            case ast.FormattedValue(value):
                return self.of(value, deeper) if self._is_text(value) else [_slot(value)]
            case ast.BinOp(left, ast.Add(), right):
                return _products([self.of(left, deeper), self.of(right, deeper)])
            case ast.IfExp(body=body, orelse=other):
                return _unique([*self.of(body, deeper), *self.of(other, deeper)])
        if depth < 6 and (meant := self._meant(node)):
            return self.of(meant, deeper)
        return [_slot(node)]

    def _meant(self, node: ast.expr) -> ast.expr | None:
        """What was assigned to the name; of an attribute only where it is another module's constant."""
        match node:
            case ast.Name(name):
                return self._named.get(name)
            case ast.Attribute(attr=name) if name.isupper():
                return self._named.get(name)
        return None

    def _is_text(self, node: ast.expr) -> bool:
        """Whether what stands in braces is a text of the kit's own, not a value."""
        match node:
            case ast.Constant(value):
                return isinstance(value, str)
            case ast.JoinedStr():
                return True
            case ast.IfExp(body=body, orelse=other):
                return self._is_text(body) and self._is_text(other)
        meant = self._meant(node)
        return isinstance(meant, ast.Constant | ast.JoinedStr | ast.IfExp) and self._is_text(meant)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Assign([ast.Name(name)], value) | ast.NamedExpr(ast.Name(name), value):
            yield name, value
        case ast.AugAssign(ast.Name(name), ast.Add(), value):
            yield name, value
        case ast.Assign([ast.Tuple(names)], ast.Tuple(values)):
            pairs = zip(names, values, strict=True)
            yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


def _has_words(text: str) -> bool:
    return bool(re.search("[a-z]", re.sub(r"{[^}]*}", "", text)))


def _products(parts: list[list[str]]) -> list[str]:
    return _unique("".join(each) for each in product(*parts))[:MOST]


def _unique(texts) -> list[str]:
    return list(dict.fromkeys(texts))


def _slot(node: ast.AST) -> str:
    """What the code fills in, by its name: "{run.id}"."""
    text = ast.unparse(node)
    return "{" + (text if re.fullmatch(r"[\w.]+", text) else "…") + "}"


def as_html(found: list[Entry]) -> str:
    """A heading for each room, in Markdown, and below it a table of texts and fixes."""
    parts = []
    for room, entries in groupby(found, lambda entry: entry.room):
        rows = _unique(f"<tr><td>{_cell(each.what)}</td><td>{_fix(each.fixes)}</td></tr>" for each in entries)
        head = "<table><thead><tr><th>what it says</th><th>what to do</th></tr></thead><tbody>"
        parts.append(f"### {ROOMS[room]}\n\n{head}\n{chr(10).join(rows)}\n</tbody></table>\n")
    return "\n".join(parts)


def _fix(fixes: Iterable[str]) -> str:
    """Fixes that the code works out have no words here."""
    return "<br>or: ".join(_cell(fix) for fix in fixes if _has_words(fix)) or "The message names it, with values"


def _cell(text: str) -> str:
    """What is filled in in italics, what stands in backticks as code."""
    text = escape(text, quote=False).replace("\n", " ").replace(".__name__}", "}")
    text = re.sub(r"{([\w.…]+)}", lambda slot: f"<em>{slot[1].rpartition('.')[2]}</em>", text)
    return re.sub("`(.+?)`", r"<code>\1</code>", text)


if __name__ == "__main__":
    for entry in entries():
        print(f"{entry.what}\n    {' / '.join(entry.fixes)}")
