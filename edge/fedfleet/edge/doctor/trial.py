"""A program of one operation, run by the installed runtime in a process of its own, which it may end. Prints one line.

`{"numpy": version, "runtime": package, "wrong": why}`; each may be empty.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
from importlib.util import find_spec

from fedfleet.edge.board import RUNTIMES

# y = relu(x), float32[1]: made with the schema of TensorFlow Lite, version 3
PROGRAM = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAcAAAA0AAAAAMAAAABAAAACAAAAAQABAAEAAAAAQAAABAAAAAMABQAEAAMAAgABAAMAAAA"
    "EAAAADwAAABAAAAARAAAAAEAAAAQAAAAAAAKAAwAAAAIAAQACgAAAAgAAAAMAAAAAQAAAAEAAAABAAAAAAAAAAEAAAABAAAAAQAAAAAAAAACAAAA"
    "MAAAAAQAAADk////CAAAAAwAAAABAAAAeQAAAAEAAAABAAAADAAMAAgAAAAAAAQADAAAAAgAAAAMAAAAAQAAAHgAAAABAAAAAQAAAAEAAAAQAAAA"
    "DAAMAAsAAAAAAAQADAAAABMAAAAAAAAT"
)


def main() -> None:
    """Try it, and say what came of it."""
    print(json.dumps(tried()))


def tried() -> dict[str, str]:
    """Return the versions found, and what is wrong with them, if anything."""
    package = next((name for name in RUNTIMES if find_spec(name)), "")
    try:
        numpy = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        numpy = ""
    said = {"numpy": numpy, "runtime": package, "wrong": ""}
    if package and numpy:
        try:
            _run()
        except (ImportError, AttributeError, ValueError, RuntimeError, OSError) as error:
            said["wrong"] = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return said


def _run() -> None:
    import numpy as np

    from fedfleet.edge.runtime import runtime

    interpreter = runtime().Interpreter(model_content=PROGRAM, num_threads=1)
    interpreter.allocate_tensors()
    place, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    for value, expected in ((-2.0, 0.0), (3.0, 3.0)):
        interpreter.set_tensor(place, np.array([value], np.float32))
        interpreter.invoke()
        if (found := float(interpreter.get_tensor(result)[0])) != expected:
            raise ValueError(f"relu({value:g}) came to {found:g}")


if __name__ == "__main__":
    main()
