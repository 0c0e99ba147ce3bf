"""One list of dependencies: environment.yml and the lock file say what pyproject.toml says; importing stays light."""

import importlib
import re
import subprocess
import sys
import tomllib

import yaml
from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What a machine without a GPU installs; llama.cpp, of the extra gguf, takes minutes to compile.
HERE = {name: wanted for name, wanted in EXTRAS.items() if name not in ("gpu", "gguf")}


def name_of(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def test_environment_yml_installs_this_package_on_a_python_it_allows():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert environment["channels"] == ["conda-forge"]
    assert "python=3.11" in conda and PROJECT["requires-python"].startswith(">=3.11")
    assert pip[0] in PROJECT["dependencies"], "torch comes first, pinned as in pyproject.toml"
    assert pip[1] == f"--editable .[{','.join(sorted(HERE))}]"
    assert len(pip) == 2, "what is needed stands in pyproject.toml alone"


def pins_of(lock: str) -> dict[str, str]:
    return dict(line.split("==") for line in (ROOT / lock).read_text().split())


def test_the_lock_pins_every_dependency_once_and_no_cuda():
    pins = pins_of("requirements.lock")
    wanted = {name_of(requirement) for group in [PROJECT["dependencies"], *HERE.values()] for requirement in group}
    assert wanted <= pins.keys(), f"not locked: {wanted - pins.keys()}; run make lock"
    assert f"torch=={pins['torch']}" in PROJECT["dependencies"]
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "triton"))]


def test_modals_image_has_the_versions_that_are_tested_here():
    here, on_modal = pins_of("requirements.lock"), pins_of("requirements-gpu.lock")
    assert {name_of(requirement) for requirement in EXTRAS["gpu"]} | {"torch", "trl"} <= on_modal.keys()
    assert {name: on_modal[name] for name in here.keys() & on_modal.keys()} == {
        name: here[name] for name in here.keys() & on_modal.keys()
    }


def test_importing_the_kit_loads_none_of_the_heavy_libraries():
    heavy = ["torch", "transformers", "trl", "datasets", "pandas", "matplotlib", "modal", "google.generativeai"]
    code = f"import grpo_kit, grpo_kit.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_of_settings_is_made_from_the_settings(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    table = importlib.import_module("settings_table").settings_table()
    assert table in (ROOT / "docs/settings.md").read_text(), "scripts/settings_table.py prints it anew"
