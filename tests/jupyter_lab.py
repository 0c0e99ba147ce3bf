"""JupyterLab in a real browser, used as a person would use it: for the tests in widgets/test_browser.py.

Pictures, the server's log and the browser's complaints are kept in test-artifacts/.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Locator, Page, sync_playwright
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

ARTIFACTS = Path(__file__).parents[1] / "test-artifacts"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update
    --disable-sync""".split()
SECONDS = 300  # after which a test gives up on what hangs
SIZE = {"width": 1400, "height": 1800}

NOTEBOOK = "window.jupyterapp.shell.currentWidget"
# An idle kernel is not enough: before it has said who it is, what is run is lost.
IS_READY = f"""async name => {{
    const panel = {NOTEBOOK};
    if (panel?.context?.path !== name) return false;
    await Promise.all([panel.context.ready, panel.sessionContext.ready]);
    const kernel = panel.sessionContext.session?.kernel;
    if (!kernel) return false;
    await kernel.info;
    return true;
}}"""
CELLS = f"""() => {NOTEBOOK}.content.widgets.map(cell => ({{
    source: cell.model.sharedModel.getSource(),
    is_code: cell.model.type === "code",
    is_running: cell.model.executionState === "running",
    count: cell.model.executionCount ?? 0,
    outputs: cell.model.outputs?.toJSON() ?? [],
}}))"""
HAS_RUN = f"""index => {{
    const model = {NOTEBOOK}.content.widgets[index].model;
    return model.executionState !== "running" && model.executionCount !== null;
}}"""
IS_RUNNING = f"index => {NOTEBOOK}.content.widgets[index].model.executionState === 'running'"
# Each code cell from `first` on was run since `before`, or one of them failed and the rest were not.
ARE_DONE = f"""([first, before]) => {{
    const cells = {NOTEBOOK}.content.widgets.slice(first).map(cell => cell.model).filter(m => m.type === "code");
    const ran = cells.filter(m => (m.executionCount ?? 0) > before);
    const failed = ran.some(m => m.outputs.toJSON().some(output => output.output_type === "error"));
    return !cells.some(m => m.executionState === "running") && (failed || ran.length === cells.length);
}}"""

# The last step of a cell's live curves, where it is another than `old`.
OTHER_STEP = f"""async ([index, old]) => {{
    const step = {NOTEBOOK}.content.widgets[index].node.querySelector(".grpo-kit-curves")?.dataset.step;
    return step > 0 && step !== old && step;
}}"""
# Playwright's own wait_for_function does not ask a second time where the condition is a promise.
UNTIL = """async ([argument, patience]) => {
    const condition = %s, end = Date.now() + patience;
    for (;;) {
        const found = await condition(argument);
        if (found) return found;
        if (Date.now() > end) throw new Error(`waited ${patience} ms in vain for ${condition}`);
        await new Promise(done => setTimeout(done, 100));
    }
}"""
IS_DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass
class Cell:
    """A cell as it is shown, with its outputs in Jupyter's own format."""

    source: str
    is_code: bool
    is_running: bool
    count: int
    outputs: list[dict]

    @property
    def text(self) -> str:
        """All that it printed and returned, as text."""
        return "\n".join(
            "".join(output.get("text") or output.get("data", {}).get("text/plain") or output.get("traceback") or "")
            for output in self.outputs
        )

    @property
    def figures(self) -> list[str]:
        """Its pictures, as PNGs in base64."""
        return [output["data"]["image/png"] for output in self.outputs if "image/png" in output.get("data", {})]

    @property
    def failed(self) -> bool:
        return any(output["output_type"] == "error" for output in self.outputs)


