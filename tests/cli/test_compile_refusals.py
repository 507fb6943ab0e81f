"""Models and options that `fedfleet compile` refuses: the command itself, in this process, so that many are quick."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

from fedfleet.cli.main import main

MODELS = """
import tensorflow as tf
K = tf.keras
L = K.layers

def stack(*layers):
    return K.Sequential(list(layers))

class Loop(K.Model):
    def train_step(self, data):
        return {"loss": 0.0}

class Subclass(K.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)
    def call(self, x):
        return self.dense(x)

class Adds(L.Layer):
    def call(self, x):
        self.add_loss(tf.reduce_mean(x))
        return x

def looped(kind=Loop):
    x = K.Input((4,))
    return kind(x, L.Dense(3)(x))

def good(): return stack(K.Input((4,)), L.Dense(3))
def cube(): return stack(K.Input((4, 4, 4, 2)), L.Conv3D(2, 2, name="cube"), L.Flatten(), L.Dense(3))
def wave(): return stack(K.Input((4,)), L.Dense(3), L.Lambda(tf.sin, name="wave"))
def subclass(): return Subclass()
def moving(): return stack(K.Input((None, 4)), L.Dense(3))
def ragged(): return stack(K.Input((4,), ragged=True), L.ReLU(), L.Dense(3))
def sparse(): return stack(K.Input((4,), sparse=True), L.Dense(3))
def words(): return K.Model(x := K.Input((2,), dtype="string"), L.StringLookup(vocabulary=["a"])(x))
def empty(): return stack(K.Input((4,)), L.ReLU())
def pulled(): return stack(K.Input((4,)), L.Dense(3, kernel_regularizer="l2", name="pulled"))
def adding(): return stack(K.Input((4,)), L.Dense(3), Adds(name="adds"))
def wants(units, *more, depth=2): return good()
def nothing(): pass
def raising(): raise KeyError("no such sensor")
def endless():
    print("building", flush=True)
    while True:
        pass
def large(): return stack(K.Input((12000,)), L.Dense(11000, kernel_initializer="zeros"), L.Dense(3))
def heavy(): return stack(K.Input((12000,)), L.Dense(11000, kernel_initializer="zeros", trainable=False), L.Dense(3))
"""

REFUSED = {
    "unknown layer": ("cube", "layer 'cube': op Conv3D has no training program for the device; use Conv2D"),
    "Lambda of an unknown op": ("wave", "layer 'wave': op Sin has no training program for the device; docs/compiler.md"),
    "training loop": ("looped", "its train_step would not run on a device, which steps by the loss alone; build a plain"),
    "subclass": ("subclass", "is a subclass without a graph of layers; wrap it: x = keras.Input(shape)"),
    "free size": ("moving", "has a dimension of unknown size; give every size"),
    "ragged": ("ragged", "input is ragged; a device program takes dense tensors only"),
    "sparse": ("sparse", "input is sparse; a device program takes dense tensors only"),
    "strings": ("words", "input of string; a device program takes float32 or int32 only"),
    "no weights": ("empty", "has nothing to train; set trainable=True on a layer that has weights"),
    "regularizer": ("pulled", "layer 'pulled': its kernel_regularizer would not act on a device; leave it out, a plan's"),
    "added loss": ("adding", "layer 'adds': the loss that it adds would not count on a device; leave it out"),
    "loss of another output": ("good --loss binary_crossentropi", "unknown loss 'binary_crossentropi'; use sparse_"),
    "arguments": ("wants", "wants wants units; define def wants() that takes nothing"),
    "no model": ("nothing", "bad.py:nothing returned NoneType; return a keras.Model"),
    "an error": ("raising", "KeyError: 'no such sensor'"),
    "unknown local layer": ("good --local head", "no layer 'head' that trains; the layers that train are: dense"),
    "unknown form": ("good --frozen int4", "unknown form 'int4' of frozen weights; use float32 or int8"),
    "batch of none": ("good --batch 0", "batch 0 is out of range; use 1 to 4096"),
    "in the way": ("good --out bad.py", "bad.py: cannot be written (bad.py is in the way); choose another folder"),
    "below a file": ("good --out bad.py/x", "bad.py/x: cannot be written ("),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bad.py").write_text(MODELS)
    (tmp_path / "binary.py").write_bytes(b"def build():\0\xff")
    (tmp_path / "latin.py").write_bytes('def build(): return "\xe9"'.encode("latin-1"))
    (tmp_path / "notes.txt").write_text("def build(): pass")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `fedfleet compile` says; it must be one line, and the exit code 2."""
    out = () if "--out" in arguments else ("--out", "built")
    monkeypatch.setattr(sys, "argv", ["fedfleet", "compile", *arguments, *out])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.strip()
    assert (ended.value.code, len(said.splitlines())) == (2, 1), said
    assert said.startswith("fedfleet: ")
    assert not Path("built").exists()
    return said


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_one_line_says_why_not(
    case: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = REFUSED[case]
    assert text in refusal(monkeypatch, capsys, *f"bad.py:{model}".split())


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("binary.py", "binary.py: SyntaxError: source code string cannot contain null bytes"),
        ("latin.py", "latin.py:1: SyntaxError: (unicode error) 'utf-8' codec can't decode"),
        ("notes.txt", "notes.txt: is not a Python file; give one that ends in .py"),
        (".", "no such file; give the path of the Python file that builds the Keras model"),
    ],
)
def test_a_file_that_is_not_python(
    file: str, text: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refusal(monkeypatch, capsys, f"{file}:build")


def started(model: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedfleet.cli.main", "compile", f"bad.py:{model}", "--out", "built"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=cwd
    )


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("large", "has 132044003 parameters, more than 67108864; make it smaller"),
        ("heavy", "has 528044000 bytes of frozen and local weights, and a program carries at most 268435456; make it"),
    ],
)
def test_half_a_gigabyte_is_refused_before_it_is_copied(model: str, text: str, here: Path) -> None:
    peak = 0  # not ru_maxrss, in which the memory of whoever started the process counts as well
    with started(model, here) as process:
        assert process.stderr is not None
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
        said = process.stderr.read()
    assert process.returncode == 2, said
    assert text in said
    # TensorFlow itself takes 0.7, the weights once 0.5
    assert 0.3 * 2**20 < peak < 1.6 * 2**20


def high_water(pid: int) -> int:
    """The most resident memory that a process has had since it was loaded, in KiB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def test_a_model_that_is_never_built_ends_with_ctrl_c(here: Path) -> None:
    with started("endless", here) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "building\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "fedfleet: interrupted; everything that was started has been ended\n"
