"""What mkdocs.yml can't say: files outside docs/, formulas, the list of errors, and a last look at the site."""

import logging
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import errors  # noqa: E402

log = logging.getLogger("mkdocs.hooks.site")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files, config):
    """Adds CONTRIBUTING.md, CHANGELOG.md, the style sheet and the notebooks as they are committed."""
    own = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", HERE / "site.css", *sorted(ROOT.glob("notebooks/*.ipynb"))]
    for path in own:
        folder = HERE if path.parent == HERE else ROOT
        files.append(File(str(path.relative_to(folder)), str(folder), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, **_):
    parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.lstrip().startswith("```") else _prose(part) for part in parts)


def _prose(text):
    """What stands between blocks of code: links as the site has them, formulas as MathML, the list of errors."""
    text = text.replace("](../", "](").replace("](docs/", "](")
    text = re.sub(r"`docs/(\w+\.md)`", r"[\1](\1)", text)
    text = re.sub(r"^\$\$\n([^$]+)\n\$\$$", lambda found: convert(found[1], display="block"), text, flags=re.MULTILINE)
    # In a span, as a line that began with <math> would be a block.
    text = re.sub(
        r"(?<![\w$`])\$(\\?[A-Za-z][^$`\n]*)\$(?!\w)", lambda found: f"<span>{convert(found[1])}</span>", text
    )
    return text.replace(errors.PLACE, errors.as_html(errors.entries())) if errors.PLACE in text else text


def on_page_content(html, page, **_):
    """Links from notebooks are to notebooks and to docs/, as Jupyter opens them."""
    if page.file.src_uri.startswith("notebooks/"):
        html = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', html)
        html = re.sub(r'href="\.\./docs/(\w+)\.md', r'href="../\1.html', html)
    return html


def on_post_build(config):
    """Warns, which fails the build, of what a page would fetch, and of links to what is not there."""
    site = Path(config.site_dir)
    # Opened as a file, the theme's script ends where it finds no such index, and with it the button for the dark theme.
    index = site / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text()}")
    for page in site.rglob("*.html"):
        text = page.read_text()
        for tag, address in re.findall(r'<(script|link|img|iframe)\b[^>]*?\b(?:src|href)="(https?:[^"]+)"', text):
            log.warning("%s: a %s from the network: %s", page.relative_to(site), tag, address)
        for address in re.findall(r'<a\b[^>]*?href="([^"#?:]+)[#"]', text):
            if not (page.parent / address).exists() and page.name != "404.html":
                log.warning("%s: a link to %s, which is not there", page.relative_to(site), address)
