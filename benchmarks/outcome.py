"""What all benchmarks say alike: a table for people, one line for scripts, and a file with the rest."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RUNTIMES = ("ai-edge-litert", "tflite-runtime")


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of them the heading, their first column flush left and all others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (cell.ljust(n) if i == 0 else cell.rjust(n) for i, (cell, n) in enumerate(zip(row, widths)))
        print("  ".join([first, *others]).rstrip())


def result(figures: Mapping[str, Any]) -> None:
    """Print the last line: `result key=value ...`; figures to three places, no spaces in a value."""
    texts = {key: _short(value) if isinstance(value, float) else str(value) for key, value in figures.items()}
    print("result", *(f"{key}={text.replace(' ', '-')}" for key, text in texts.items()))


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def save(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write everything to a JSON file, if one is wanted."""
    if path is not None:
        path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, str]:
    """Say what the figures were taken on."""
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model name", "Model"))
    ]
    processor = names[0].partition(":")[2].strip() if names else "unknown"
    return {"processor": processor, "machine": platform.machine(), "system": platform.platform()}


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those of `packages` that are installed."""
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    found = {name: installed[name] for name in packages if name in installed}
    return {"python": platform.python_version(), **found}


def runtime() -> str:
    """Return the LiteRT runtime that a device program runs under here, with its version."""
    return next(f"{name}-{version}" for name, version in versions(*RUNTIMES).items() if name in RUNTIMES)
