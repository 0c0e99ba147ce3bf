"""The documentation: its links lead somewhere, the list of errors is whole, and the API names what is public."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import grpo_kit as kit
from grpo_kit import plots, widgets

sys.path.append(str(ROOT / "scripts" / "site"))
import errors

MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")]


def prose_of(page: Path) -> str:
    """Its Markdown without blocks of code."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """As GitHub and mkdocs make them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    prose, broken = prose_of(page), []
    links = [
        *re.findall(r"\]\(([^)\s]+)\)", prose),
        *(f"/{path}" for path in re.findall(r"`(docs/[\w.]+\.md)`", prose)),
    ]
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = ROOT / path[1:] if link.startswith("/") else (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_error_is_listed_with_what_to_do():
    found, known = errors.entries(), errors.kinds(ast.parse(path.read_text()) for path in errors.KIT.rglob("*.py"))
    lines = {(entry.file, entry.line) for entry in found}
    raised = rf"raise (?:{'|'.join(known)})\((?:f?\"[^\"{{}}]*[a-z]{{4,}}|$)"
    for path in errors.KIT.rglob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(raised, line):
                assert (str(path.relative_to(errors.KIT)), number) in lines, f"{path}:{number} is not listed"
    assert not [f"{entry.file}:{entry.line} {entry.what}" for entry in found if not any(entry.fixes)]
    assert {entry.room for entry in found} == errors.ROOMS.keys()
    said = "no train.jsonl in {path}", ("`grpo-kit prepare TRACES --out data/processed` makes one from your traces",)
    assert said in [(entry.what, entry.fixes) for entry in found], "texts of several parts are put together"


def test_the_api_names_all_that_is_public():
    page = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"^::: grpo_kit\.([\w.]+)", page, re.MULTILINE)) | set(re.findall(r"heading: (\w+)", page))
    figures = [name for name, value in vars(plots).items() if callable(value)]
    public = [*kit.__all__, *(f"widgets.{name}" for name in widgets.__all__), *(f"plots.{name}" for name in figures)]
    assert not set(public) - listed


@pytest.mark.skipif(not MKDOCS.exists(), reason="`make docs` installs mkdocs")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [MKDOCS, "build", "--strict", "-f", "scripts/site/mkdocs.yml", "-d", tmp_path / "site"]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    text = (tmp_path / "site" / "troubleshooting.html").read_text()
    assert "<code>grpo-kit prepare TRACES --out data/processed</code> makes one from your traces" in text
    assert (tmp_path / "site" / "search" / "search_index.js").exists(), "else no button works in a page from disk"
    assert "<math" in (tmp_path / "site" / "concepts.html").read_text(), "formulas are drawn by the browser itself"
