"""Figures find their place in a document."""

from pathlib import Path

import pytest

from bench.places import Place

ROOT = Path(__file__).parents[2]
TEXT = """# Benchmarks

<!-- figures: make bench -->

- old

<!-- end of figures: make bench -->

<!-- figures: make bench-consume -->
<!-- end of figures: make bench-consume -->

## How
"""
REPORT = "# Title\n\n- date: today\n\n## Targets\n\n| a |\n\n"


def test_a_report_takes_the_place_of_the_one_before_and_of_nothing_else(tmp_path: Path):
    path = tmp_path / "benchmarks.md"
    path.write_text(TEXT)
    place = Place(path, "make bench")
    place.put("# Title\n\nanother\n")
    place.put(REPORT)
    begin, end = "<!-- figures: make bench -->", "<!-- end of figures: make bench -->"
    before, _, after = TEXT.partition("- old")
    assert path.read_text() == f"{before}- date: today\n\n### Targets\n\n| a |{after}"
    assert begin in before
    assert end in after
    Place(path, "make bench-consume").put(REPORT)
    assert path.read_text().count("### Targets") == 2
    assert path.read_text().endswith("\n## How\n")


def test_a_file_without_that_place_is_refused_before_anything_is_measured(tmp_path: Path):
    path = tmp_path / "benchmarks.md"
    with pytest.raises(ValueError, match="No such file"):
        Place(path, "make bench")
    path.write_text(TEXT.replace("end of figures: make bench -->", ""))
    with pytest.raises(ValueError, match="has no lines"):
        Place(path, "make bench")
    Place(path, "make bench-consume")


@pytest.mark.parametrize("command", ["make bench", "make bench-consume"])
def test_the_document_has_the_places(command: str):
    Place(ROOT / "docs" / "benchmarks.md", command)
