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
    own = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", HERE / "site.css", *sorted(ROOT.glob("notebooks/*.ipynb"))]
    for path in own:
        folder = HERE if path.parent == HERE else ROOT
        files.append(File(str(path.relative_to(folder)), str(folder), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown, page, **_):
    markdown = markdown.replace("](../", "](").replace("](docs/", "](")
    markdown = re.sub(r"`docs/(\w+\.md)`", r"[\1](\1)", markdown)
    markdown = re.sub(
        r"^\$\$\n(.+?)\n\$\$$", lambda found: convert(found[1], display="block"), markdown, flags=re.S | re.M
    )
    markdown = re.sub(r"(?<![\w$`])\$(\\?[A-Za-z][^$`\n]*)\$(?![\w$`])", _inline, markdown)
    if errors.PLACE in markdown:
        markdown = markdown.replace(errors.PLACE, errors.as_html(errors.entries()))
    return markdown


def _inline(formula):
    return f"<span>{convert(formula[1])}</span>"  # a line that began with <math> would be a block


def on_page_content(html, page, **_):
    """Links from notebooks are to notebooks and to docs/, as Jupyter opens them."""
    if page.file.src_uri.startswith("notebooks/"):
        html = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', html)
        html = re.sub(r'href="\.\./docs/(\w+)\.md', r'href="../\1.html', html)
    return html


def on_post_build(config):
    """Warns, which fails the build, of what a page would fetch, and of links to what is not there."""
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        text = page.read_text()
        for tag, address in re.findall(r'<(script|link|img|iframe)\b[^>]*?\b(?:src|href)="(https?:[^"]+)"', text):
            if 'rel="canonical"' not in tag:
                log.warning("%s: a %s from the network: %s", page.relative_to(site), tag, address)
        for address in re.findall(r'<a\b[^>]*?href="([^"#?:]+)[#"]', text):
            if not (page.parent / address).exists() and page.name != "404.html":
                log.warning("%s: a link to %s, which is not there", page.relative_to(site), address)
