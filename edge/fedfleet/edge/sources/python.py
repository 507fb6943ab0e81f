"""A function of the owner's as a source: his sensors, his windows, his labels.

What it raises ends the collector with a traceback in the agent's log; the agent starts it again after a pause.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.edge.data import Store
from fedfleet.edge.sources.settings import Python
from fedfleet.wire.errors import DataError, SettingsError
from fedfleet.wire.examples import Examples, convert


class PythonSource:
    """One function, called again and again."""

    def __init__(self, settings: Python, beside: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Import the function that `settings` names from the folder `beside`. Raises SettingsError."""
        self._name = settings.callable
        self._every = settings.every
        self._clock = clock
        self._function = _function(settings.callable, beside)
        self._called: float | None = None
        self._waiting: Examples | None = None

    def poll(self, store: Store) -> int:
        """Call the function if it is time, and store what it returns before it is called again."""
        now = self._clock()
        if self._waiting is None and (self._called is None or now - self._called >= self._every):
            self._called = now
            self._waiting = self._examples(self._function())
        if self._waiting is None:
            return 0
        try:
            store.append(self._waiting)
        except DataError as error:
            self._waiting = None
            raise DataError(f"{self._name}: {error}") from None
        examples, self._waiting = self._waiting, None
        return len(examples.y)

    def _examples(self, found: Any) -> Examples | None:
        if found is None:
            return None
        if not isinstance(found, tuple) or len(found) != 2:
            raise DataError(f"{self._name} returned a {type(found).__name__}: return arrays (x, y), or None")
        x, y = (np.asarray(part) for part in found)
        if x.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
            raise DataError(f"{self._name} returned {x.dtype} and {y.dtype}: return arrays of numbers")
        return convert(x, y, self._name) if y.shape[:1] != (0,) else None


def _function(name: str, beside: Path) -> Callable[[], Any]:
    """The function `module:function`, its module beside the settings or installed; raises SettingsError."""
    module, _, function = name.partition(":")
    sys.path.insert(0, str(beside))
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise SettingsError(f"source.python.callable: {error}; put {module}.py into {beside}, or correct it") from None
    if not callable(found):
        raise SettingsError(f"source.python.callable: {module} has no function {function}")
    return found  # type: ignore[no-any-return]
