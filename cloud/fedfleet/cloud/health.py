"""Whether an aggregator is well, for what watches over a container; read beside it from its state folder.

`python -m fedfleet.cloud.health settings.toml` exits with 0 while it runs with its broker in reach, or is done; else
with 1 and one line. Waiting for devices is no illness.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedfleet.cloud.fleet import fleet
from fedfleet.cloud.settings import load_aggregator
from fedfleet.wire.errors import FedfleetError


def trouble(settings: Path) -> str:
    """Return what ails the aggregator of these settings; empty: nothing. Raises SettingsError, StoreError."""
    found = fleet(settings.resolve().parent / load_aggregator(settings).state)
    if found.state == "stopped":
        return "no aggregator holds the state folder"
    return f"the broker is out of reach: {found.now.link}" if found.now.link and found.state == "running" else ""


def main(argv: list[str]) -> None:
    """Say how the aggregator is."""
    try:
        text = trouble(Path(argv[0])) if argv else "name the settings file"
    except FedfleetError as error:
        text = str(error)
    print(text or "well")
    sys.exit(1 if text else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
