"""The names of the library as tools show them: `help`, completion, type checkers."""

import pydoc
import subprocess
import sys

import partymq


def test_help_shows_every_name_of_the_library() -> None:
    told = pydoc.plain(pydoc.render_doc(partymq))
    for name in partymq.__all__:
        if not name.startswith("_"):
            assert f"class {name}(" in told, name
    assert set(partymq.__all__) <= set(dir(partymq))


def test_a_library_name_is_imported_only_when_it_is_asked_for() -> None:
    program = "import sys, partymq; dir(partymq); print('partymq.client' in sys.modules)"
    told = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True).stdout
    assert told == "False\n"