class Lab:
    """A JupyterLab page and what a person does with it. `folder` is what JupyterLab shows."""

    def __init__(self, page: Page, folder: Path):
        self.page, self.folder = page, folder

    def open(self, name: str) -> None:
        """Opens a notebook of the folder and waits until its kernel answers."""
        self.page.locator(".jp-DirListing-item", has_text=name).dblclick()
        self._wait(IS_READY, name)

    def close(self) -> None:
        """Closes the notebook and ends its kernel."""
        end = "await p.context.save(); await p.sessionContext.shutdown(); p.dispose();"
        self.page.evaluate(f"async () => {{ const p = {NOTEBOOK}; {end} }}")

    def reload(self) -> None:
        """Loads the page anew; the notebook that was open comes back, its kernel too."""
        name = self.page.evaluate(f"{NOTEBOOK}.context.path")
        self.page.reload()
        self._wait(IS_READY, name)

    def restart_kernel(self) -> None:
        name = self.page.evaluate(f"{NOTEBOOK}.context.path")
        # What the menu's entry does; in the menu its name has the shortcut in it. It is over once the new kernel is
        # there: until then the old one still counts as ready, and what is sent to it is lost.
        self.page.evaluate("() => { window.restarted = jupyterapp.commands.execute('notebook:restart-kernel') }")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.evaluate("() => window.restarted")
        self._wait(IS_READY, name)

    def save(self) -> None:
        self.page.keyboard.press("Control+s")
        self._wait(f"() => !{NOTEBOOK}.context.model.dirty")

    def cells(self) -> list[Cell]:
        return [Cell(**cell) for cell in self.page.evaluate(CELLS)]

    def find(self, text: str) -> int:
        """The number of the code cell with `text` in it."""
        found = [number for number, cell in enumerate(self.cells()) if cell.is_code and text in cell.source]
        assert len(found) == 1, f"{len(found)} code cells with {text!r}"
        return found[0]

    def run_all(self) -> None:
        """Runs every cell and waits for the last, or for an error."""
        before = self._last_count()
        self._menu("Run", "Run All Cells")
        self._wait(ARE_DONE, [0, before])

    def run_from(self, index: int) -> None:
        """Runs a cell and all below, and waits for them."""
        before = self._last_count()
        self.show(index)
        self._editor(index).locator(".cm-line").last.click()
        self._menu("Run", "Run Selected Cell and All Below")
        self._wait(ARE_DONE, [index, before])

    def run(self, index: int) -> None:
        """Runs a cell, and waits for it."""
        self.show(index)
        self._editor(index).locator(".cm-line").last.click()
        self.page.keyboard.press("Control+Enter")
        self._wait(HAS_RUN, index)

    def add_cell(self, source: str) -> int:
        """Types a new last cell and starts it. Returns its number."""
        self.page.keyboard.press("Escape")
        index = len(self.cells())
        self.show(index - 1)
        # What is shown above may change its height just now: a mouse would then press here and let go elsewhere.
        self.page.locator(".jp-Notebook-footer:visible").dispatch_event("click")
        self._wait(f"index => {NOTEBOOK}.content.widgets.length > index", index)
        self._editor(index).locator(".cm-content").focus()
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Control+Enter")
        self._wait(IS_RUNNING, index)
        return index

    def is_running(self, index: int) -> bool:
        return self.page.evaluate(IS_RUNNING, index)

    def wait_for_cell(self, index: int) -> None:
        self._wait(f"index => !({IS_RUNNING})(index)", index)

    def replace_word(self, index: int, word: str, other: str) -> None:
        """Edits a cell: double-clicks `word`, types `other`."""
        self.show(index)
        self._editor(index).locator(".cm-line span", has_text=word).dblclick()
        self.page.keyboard.type(other)

    def show(self, index: int) -> None:
        """Scrolls to a cell."""
        self.page.evaluate(f"index => {NOTEBOOK}.content.scrollToItem(index, 'start')", index)

    def slider(self, name: str) -> Locator:
        """The handle of the slider with that label, to press keys on; its aria-valuenow is where it stands."""
        label = self.page.locator(".widget-label", has_text=re.compile(f"^{name}$"))
        return self.notebook.locator(".widget-slider").filter(has=label).locator(".noUi-handle")

    def button(self, name: str) -> Locator:
        return self.notebook.locator("button.widget-button", has_text=re.compile(f"^{name}$"))

    def next_picture(self, index: int, old: str = "") -> str:
        """Waits until a cell's live curves have another last step than `old`, and returns it."""
        return self._wait(OTHER_STEP, [index, old])

    @property
    def notebook(self) -> Locator:
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def theme(self, name: str) -> None:
        """JupyterLab's, such as "JupyterLab Dark"."""
        self.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        self._wait(f"() => document.body.dataset.jpThemeName === '{name}'")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def screenshot(self, name: str) -> None:
        self.page.evaluate(IS_DRAWN)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png")

    def _editor(self, index: int) -> Locator:
        return self.notebook.locator(f'.jp-Cell[data-windowed-list-index="{index}"] .jp-InputArea-editor')

    def _menu(self, menu: str, entry: str) -> None:
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_role("menuitem", name=entry, exact=True).click()

    def _last_count(self) -> int:
        return max(cell.count for cell in self.cells())

    def _wait(self, condition: str, argument=None):
        return self.page.evaluate(UNTIL % condition, [argument, SECONDS * 1000])


@contextmanager
def jupyter_lab(folder: Path, home: Path) -> Iterator[Lab]:
    """Starts JupyterLab on `folder`, with settings of its own in `home`, and Chromium on it; ends both."""
    ARTIFACTS.mkdir(exist_ok=True)
    with _server(folder, home) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=False)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(SECONDS * 1000)
        with (ARTIFACTS / "browser.log").open("w") as log:
            page.on("console", lambda said: said.type == "error" and print(said.text, file=log, flush=True))
            page.on("pageerror", lambda error: print(error, file=log, flush=True))
            page.goto(f"{url}/lab")
            yield Lab(page, folder)
            browser.close()


@contextmanager
def _server(folder: Path, home: Path) -> Iterator[str]:
    # JupyterLab would ask whether to fetch news.
    settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY"))}
    environment.pop("GEMINI_API_KEY", None)
    environment |= {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment |= {"GRPO_KIT_BACKEND": "local", "IPYTHONDIR": str(home / "ipython")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--no-browser --allow-root --expose-app-in-browser --port={port} --port-retries=0 --ip=127.0.0.1"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        *options.split(),
        "--IdentityProvider.token=",
        f"--notebook-dir={folder}",
    ]
    with (ARTIFACTS / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _answer(f"{url}/api")
            yield url
        finally:
            server.terminate()  # ends its kernels too
            server.wait(timeout=SECONDS)


@retry(stop=stop_after_delay(SECONDS), wait=wait_fixed(0.2), retry=retry_if_exception_type(URLError), reraise=True)
def _answer(url: str) -> None:
    urlopen(url).close()
