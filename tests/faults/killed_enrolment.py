"""The agent's enrolment, to be killed at a chosen point: `python -m faults.killed_enrolment TRACE AT SETTINGS`.

Beside the points that every process has (`faults.points`) there are the commands that make keys and requests.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from faults.points import Points

from fedfleet.edge.enrol import enrolled
from fedfleet.edge.settings import load_agent

if __name__ == "__main__":
    point = Points(Path(sys.argv[1]), {"": int(sys.argv[2])})
    point.install()
    subprocess.run = point.around(subprocess.run, lambda command, **_: f"openssl {command[1]}")  # type: ignore[assignment]
    settings, folder = load_agent(Path(sys.argv[3]))
    folder.mkdir(exist_ok=True)
    assert enrolled(settings, lambda: False)
