"""Whether TensorFlow Federated is there; asking does not load it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from fedfleet.wire.errors import SettingsError

PACKAGE = "tensorflow_federated"
INSTALL = "python3.11 -m venv .venv-tff && .venv-tff/bin/pip install --no-deps --require-hashes -r tests/lock-tff.txt"


def needed(what: str, python: tuple[int, ...] = sys.version_info[:2]) -> None:
    """Raise SettingsError that says how to get TensorFlow Federated for `what`, unless it is installed."""
    if find_spec(PACKAGE) is None:
        found = ".".join(map(str, python))
        why = "is not installed" if python <= (3, 11) else f"goes up to Python 3.11, and this is Python {found}"
        raise SettingsError(
            f"{what} needs TensorFlow Federated 0.87, which {why}: {INSTALL}, and run fedfleet there (docs/tff.md)"
        )
