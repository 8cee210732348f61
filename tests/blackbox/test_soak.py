"""A short soak: members of the library under random faults keep every promise."""

from pathlib import Path

import pytest

from verify.pull.run import PullPlan, pull_summary, run_pull


@pytest.mark.timeout(300)
def test_a_pull_group_keeps_its_promises_under_faults(tmp_path: Path) -> None:
    plan = PullPlan(seconds=15.0, seed=1, pause=1.0, rate=150.0)
    outcome = run_pull(plan, tmp_path, print)
    assert outcome.held, pull_summary(plan, outcome)
