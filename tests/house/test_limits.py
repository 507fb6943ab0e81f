"""House limits: short files, short functions, everything annotated, broad excepts only where a reason stands beside."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("edge", "cloud", "models", "firmware_sim")
PRODUCT = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SOURCES = PRODUCT + sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]


def code_lines(node: ast.AST) -> int:
    """Lines that hold code: without blank lines, comments and docstrings."""
    lines: set[int] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
            continue
        if isinstance(child, (ast.stmt, ast.expr)) and not isinstance(child, ast.Constant):
            lines |= (
                {child.lineno, child.end_lineno or child.lineno}
                if isinstance(child, Function)
                else set(range(child.lineno, child.lineno + 1))
            )
    return len(lines)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_have_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_functions_are_short() -> None:
    sizes = {f"{path.name}:{node.name}": code_lines(node) for path in SOURCES for node in functions(path)}
    assert statistics.median(sizes.values()) <= 8
    assert {name: size for name, size in sizes.items() if size > 50} == {}


def test_there_are_at_least_as_many_lines_of_tests_as_of_code() -> None:
    def count(paths: list[Path]) -> int:
        return sum(len([line for line in path.read_text().splitlines() if line.strip()]) for path in paths)

    assert count(TESTS) >= count(PRODUCT)


def test_broad_excepts_carry_their_reason() -> None:
    broad = re.compile(r"except \(?(Exception|BaseException)\b|except:")
    lines = [(path, line) for path in SOURCES for line in path.read_text().splitlines() if broad.search(line)]
    assert all("#" in line for _, line in lines), lines
    assert len(lines) <= 2


def test_nothing_is_mocked() -> None:
    word = "mo" + "ck"
    guilty = [
        path
        for path in [*SOURCES, *TESTS]
        if re.search(rf"import.*{word}|{word}\.patch|Magic{word}", path.read_text(), re.I)
    ]
    assert guilty == []


def test_no_file_name_says_nothing() -> None:
    assert [path for path in SOURCES if re.search("util|helper|manager|common|misc", path.stem)] == []


def test_locks_have_hashes_and_name_no_registry() -> None:
    locks = sorted(ROOT.glob("*/lock*.txt"))
    assert {lock.parent.name for lock in locks} == {"edge", "models", "cloud", "firmware_sim", "tests"}
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text
        assert "--index" not in text
        assert text.count("==") <= text.count("--hash=sha256:")


def test_uv_lock_is_not_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert "uv.lock" not in tracked.split()
