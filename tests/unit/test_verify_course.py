"""What a run of chaos or soak makes of what it found."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from verify.command import main, parser
from verify.course import Ending, Outcome, Plan


@dataclass
class Found:
    repeats: int = 0
    broken: dict[str, list[str]] = field(default_factory=lambda: {"lost": [], "out of order": []})

    def violations(self) -> dict[str, list[str]]:
        return self.broken


def outcome(
    found: Found | None = None, *, stuck: object = None, failed: tuple[str, ...] = (), planned: bool = False
) -> Outcome:
    plan = Plan(60, 7, planned=planned)
    return Outcome(plan, found or Found(), {"kill_member": 3}, 70, Ending(4, stuck), list(failed), ["more"])


def test_a_run_holds_where_nothing_was_found():
    assert outcome(Found(repeats=5)).held
    assert str(outcome()).endswith("the promises were kept")


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (outcome(Found(broken={"lost": ["3/4"]})), "lost: 1\n    3/4"),
        (outcome(stuck={"members": []}), 'stuck: {"members": []}'),
        (outcome(failed=("pod-1 ended with 1",)), "failed: 1\n    pod-1 ended with 1"),
        (outcome(Found(repeats=1), planned=True), "a planned change repeats nothing"),
    ],
)
def test_a_run_does_not_hold_and_says_why(broken: Outcome, why: str):
    assert not broken.held
    assert why in str(broken)
    assert str(broken).endswith("the promises were BROKEN")


def test_a_run_that_failed_says_how_to_start_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(plan: Plan, *_: object) -> Outcome:
        return outcome(failed=(f"seed {plan.seed}, {plan.seconds:g} s",))

    command = parser("verify", "about", pause=3.0)
    arguments = ["--seconds=5", f"--keep={tmp_path / 'run'}", "--planned"]
    assert main(command, run, arguments) == 1
    said = capsys.readouterr().out
    seed = said.split("seed ")[1].split(";")[0]
    assert f"seed {seed}, 5 s" in said
    assert f"again: python -m verify --seed={seed} --seconds=5 --planned; logs" in said


def test_a_run_that_held_leaves_nothing_but_what_is_to_be_kept(tmp_path: Path) -> None:
    folders: list[Path] = []

    def run(_plan: Plan, _options: object, folder: Path, _log: object) -> Outcome:
        folders.append(folder)
        (folder / "notes").touch()
        return outcome()

    command = parser("verify", "about", pause=3.0)
    assert main(command, run, ["--seed=1"]) == 0
    assert main(command, run, ["--seed=1", f"--keep={tmp_path}"]) == 0
    assert [folder.exists() for folder in folders] == [False, True]
    with pytest.raises(SystemExit):  # not empty any more
        main(command, run, ["--seed=1", f"--keep={tmp_path}"])
