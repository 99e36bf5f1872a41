"""Build the documentation as a site: `make site` writes var/site, which needs neither server nor network.

The pages are files of this repository and are read there too, so they link to each other and to source files
by relative paths.  A site holds one folder of pages.  So they are laid out anew first: the README is the
first page, what lies outside `docs/` becomes a page or, where it is a source file, text beside the pages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
HOME = "index.md"
SETTINGS = "zensical.toml"
SECTIONS = {
    "Start": ["README.md", "docs/tutorial.md", "docs/how-to.md", "docs/concepts.md"],
    "The pipeline": [
        "docs/pipeline.md",
        "docs/features.md",
        "docs/labels.md",
        "docs/race.md",
        "docs/serving.md",
        "docs/semantics.md",
    ],
    "Watching": [
        "docs/watching.md",
        "docs/evaluation.md",
        "docs/behaviour.md",
        "docs/alerts.md",
        "docs/page.md",
    ],
    "Running": [
        "docs/operations.md",
        "docs/deploy.md",
        "docs/runbooks.md",
        "docs/scaling.md",
        "docs/reliability.md",
        "SECURITY.md",
        "docs/limits.md",
    ],
    "Reference": [
        "docs/cli.md",
        "docs/messages.md",
        "docs/clients.md",
        "docs/notebooks.md",
        "docs/metrics.md",
    ],
    "What it is worth": [
        "docs/benchmarks.md",
        "docs/loadtest.md",
        "docs/learning-results.md",
        "docs/drift-results.md",
    ],
    "The project": ["docs/architecture.md", "CONTRIBUTING.md", "CHANGELOG.md"],
    "Examples": [
        "examples/flights/README.md",
        "examples/fraud/README.md",
        "examples/bikes/README.md",
        "examples/drift/README.md",
        "examples/bandit/README.md",
        "examples/clients/README.md",
    ],
}
"""Which page stands where; a page that is not here is refused."""
LINK = re.compile(r"(?<!`)(\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCED = re.compile(r"(^```.*?^```\n)", re.MULTILINE | re.DOTALL)


def pages() -> list[str]:
    """Return every page, as a path from the checkout."""
    found = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("examples/*/README.md")]
    return sorted(str(path.relative_to(CHECKOUT)) for path in found)


def place(path: str) -> str:
    """Return where a file of the checkout lies in the site.

    >>> place("README.md"), place("docs/race.md"), place("examples/fraud/README.md")
    ('index.md', 'race.md', 'examples-fraud.md')
    >>> place("engine/worker/loop.py"), place("docs/page.webp")
    ('source/engine/worker/loop.py.txt', 'page.webp')
    """
    if path == "README.md":
        return HOME
    if path.endswith("/README.md"):
        return path.removesuffix("/README.md").replace("/", "-") + ".md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"source/{path}.txt"


def laid_out(path: str) -> tuple[str, set[str]]:
    """Return the text of a page with its links as they are in the site, and the files it leads to."""
    linked = set()

    def moved(match: re.Match[str]) -> str:
        opened, target, anchor, closed = match.groups()
        if "://" in target:
            return match[0]
        inside = os.path.normpath(Path(path).parent / target)
        linked.add(inside)
        return f"{opened}{place(inside)}{anchor or ''}{closed}"

    parts = FENCED.split((CHECKOUT / path).read_text())
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts), linked


def lay_out(source: Path) -> None:
    """Write all pages, and the files they lead to, into one folder."""
    shutil.rmtree(source, ignore_errors=True)
    for path in pages():
        text, linked = laid_out(path)
        for file, content in [(path, text), *((one, None) for one in sorted(linked) if one not in pages())]:
            target = source / place(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                target.write_text(content)
            elif (CHECKOUT / file).is_file():
                shutil.copy(CHECKOUT / file, target)


def configuration() -> str:
    """Return the settings of the site.  Raises ValueError where a page has no section."""
    placed = [path for section in SECTIONS.values() for path in section]
    if lost := set(pages()) - set(placed):
        raise ValueError(f"pages without a section, add them to SECTIONS: {', '.join(sorted(lost))}")
    sections = {
        title: ", ".join(f'"{place(path)}"' for path in section if (CHECKOUT / path).exists())
        for title, section in SECTIONS.items()
    }
    nav = ",\n".join(f'  {{"{title}" = [{places}]}}' for title, places in sections.items())
    return f"""[project]
site_name = "Headrace"
site_description = "Streaming real-time inference and continual learning on Kafka with River."
docs_dir = "site-pages"
site_dir = "site"
use_directory_urls = false
nav = [
{nav},
]

[project.theme]
font = false
features = ["navigation.sections", "navigation.top", "toc.follow", "content.code.copy"]
"""


def built(folder: Path) -> int:
    """Make `folder`/site of the pages there; return the builder's exit code, not 0 for a link to nowhere."""
    zensical = Path(sys.executable).with_name("zensical")
    command = [str(zensical), "build", "--clean", "--strict", "--config-file", str(folder / SETTINGS)]
    return subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603 - this environment's own


def build(folder: Path) -> int:
    """Lay out the pages in `folder` and make its site; return the builder's exit code."""
    lay_out(folder / "site-pages")
    (folder / SETTINGS).write_text(configuration())
    return built(folder)


if __name__ == "__main__":
    var = CHECKOUT / "var"
    var.mkdir(exist_ok=True)
    sys.exit(build(var))
