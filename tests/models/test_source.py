from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedfleet.models.source import build
from fedfleet.wire.errors import ModelError

GOOD = """
from __future__ import annotations
import dataclasses
import tensorflow as tf

@dataclasses.dataclass
class Size:
    width: int = 3

def build():
    return tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(Size().width)])

def number():
    return 5

def broken():
    size = 0

    return 1 / size

def leaves():
    raise SystemExit(3)

constant = 7
"""


def file(folder: Path, text: str, name: str = "my_model.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_it_builds_the_model_and_leaves_path_and_folder_alone(tmp_path: Path) -> None:
    path, names, cwd = list(sys.path), set(sys.modules), Path.cwd()
    model = build(f"{file(tmp_path, GOOD)}:build")
    assert model.output_shape == (None, 3)
    assert sys.path == path
    assert Path.cwd() == cwd
    assert {name for name in set(sys.modules) - names if "my_model" in name} <= {"fedfleet_source_my_model"}
    assert "my_model" not in sys.modules


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert build("my_model.py:build").output_shape == (None, 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent", "has no function 'absent'"),
        ("constant", "has no function 'constant'"),
        ("number", "returned int; return a keras.Model"),
        ("broken", "my_model.py:19: ZeroDivisionError: division by zero"),
        ("leaves", "my_model.py:22: SystemExit: 3"),
    ],
)
def test_what_is_wrong_with_the_function(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(f"{file(tmp_path, GOOD)}:{name}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\nimport no_such_module\n", "my_model.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def build(:\n", "my_model.py:1: SyntaxError: "),
        ("\n\nraise ValueError('first\\nsecond')\n", "my_model.py:3: ValueError: first"),
        ("raise KeyError\n", "my_model.py:1: KeyError: no message"),
    ],
)
def test_what_is_wrong_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(f"{file(tmp_path, text)}:build")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["", "model.py", ":build", "model.py:", "model.py:no function"])
def test_where_must_name_a_file_and_a_function(where: str) -> None:
    with pytest.raises(ModelError, match=r"write it as my_model\.py:build"):
        build(where)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        build(f"{tmp_path / 'gone.py'}:build")


def test_a_file_that_is_not_python(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ends in \.py"):
        build(f"{file(tmp_path, GOOD, 'model.txt')}:build")
