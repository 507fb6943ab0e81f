"""A worker or parameter server of a cluster on one machine: `python -m fedfleet.cloud.training.member`.

It ends when its standard input does, so that none is left where the chief was killed.
"""

from __future__ import annotations

import os
import sys
from threading import Thread

from fedfleet.cloud.training.cluster import cluster


def main() -> None:
    """Serve as TF_CONFIG says until the chief says that it is over, or is no more."""
    place = cluster(os.environ.get("TF_CONFIG", ""))
    Thread(target=_end_with_input, daemon=True).start()
    from fedfleet.cloud.training.servers import serve  # holds TensorFlow

    serve(place)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # not through a buffer, whose lock would be held when Python ends
        pass
    os._exit(1)  # whatever TensorFlow is at


if __name__ == "__main__":
    main()
