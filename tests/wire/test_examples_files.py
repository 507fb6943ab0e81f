"""Example files: npz and csv are read to the last number, or refused by line, column and name."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.wire import examples as module
from fedfleet.wire import tables
from fedfleet.wire.errors import DataError
from fedfleet.wire.examples import check, read, read_inputs


def npz(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "data.npz", **arrays)
    return f"npz:{folder / 'data.npz'}"


def table(folder: Path, text: str, options: str = "label=y") -> str:
    (folder / "data.csv").write_text(text, encoding="utf-8")
    return f"csv:{folder / 'data.csv'}?{options}"


def refused(spec: str, *words: str) -> None:
    with pytest.raises(DataError) as error:
        read(spec)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_read_refuses_bad_specs(tmp_path: Path) -> None:
    refused("hdf:x", "npz:", "csv:")
    refused(f"npz:{tmp_path / 'none.npz'}", "none.npz", "No such file")
    refused(f"csv:{tmp_path / 'none.csv'}?label=y", "none.csv", "No such file")
    refused(f"npz:{tmp_path}", "Is a directory")
    refused(f"npz:{tmp_path}/x?label=y", "unknown option 'label'")
    refused(f"csv:{tmp_path}/x?label=y&sep=;", "unknown option 'sep'")
    refused(f"csv:{tmp_path}/x?label=y&task=ranking", "'ranking'", "regression")
    refused(f"csv:{tmp_path}/x", "?label=COLUMN")


# npz


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f8", "|u1", ">i2", "<i8", "|b1"])
def test_npz_numbers_become_float32(tmp_path: Path, kind: str) -> None:
    got = read(npz(tmp_path, x=np.array([[0, 1], [1, 0], [1, 1]]).astype(kind), y=np.array([2, 0, 1])))
    assert got.x.dtype == np.float32 and got.x.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert got.y.dtype == np.int32 and got.y.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("y", "shape", "dtype"),
    [
        (np.zeros(3), (3, 1), np.float32),
        (np.zeros((3, 2)), (3, 2), np.float32),
        (np.zeros((3, 1), np.int64), (3,), np.int32),
        (np.zeros(3, np.uint8), (3,), np.int32),
        (np.zeros(3, bool), (3,), np.int32),
    ],
)
def test_npz_targets_and_labels(tmp_path: Path, y: Any, shape: tuple[int, ...], dtype: Any) -> None:
    got = read(npz(tmp_path, x=np.ones((3, 4, 4)), y=y)).y
    assert got.shape == shape and got.dtype == dtype


def test_npz_in_column_order_and_compressed(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    np.savez_compressed(tmp_path / "c.npz", x=np.asfortranarray(x), y=np.array([0, 1]))
    assert np.array_equal(read(f"npz:{tmp_path / 'c.npz'}").x, x)


def test_npz_refuses(tmp_path: Path) -> None:
    y = np.zeros(2, np.int32)
    refused(npz(tmp_path, x=np.ones((2, 1))), "no array 'y', only x")
    refused(npz(tmp_path, x=np.array([["a"], ["b"]]), y=y), "array 'x'", "<U1")
    refused(npz(tmp_path, x=np.ones((2, 1), complex), y=y), "array 'x'", "c16")
    refused(npz(tmp_path, x=np.ones((2, 1)), y=np.array([None, 1])), "array 'y'", "|O")
    refused(npz(tmp_path, x=np.zeros(2, [("a", "<f4")]), y=y), "array 'x'", "a record")
    refused(npz(tmp_path, x=np.ones((2, 1)), y=np.array([-1, 0])), "from -1 to 0")
    refused(npz(tmp_path, x=np.ones((2, 1)), y=np.array([0, 2**31])), "from 0 to 2147483648")
    refused(npz(tmp_path, x=np.ones((2, 1)), y=np.zeros((2, 3), int)), "integers in shape [2, 3]")
    refused(npz(tmp_path, x=np.ones((2, 1)), y=np.zeros(3, int)), "data.npz: x has 2 rows but y has 3")
    refused(npz(tmp_path, x=np.array([[1], [1e300]]), y=y), "data.npz: x row 1, column 0", "inf")


def crafted(folder: Path, header: bytes, body: bytes) -> str:
    with zipfile.ZipFile(folder / "crafted.npz", "w") as archive:
        for name in ("x", "y"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body)
    return f"npz:{folder / 'crafted.npz'}"


def test_npz_size_is_proven_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9999), }\n"
    refused(crafted(tmp_path, huge, b"\0" * 8), "array 'x' holds 8 bytes")
    refused(crafted(tmp_path, huge.replace(b"99999999999, ", b""), b"\0" * 8), "holds 8 bytes")
    refused(crafted(tmp_path, b"{'descr': __import__('os'), }", b""), "a record")
    refused(crafted(tmp_path, b" " * 20_000, b""), "not in numpy's format")
    spec = npz(tmp_path, x=np.ones((20, 10)), y=np.zeros(20))
    monkeypatch.setattr(module, "MAX_BYTES", 1599)
    refused(spec, "holds 1600 bytes", "limit 1599")
    monkeypatch.setattr(module, "MAX_BYTES", 1600)
    assert len(read(spec).x) == 20


def test_npz_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK but no more")
    refused(f"npz:{tmp_path / 'bad.npz'}", "bad.npz", "numpy.savez")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_npz_with_any_byte_changed_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.ones((3, 2), np.float32), y=np.arange(3))
    raw = bytearray(buffer.getvalue())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2]))])
    try:
        got = read(f"npz:{path}")
    except DataError as error:
        assert "flipped.npz" in str(error)
    else:
        assert got.x.tolist() == [[1, 1]] * 3 and got.y.tolist() == [0, 1, 2]


# csv


def test_csv_labels(tmp_path: Path) -> None:
    got = read(table(tmp_path, "a,y,b\n1,0,2.5\n\n-3e2,2,4\n"))
    assert got.x.dtype == np.float32 and got.x.tolist() == [[1, 2.5], [-300, 4]]
    assert got.y.dtype == np.int32 and got.y.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("labels", "options"), [("1 2", "label=y&task=regression"), ("1 2.5", "label=y"), ("1 -2", "label=y")]
)
def test_csv_targets(tmp_path: Path, labels: str, options: str) -> None:
    got = read(table(tmp_path, "a,y\n" + "".join(f"0,{value}\n" for value in labels.split()), options))
    assert got.y.dtype == np.float32 and got.y.tolist() == [[float(value)] for value in labels.split()]


def test_csv_header_may_be_quoted_and_marked(tmp_path: Path) -> None:
    assert read(table(tmp_path, '\ufeff"y", "T, inside"\n1,2\n')).x.tolist() == [[2]]


def test_csv_refuses_by_line_and_column(tmp_path: Path) -> None:
    refused(table(tmp_path, "a,y\n1,0\n1,x\n"), "data.csv line 3, column 'y': 'x' is not a number")
    refused(table(tmp_path, "a,y\n\n1,0\n,0\n"), "line 4, column 'a': '' is not a number")
    refused(table(tmp_path, "a,y\nnan,0\n"), "line 2, column 'a': nan is not finite")
    refused(table(tmp_path, "a,y\n1,0\n1e39,0\n"), "line 3, column 'a': 1e+39")
    refused(table(tmp_path, "a,y\n1,-inf\n"), "line 2, column 'y': -inf")
    refused(table(tmp_path, "a,y\n1,0\n1,2,3\n"), "line 3 has 3 fields", "2 columns")
    refused(table(tmp_path, "a,y\n1,3000000000\n"), "column 'y': 3000000000", "&task=regression")


def test_csv_refuses_headers(tmp_path: Path) -> None:
    refused(table(tmp_path, "a,b\n1,2\n"), "no column 'y': its columns are a, b")
    refused(table(tmp_path, ""), "its columns are none")
    refused(table(tmp_path, ",y\n0,1\n"), "line 1, column 1", "name each column")
    refused(table(tmp_path, "a,y,a\n0,1,2\n"), "line 1, column 3", "'a'")
    refused(table(tmp_path, "y\n1\n"), "only the label column 'y'")
    refused(table(tmp_path, 'a,y\n1,"0'), "near line 2", "unexpected end")
    refused(table(tmp_path, "a,y\n"), "data.csv: there are no examples")


def test_csv_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_BYTES", 8)
    assert len(read(table(tmp_path, "a,y\n1,0\n1,0\n")).x) == 2
    refused(table(tmp_path, "a,y\n1,0\n1,0\n1,0\n"), "line 4: more than 8 bytes")


def test_csv_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"a,y\n1,0\n\xff\xfe,1\n")
    refused(f"csv:{tmp_path / 'data.csv'}?label=y", "data.csv near line", "UTF-8")
    (tmp_path / "data.csv").write_text("a,y\n1,0\n" + "9" * 200_000 + ",1\n")
    refused(f"csv:{tmp_path / 'data.csv'}?label=y", "near line 3", "field larger")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='ay,"\n\r01.-enif \0é', max_size=40))
def test_csv_of_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        check(read(f"csv:{path}?label=y"))
    except DataError as error:
        assert re.search("any.csv", str(error))


# without labels


def test_inputs_are_read_with_labels_and_without(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(3, 4)
    for arrays in ({"x": x}, {"x": x, "y": np.array(["no", "label", "here"])}):
        found = read_inputs(npz(tmp_path, **arrays))
        assert found.dtype == np.float32 and np.array_equal(found, x)
    text = "a,y,b\n1,5,2\n3,6,4\n"
    assert read_inputs(table(tmp_path, text)).tolist() == [[1, 2], [3, 4]]
    assert read_inputs(table(tmp_path, text, "")).tolist() == [[1, 5, 2], [3, 6, 4]]


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"y": np.zeros(3)}, "has no array 'x', only y"),
        ({"x": np.zeros(3)}, "data.npz: x must be float32[N, ...], not float32[3]"),
        ({"x": np.zeros((0, 2))}, "data.npz: there are no examples"),
        ({"x": np.array([[0.0, 1e39]])}, "data.npz: x row 0, column 1 (from 0) is inf"),
    ],
)
def test_inputs_that_no_model_takes_are_refused(tmp_path: Path, arrays: Any, text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        read_inputs(npz(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [("", "", "its columns are none"), ("a,a\n1,2\n", "", "line 1, column 2"), ("a,b\n1,2\n", "label=y", "'y'"),
     ("a,b\n1\n", "", "line 2 has 1 fields"), ("a\n", "", "there are no examples")],
)  # fmt: skip
def test_tables_without_labels_are_checked_alike(tmp_path: Path, text: str, options: str, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        read_inputs(table(tmp_path, text, options))


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_inputs(f"npz:{tmp_path}/none.npz")
    with pytest.raises(DataError, match="unknown option 'label'"):
        read_inputs(f"npz:{tmp_path}/none.npz?label=y")
