from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from fedfleet.edge.data import Store
from fedfleet.models.compiled import Compiled
from fedfleet.wire.examples import Examples

# Before anything imports TensorFlow, which reads both once. With oneDNN, TensorFlow 2.21 gets some convolutions of one
# channel wrong (kernel and stride (1, 3), VALID), and has ended the process in the gradient of a transposed one.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

ROOMS = [str(Path(__file__).parent.parent / room) for room in ("edge", "cloud", "models", "firmware_sim")]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
settings.register_profile("fedfleet", deadline=None)  # time says nothing on a machine that is shared
settings.load_profile("fedfleet")
FEATURES = 300  # enough for an update of two parts


@pytest.fixture(scope="session")
def small() -> Compiled:
    """A real device program: 300 features, 3 classes, batches of 8, an update in two parts."""
    with warnings.catch_warnings():  # TensorFlow's own, while it is imported and while it converts
        warnings.simplefilter("ignore")
        from fedfleet.models import compiler, zoo

        return compiler.compile(zoo.tabular(FEATURES, 3), "sparse_categorical_crossentropy", batch=8)


@pytest.fixture(scope="session")
def blobs(small: Compiled, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Program and weights of `small` as a device has them: two files."""
    folder = tmp_path_factory.mktemp("blobs")
    (folder / "program").write_bytes(small.program)
    (folder / "weights").write_bytes(small.weights.astype("<f4").tobytes())
    return folder / "program", folder / "weights"


@pytest.fixture(scope="session")
def examples() -> Examples:
    """20 examples that fit `small`: two full batches and a part of one."""
    random = np.random.default_rng(5)
    return Examples(random.normal(size=(20, FEATURES)).astype(np.float32), random.integers(0, 3, 20).astype(np.int32))


@pytest.fixture
def stored(tmp_path: Path, examples: Examples) -> Path:
    """A store's folder that holds `examples`."""
    Store.open(tmp_path / "examples").append(examples)
    return tmp_path / "examples"


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let processes that a test starts import what this one does; called with folders, those come first."""

    def lead(*folders: Path) -> None:
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        path = [*map(str, folders), *ROOMS, *(folder for folder in given if folder)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
        monkeypatch.setenv("PYTHONWARNINGS", "default")

    lead()
    return lead
