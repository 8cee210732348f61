"""The fixtures are in `tests/conftest.py`, because other rooms of the tests need a broker too."""

from tests.conftest import Vhost, new_vhost

__all__ = ["Vhost", "new_vhost"]
