"""A device program under whichever LiteRT runtime is installed; the only file that imports one."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfleet.edge.board import RUNTIMES
from fedfleet.wire.codecs import Weights
from fedfleet.wire.errors import ProgramError

SIGNATURES = {"set", "get", "train", "adapt", "evaluate", "infer"}


def runtime() -> ModuleType:
    """Return the installed runtime's module; raises ProgramError that says which package to install."""
    for name in RUNTIMES:
        try:
            return importlib.import_module(f"{name}.interpreter")
        except ImportError:
            continue
    raise ProgramError(
        "no LiteRT runtime is installed: pip install ai-edge-litert (64-bit), or tflite-runtime (32-bit, Python 3.11)"
    )


class Program:
    """A loaded `.tflite`: its signatures as methods. Not for several threads."""

    def __init__(self, path: Path, digest: str) -> None:
        """Load `path` if its sha256 is `digest`: a truncated file could end the process. Raises ProgramError."""
        data = read_blob(path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ProgramError(
                f"program {digest[:12]} on disk has other bytes than its name says; it will be fetched anew"
            )
        self.digest = digest
        self.corrected = False
        try:
            self._interpreter = runtime().Interpreter(model_content=data, num_threads=1)
            self._runners = {name: self._runner(name) for name in self._interpreter.get_signature_list()}
            if missing := SIGNATURES - self._runners.keys():
                raise ProgramError(f"program {digest[:12]} lacks signatures {', '.join(sorted(missing))}")
            self._measure()
        except (ValueError, RuntimeError, LookupError) as error:
            raise ProgramError(f"program {digest[:12]} does not load: {_line(error)}") from None

    def set(self, weights: Weights) -> None:
        """Load `weights`, float32[P]; resets the optimiser. Raises ProgramError where the size does not fit."""
        if weights.shape != (self.parameters,):
            raise ProgramError(f"weights have shape {weights.shape}, the program wants ({self.parameters},)")
        self._call("set", weights=weights)
        self.corrected = False

    def correct(self, correction: Weights) -> None:
        """Add `correction`, float32[P], to every gradient that `adapt` takes up, until the next `set`."""
        if "correct" not in self._runners:
            raise ProgramError(f"program {self.digest[:12]} takes no correction: compile the model anew")
        self._call("correct", correction=correction)
        self.corrected = True

    def get(self) -> Weights:
        """Return the weights as they are now, float32[P]."""
        weights = np.array(self._call("get")["weights"], np.float32)
        if weights.shape != (self.parameters,):
            raise ProgramError(f"program {self.digest[:12]} takes {self.parameters} weights and returns {weights.size}")
        return weights

    def train(self, **inputs: NDArray[Any]) -> float:
        """Run one step of SGD on a batch; returns the loss before it."""
        return float(self._call("train", **inputs)["loss"][0])

    def adapt(self, **inputs: NDArray[Any]) -> None:
        """Run one step by a plan's whole rule on the gradient that `train` left with both of its scalars at 0."""
        self._call("adapt", **inputs)

    def evaluate(self, **inputs: NDArray[Any]) -> tuple[float, float, float]:
        """Return the batch's weighted sums of loss, of the metric, and of the weights."""
        found = self._call("evaluate", **inputs)
        return float(found["loss"][0]), float(found["metric"][0]), float(found["count"][0])

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's output for `x`, float32[1, ...]."""
        return np.array(self._call("infer", x=x)["output"], np.float32)

    def _measure(self) -> None:
        """Note how large a batch is, how many weights and classes, what stays here, and whether a step takes a seed."""
        inputs = self._runners["train"].get_input_details()
        output = self._runners["infer"].get_output_details()["output"]["shape"]
        self.batch = int(inputs["x"]["shape"][0])
        self.classes = int(output[-1]) if np.issubdtype(inputs["y"]["dtype"], np.integer) else None
        self.seeded = "seed" in inputs
        self.parameters = int(self._runners["set"].get_input_details()["weights"]["shape"][0])
        local = self._call("local")["weights"] if "local" in self._runners else ()
        self.local: Weights = np.array(local, np.float32)
        self.shared = self.parameters - self.local.size
        if self.local.ndim != 1 or self.shared < 1:
            raise ProgramError(f"program {self.digest[:12]} shares none of its {self.parameters} weights")

    def _runner(self, name: str) -> Any:
        return self._interpreter.get_signature_runner(name)

    def _call(self, name: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        try:
            return dict(self._runners[name](**inputs))
        except (ValueError, RuntimeError) as error:
            raise ProgramError(f"program {self.digest[:12]}, {name}: {_line(error)}") from None


def read_blob(path: Path) -> bytes:
    """Return the bytes of a program or of weights; raises ProgramError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProgramError(f"{path} cannot be read: {error.strerror}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
