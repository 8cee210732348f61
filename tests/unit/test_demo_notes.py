"""What the outsiders write is what the demo reads; what makes no sense is no proof."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from partymq.demo import notes as room
from partymq.demo.notes import BEGIN, END, LEFT, READY, Delivery, Growing, Note, WorkerNotes, deliveries
from partymq.demo.run import OUTSIDER
from partymq.demo.ways import coordinator_epoch


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script, OUTSIDER / f"{script}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_layout_is_the_one_of_the_outsiders():
    for worker in (load("worker"), load("pull_worker")):
        for name in ("READY", "BEGIN", "END", "LEFT", "REDELIVERED", "STALE"):
            assert getattr(worker, name) == getattr(room, name)
        assert worker.RECORD.format == room._WORKER.format
    for publisher in (load("publisher"), load("pull_publisher")):
        assert publisher.NOTE.format == room._PUBLISHER.format


def test_the_outsiders_import_nothing_of_ours():
    for script in ("worker", "publisher"):
        text = (OUTSIDER / f"{script}.py").read_text()
        assert "import partymq" not in text
        assert "from partymq" not in text


def test_the_outsiders_with_the_library_import_its_face_and_no_more():
    for script in ("pull_worker", "pull_publisher"):
        text = (OUTSIDER / f"{script}.py").read_text()
        assert [line.split()[1] for line in text.splitlines() if "import" in line and "partymq" in line] == [
            "partymq"
        ]


def test_work_is_one_on_average_and_the_same_on_every_worker():
    effort, of_the_other = load("worker").effort, load("pull_worker").effort
    efforts = [effort(number) for number in range(20_000)]
    assert efforts == [of_the_other(number) for number in range(20_000)]
    assert sum(efforts) / len(efforts) == pytest.approx(1.0, abs=0.05)
    assert min(efforts) > 0
    assert effort(7) == effort(7)


def test_a_record_that_is_written_in_part_waits_for_its_rest(tmp_path: Path):
    path = tmp_path / "notes"
    growing = Growing(path, 4)
    assert growing.more() == b""
    path.write_bytes(b"abcdef")
    assert growing.more() == b"abcd"
    assert growing.more() == b""
    path.write_bytes(b"abcdefgh")
    assert growing.more() == b"efgh"


def test_the_notes_of_a_worker_are_counted_as_they_come(tmp_path: Path):
    notes = WorkerNotes(tmp_path / "notes")
    assert notes.refresh() == []
    records = [(READY, 0, 0, 0, 5), (BEGIN, 0, 0, 3, 6), (END, 2, 0, 3, 7), (LEFT, 0, 0, 0, 8)]
    (tmp_path / "notes").write_bytes(b"".join(room._WORKER.pack(*record) for record in records))
    assert [note.kind for note in notes.refresh()] == [READY, BEGIN, END, LEFT]
    assert (notes.ready_at, notes.ended) == (5, 1)
    assert deliveries("w", notes.notes) == [Delivery("w", 3, 6, 7, stale=True)]


def test_a_delivery_without_an_end_stays_open():
    assert deliveries("w", [Note(BEGIN, 1, 3, 6)]) == [Delivery("w", 3, 6, None, redelivered=True)]


def test_the_deliveries_of_a_worker_that_has_several_in_hand():
    notes = [
        Note(BEGIN, 0, 1, 5),
        Note(BEGIN, 0, 2, 6),
        Note(BEGIN, 0, 3, 7),
        Note(END, 0, 2, 8),
        Note(END, 0, 1, 9),
        Note(BEGIN, 1, 3, 10),
    ]
    assert deliveries("w", notes, concurrent=True) == [
        Delivery("w", 2, 6, 8),
        Delivery("w", 1, 5, 9),
        Delivery("w", 3, 7, None),
        Delivery("w", 3, 10, None, redelivered=True),
    ]


def test_who_coordinates_is_read_off_the_workers_logs():
    began = "2026-01-01 00:00:00,000 INFO coordinating group='flights' epoch=3 generation=7"
    again = "2026-01-01 00:00:09,000 INFO coordinating group='flights' epoch=12 generation=9"
    assert coordinator_epoch("") == 0
    assert coordinator_epoch(f"something else epoch=9\n{began}\n") == 3
    assert coordinator_epoch(f"{began}\n{again}\n") == 12


@pytest.mark.parametrize(
    "notes",
    [
        [Note(BEGIN, 0, 1, 5), Note(BEGIN, 0, 2, 6)],
        [Note(END, 0, 1, 5)],
        [Note(BEGIN, 0, 1, 5), Note(END, 0, 2, 6)],
        [Note(BEGIN, 0, 1, 5), Note(END, 0, 1, 4)],
    ],
    ids=["two at once", "end without begin", "another's end", "end before begin"],
)
def test_notes_that_make_no_sense_are_refused(notes: list[Note]):
    with pytest.raises(ValueError, match="w "):
        deliveries("w", notes)
