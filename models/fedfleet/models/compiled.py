"""A compiled model as data: the device program, its weights and their layout; loading it needs NumPy alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfleet.wire import files
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import MAX_BLOB

MAX_PARAMETERS = 64 * 2**20
MAX_HEADER = 8 * 2**20
FORMAT = 1

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """One tensor inside the flat weights: `size` float32 from `offset`, in C order.

    `shared` ones travel and come first, the others stay on each device; `place` is that among the Keras model's own.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    shared: bool = True
    place: int = 0


@dataclass(frozen=True, eq=False)
class Compiled:
    """A device program with the weights it starts from, the local ones too; shapes leave the batch out.

    `frozen` is the form in which the program holds what does not train: float32 or int8.
    """

    program: bytes
    weights: Weights
    layout: tuple[Entry, ...]
    loss: str
    batch: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    frozen: str = "float32"

    @property
    def digest(self) -> str:
        """The program's name: its sha256 in hex."""
        return hashlib.sha256(self.program).hexdigest()

    @property
    def shared(self) -> Weights:
        """The weights that travel: all but those of local layers."""
        return self.weights[: sum(entry.size for entry in self.layout if entry.shared)]

    def with_weights(self, weights: Weights) -> Compiled:
        """The same program with other weights to start from: all of them, or only the shared ones; else StoreError."""
        wanted = {self.weights.size, self.shared.size}
        if weights.ndim != 1 or weights.size not in wanted:
            sizes = " or ".join(map(str, sorted(wanted)))
            raise StoreError(
                f"weights of shape {list(weights.shape)} are not the {sizes} of the program; compile again"
            )
        return replace(self, weights=np.concatenate([weights, self.weights[weights.size :]]))

    def save(self, folder: str | Path) -> None:
        """Writes program.tflite, weights.bin (float32, little-endian) and program.json, the last one last."""
        root = Path(folder)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{root}: cannot be written ({error.strerror}); choose another folder") from error
        files.write(root / "program.tflite", self.program)
        files.write(root / "weights.bin", self.weights.astype("<f4").tobytes())
        files.write(root / "program.json", json.dumps(self._header(), indent=1).encode())

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "digest": self.digest,
            "parameters": int(self.weights.size),
            "loss": self.loss,
            "batch": self.batch,
            "input_shape": self.input_shape,
            "output_shape": self.output_shape,
            "frozen": self.frozen,
            "layout": [asdict(entry) for entry in self.layout],
        }


def load(folder: str | Path) -> Compiled:
    """Reads what `save` wrote; StoreError if a file is missing, damaged or belongs to another program."""
    root = Path(folder)
    header = _header(root / "program.json")
    try:
        parameters = _natural(header["parameters"], MAX_PARAMETERS)
        compiled = Compiled(
            program=_read(root / "program.tflite", MAX_BLOB),
            weights=_weights(root / "weights.bin", parameters),
            layout=tuple(_entry(raw, place) for place, raw in enumerate(header["layout"])),
            loss=str(header["loss"]),
            batch=_natural(header["batch"], 2**20),
            input_shape=_shape(header["input_shape"]),
            output_shape=_shape(header["output_shape"]),
            frozen=str(header.get("frozen", "float32")),
        )
        expected = str(header["digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{root / 'program.json'}: a field is missing or wrong ({error!r}); compile again") from error
    if compiled.digest != expected:
        raise StoreError(f"{root / 'program.tflite'}: does not match the digest in program.json; compile again")
    if not _gapless(compiled.layout, parameters):
        raise StoreError(f"{root / 'program.json'}: the layout does not cover the weights; compile again")
    return compiled


def _header(path: Path) -> dict[str, Any]:
    """The JSON object at `path`."""
    try:
        header = json.loads(_read(path, MAX_HEADER))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: is not JSON; compile again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"{path}: is not format {FORMAT}; compile again or update fedfleet")
    return header


def _weights(path: Path, parameters: int) -> Weights:
    raw = _read(path, parameters * 4)
    if len(raw) != parameters * 4:
        raise StoreError(f"{path}: has {len(raw)} bytes where {parameters * 4} belong; compile again")
    return np.frombuffer(raw, "<f4").astype(np.float32)


def _read(path: Path, limit: int) -> bytes:
    """The file's bytes; refused before reading when it is larger than `limit`."""
    try:
        if path.stat().st_size > limit:
            raise StoreError(f"{path}: is larger than the {limit} bytes it may have; compile again")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); compile the model into this folder") from error


def arranged(flat: Weights, layout: Sequence[Entry]) -> Weights:
    """The flat vector of all weights in the Keras model's order, brought into the layout's."""
    starts, end = dict[int, int](), 0
    for entry in sorted(layout, key=lambda entry: entry.place):
        starts[entry.place] = end
        end += entry.size
    return np.concatenate([flat[starts[e.place] : starts[e.place] + e.size] for e in layout])


def _entry(raw: dict[str, Any], place: int) -> Entry:
    shape = _shape(raw["shape"])
    size, offset = _natural(raw["size"], MAX_PARAMETERS), _natural(raw["offset"], MAX_PARAMETERS)
    if int(np.prod(shape, dtype=np.int64)) != size:
        raise ValueError(f"size {size} of {raw['name']!r}")
    place = _natural(raw.get("place", place), MAX_PARAMETERS)
    return Entry(str(raw["name"]), shape, offset, size, bool(raw["shared"]), place)


def _shape(raw: list[Any]) -> tuple[int, ...]:
    if len(raw) > 8:
        raise ValueError("more than 8 dimensions")
    return tuple(_natural(n, MAX_PARAMETERS) for n in raw)


def _natural(raw: Any, limit: int) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or not 0 <= raw <= limit:
        raise ValueError(f"{raw!r} is not a whole number from 0 to {limit}")
    return raw


def _gapless(layout: tuple[Entry, ...], parameters: int) -> bool:
    """Whether the entries follow each other from 0 to `parameters`, those that travel first."""
    end, shared = 0, True
    for entry in layout:
        if entry.offset != end or entry.shared > shared:
            return False
        end, shared = end + entry.size, entry.shared
    return end == parameters
