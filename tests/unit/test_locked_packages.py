"""The lock files say what pyproject.toml asks for, and name no place to download from."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = ROOT / "requirements.lock"
DEVELOPMENT = ROOT / "requirements-dev.lock"


def locked(path: Path) -> dict[str, str]:
    """Package to version; a package with several lines, one a platform, is there once."""
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE | re.IGNORECASE))


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (RUNTIME, PROJECT["dependencies"]),
        (DEVELOPMENT, [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]),
    ],
    ids=["runtime", "development"],
)
def test_every_dependency_is_locked_as_asked_for(path: Path, wanted: list[str]) -> None:
    versions = locked(path)
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{path.name} lacks {name}: make lock"
        assert requirement.specifier.contains(versions[name], prereleases=True), f"{path.name}: make lock"


def test_development_has_the_same_versions_as_run_time() -> None:
    assert locked(RUNTIME).items() <= locked(DEVELOPMENT).items()


@pytest.mark.parametrize("path", [RUNTIME, DEVELOPMENT], ids=["runtime", "development"])
def test_each_package_has_hashes_and_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    for block in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[a-z0-9._-]+==\S+", block, re.IGNORECASE), block
        assert "--hash=sha256:" in block, block
