"""For mkdocs: pages outside docs/ (README, ARCHITECTURE …) become pages of the site, and links between pages,
written so that they work in the repository, work in the site too. One more has what `--help` says."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.testing import CliRunner

from partymq.cli import app

ROOT: Final = Path(__file__).parents[1]
MOVED: Final = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "licence.md",
}
"""Where in the repository, where in the site; all others are under docs/ here and at the same place there."""
_REPOSITORY: Final = {site: here for here, site in MOVED.items()}
_CODE_OR_LINK: Final = re.compile(
    r"^```.*?^```|`[^`\n]+`|\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)", re.MULTILINE | re.DOTALL
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages from outside are added."""
    if (under_docs := files.get_file_from_path("README.md")) is not None:
        files.remove(under_docs)
    for here, site in MOVED.items():
        text = (ROOT / here).read_text(encoding="utf-8")
        if not here.endswith(".md"):
            text = f"# Licence\n\n```text\n{text}```\n"
        files.append(File.generated(config, site, content=text))
    files.append(File.generated(config, "commands.md", content=_commands()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to pages lead to where these are in the site; those to other files of the repository are text."""
    folder = posixpath.dirname(_REPOSITORY.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def at(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if target is None or "://" in target:
            return match[0]
        here = posixpath.normpath(posixpath.join(folder, target))
        site = MOVED.get(here, here.removeprefix("docs/"))
        if files.get_file_from_path(site) is None and (ROOT / here).exists():
            return text  # A file of the repository that is no page.
        return f"[{text}]({posixpath.relpath(site, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return _CODE_OR_LINK.sub(at, markdown)


def _commands() -> str:
    """The page of the commands."""
    page = ["# Commands", "What `partymq COMMAND --help` says."]
    for words in _names(app):
        shown = CliRunner().invoke(app, [*words, "--help"], prog_name="partymq", terminal_width=110)
        page += [f"## {' '.join(words)}", f"```text\n{shown.output.strip()}\n```"]
    return "\n\n".join(page) + "\n"


def _names(app: typer.Typer, *before: str) -> Iterator[list[str]]:
    """Commands, as they are typed. Their help is shown without boxes from then on."""
    app.rich_markup_mode = None
    for command in app.registered_commands:
        if command.callback is not None:
            yield [*before, command.name or command.callback.__name__]
    for group in app.registered_groups:
        if group.typer_instance is not None and group.name is not None:
            yield from _names(group.typer_instance, *before, group.name)
