"""How far a job has come, on the disk: its weights, its optimizer and its place in the data, after every epoch.

It is `tf.train.CheckpointManager` and not Keras's BackupAndRestore, which goes with `fit` alone, and which asks several
workers for a folder that all of them share. TensorFlow is loaded here.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import tensorflow as tf

from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError, StoreError

FACTS = "job.json"
KEPT = 2


class Backups:
    """The backups of one job in `folder`. `parts` are what has a state: trackables of TensorFlow, by name."""

    def __init__(self, folder: Path, facts: dict[str, Any], **parts: Any) -> None:
        """Take `folder` for the job of these `facts`; raises SettingsError if it is another's, StoreError."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}; choose another folder for backups") from None
        _claim(folder / FACTS, facts)
        self._manager = tf.train.CheckpointManager(tf.train.Checkpoint(**parts), str(folder), KEPT)

    def load(self) -> bool:
        """Bring `parts` to where the newest backup is; whether there is one. Raises StoreError where it is damaged."""
        try:
            return self._manager.restore_or_initialize() is not None
        except (tf.errors.OpError, ValueError) as error:
            raise StoreError(f"{self._folder} holds a damaged backup ({_first(error)}); remove that folder") from None

    def save(self) -> None:
        """Write a backup, whole or not at all. Raises StoreError."""
        try:
            self._manager.save()
        except tf.errors.OpError as error:
            raise StoreError(f"{self._folder} takes no backup ({_first(error)}); free the disk or check it") from None


def _claim(path: Path, facts: dict[str, Any]) -> None:
    """Note whose backups these are, or raise SettingsError where they are another job's."""
    known = None
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text())
    if known is None:
        files.write(path, json.dumps(facts, indent=1).encode())
    elif known != facts:
        known = known if isinstance(known, dict) else {}
        others = [name for name in facts | known if known.get(name) != facts.get(name)]
        raise SettingsError(
            f"{path.parent} holds the backups of another job, with another {' and '.join(others)}; "
            "choose another folder for backups, or remove that one"
        )


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
