"""What the documentation names is there: links, files, commands, settings, metrics, log events, states."""

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from fake_group import FakeGroup

from partymq.cli import app
from partymq.client.consumer import Consumer
from partymq.client.monitoring import ConsumerCollector
from partymq.config import load
from partymq.config.entry import Setting
from partymq.config.pull import PullGroupSettings
from partymq.config.settings import GroupSettings, Settings
from partymq.group.state import MemberState
from partymq.server.looplag import LoopLag
from partymq.server.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of one language."""
    return [code for word, code in FENCE.findall(text_of(page)) if word == language]


def code_of(page: Path) -> str:
    """All that is code: fenced, indented, or between backticks."""
    text = text_of(page)
    fenced = [code for _, code in FENCE.findall(text)]
    prose = FENCE.sub("", text)
    return "\n".join(
        [*fenced, *re.findall(r"^    .*", prose, re.MULTILINE), *re.findall(r"`([^`\n]+)`", prose)]
    )


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as they are linked to."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        kept = (char for char in plain if char in "-_ " or unicodedata.category(char)[0] in "LN")
        found.add("".join(kept).replace(" ", "-"))
    return found


def settings_of(section: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Setting]]:
    """Dotted names (within their group, where they are of one) and what is known of them."""
    for entry in fields(section):
        if nested := entry.metadata.get("section"):
            yield from settings_of(nested, (*path, entry.name))
        elif setting := entry.metadata.get("setting"):
            yield ".".join((*path, entry.name)), setting


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@each_page
def test_commands_exist(page: Path) -> None:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    named = set(
        re.findall(r"(?<!from )(?:^|(?<=[\s`=]))partymq ([a-z]+)(?=[\s`:]|$)", code_of(page), re.MULTILINE)
    )
    assert named <= commands


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for line in re.findall(r"^\s*make((?: [a-z-]+)+)", code_of(page), re.MULTILINE):
        for target in line.split():
            assert target in targets, f"make {target}"


@each_page
def test_files_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:partymq|tests|docs|scripts|\.ci)/[\w/.-]*)`", text_of(page)):
        assert (ROOT / name).exists(), name


def test_the_map_names_every_room() -> None:
    named = set(re.findall(r"^\| `partymq/(\w+)/` \|", text_of(ROOT / "ARCHITECTURE.md"), re.MULTILINE))
    assert named == {path.parent.name for path in (ROOT / "partymq").glob("*/__init__.py")}


@each_page
def test_toml_shown_can_be_used(page: Path, tmp_path: Path) -> None:
    for code in blocks(page, "toml"):
        file = tmp_path / "partymq.toml"
        file.write_text(code, encoding="utf-8")
        assert tomllib.loads(code)
        assert not load(file, {}).warnings


@each_page
def test_python_shown_is_python(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


def test_settings_in_the_readme_are_as_they_say() -> None:
    group = next(iter(Settings().groups.values()))
    known = {
        setting.env: name for section in (Settings, type(group)) for name, setting in settings_of(section)
    }
    rows = re.findall(
        r"^\| `(PARTYMQ_\w+)` \| `([\w.]+)` \| (.*?) \|", text_of(ROOT / "README.md"), re.MULTILINE
    )
    assert rows
    for env, name, default in rows:
        assert known.get(env) == name
        if value := re.fullmatch(r"`([^`]+)`", default):
            assert load(None, {env: value[1]}).settings == load(None, {}).settings, f"{env} is not {value[1]}"


WORKER_VARIABLES = set(re.findall(r'envvar="(\w+)"', text_of(ROOT / "partymq/cli/worker.py")))


@each_page
def test_environment_variables_exist(page: Path) -> None:
    sections = (Settings, GroupSettings, PullGroupSettings)
    known = {setting.env for section in sections for _, setting in settings_of(section)}
    named = set(re.findall(r"\bPARTYMQ_[A-Z_]*[A-Z]\b", text_of(page)))
    assert named <= known | {"PARTYMQ_CONFIG", "PARTYMQ_RABBITMQ_SERVER"} | WORKER_VARIABLES


@each_page
def test_metrics_exist(page: Path) -> None:
    shown = Metrics({"default": FakeGroup()}, LoopLag()).render("")[0].decode()
    consumer = Consumer("amqp://localhost", group="orders")
    shown += " ".join(
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in ConsumerCollector(consumer).collect()
    )
    for name in set(re.findall(r"\bpartymq_[a-z_]+[a-z]\b", text_of(page))):
        assert name in shown, name


def test_log_events_in_the_table_are_logged() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "partymq").rglob("*.py"))
    table = text_of(ROOT / "docs/operations.md").partition("\n## Logs\n")[2].partition("\n## ")[0]
    events = [
        event for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for event in cell.split(", ")
    ]
    assert events
    for event in events:
        assert f'"{event.strip("`")}' in source, event


def test_every_state_of_a_member_is_in_the_runbook() -> None:
    text = text_of(ROOT / "docs/operations.md").partition("\n### Members\n")[2].partition("\n### ")[0]
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) - {"state"} == {
        state.value for state in MemberState
    }
