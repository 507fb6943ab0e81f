"""The agent, to be killed at a chosen point: `python -m faults.killed TRACE AT --settings FILE`.

Beside the points that every process has (`faults.points`) there are the two ends of training. At the point number AT
the process kills itself; 0 means never.
"""

from __future__ import annotations

import sys
from pathlib import Path

from faults.points import Points

from fedfleet.edge.__main__ import main
from fedfleet.edge.child import ChildTrainer

if __name__ == "__main__":
    point = Points(Path(sys.argv[1]), {"": int(sys.argv[2])})
    point.install()
    ChildTrainer.train = point.around(ChildTrainer.train, lambda *_: "train")  # type: ignore[method-assign]
    main(sys.argv[3:])
