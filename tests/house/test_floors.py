"""The house stands on its floors: arrows only point down, no import cycle even lazily, heavy imports stay where they are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {"edge": ROOT / "edge", "cloud": ROOT / "cloud", "models": ROOT / "models", "sim": ROOT / "firmware_sim"}
SOURCES = sorted(path for room in ROOMS.values() for path in (room / "fedfleet").rglob("*.py"))
BELOW = {
    "fedfleet.wire": set(),
    "fedfleet.edge": {"fedfleet.wire"},
    "fedfleet.models": {"fedfleet.wire"},
    "fedfleet.cloud": {"fedfleet.wire", "fedfleet.models"},
    "fedfleet.sim": {"fedfleet.wire", "fedfleet.edge", "fedfleet.models", "fedfleet.cloud"},
    "fedfleet.cli": {"fedfleet.wire", "fedfleet.models", "fedfleet.cloud", "fedfleet.sim"},
}
HEAVY = {"tensorflow", "keras", "tensorflow_federated"}
HOLDS_TENSORFLOW = {
    "fedfleet.cloud.combine.forward",
    "fedfleet.cloud.combine.kernels",
    "fedfleet.cloud.combine.pool",
    "fedfleet.cloud.combine.units",
    "fedfleet.cloud.combine.workers",
    "fedfleet.cloud.events",
    "fedfleet.cloud.refine.distil",
    "fedfleet.cloud.refine.refiner",
    "fedfleet.cloud.refine.student",
    "fedfleet.cloud.replicas",
    "fedfleet.cloud.training.backups", "fedfleet.cloud.training.central", "fedfleet.cloud.training.fit",
    "fedfleet.cloud.training.copies", "fedfleet.cloud.training.laid", "fedfleet.cloud.training.mesh",
    "fedfleet.cloud.training.servers", "fedfleet.cloud.training.steps",
    "fedfleet.cloud.tff.aggregators",
    "fedfleet.cloud.tff.optimizers",
    "fedfleet.cloud.tff.worker",
    "fedfleet.models.audit", "fedfleet.models.compiler", "fedfleet.models.contract", "fedfleet.models.conv",
    "fedfleet.models.depthwise", "fedfleet.models.dropout", "fedfleet.models.extras", "fedfleet.models.fixed",
    "fedfleet.models.gradient", "fedfleet.models.inplace",
    "fedfleet.models.int8", "fedfleet.models.layout", "fedfleet.models.logic",
    "fedfleet.models.lookup", "fedfleet.models.losses", "fedfleet.models.noise", "fedfleet.models.norms",
    "fedfleet.models.ops", "fedfleet.models.optimiser", "fedfleet.models.pointwise", "fedfleet.models.pool",
    "fedfleet.models.profile", "fedfleet.models.scoring", "fedfleet.models.program", "fedfleet.models.reductions", "fedfleet.models.shapes",
    "fedfleet.models.shared", "fedfleet.models.slim", "fedfleet.models.source", "fedfleet.models.trace",
    "fedfleet.models.unroll", "fedfleet.models.windows",
    "fedfleet.models.zoo.activity", "fedfleet.models.zoo.digits", "fedfleet.models.zoo.keywords",
    "fedfleet.models.zoo.mnist", "fedfleet.models.zoo.photos", "fedfleet.models.zoo.readings",
    "fedfleet.models.zoo.seeded", "fedfleet.models.zoo.tabular", "fedfleet.models.zoo.turbofan",
    "fedfleet.models.zoo.vibration",
    "fedfleet.sim.program",
    "fedfleet.sim.tff.model",
    "fedfleet.sim.tff.proximal",
    "fedfleet.sim.tff.worker",
}  # fmt: skip
# what needs TensorFlow by way of those
COMPILER = HOLDS_TENSORFLOW | {
    "fedfleet.cloud.refine.tune",
    "fedfleet.models.rewrite",
    "fedfleet.sim.compare.trainer",
    "fedfleet.models.zoo",
}
MAY_FALL_BACK = {"fedfleet.models.runtime"}  # TensorFlow's own interpreter, where no LiteRT runtime is installed
STANDARD = set(sys.stdlib_module_names)


def module(path: Path) -> str:
    name = ".".join(path.with_suffix("").parts[path.parts.index("fedfleet") :])
    return name.removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return all names that a file imports anywhere in it, from-imports with the name they take."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


NAMES = {module(path): path for path in SOURCES}
GRAPH = {name: {found for found in imports(path) if found in NAMES} - {name} for name, path in NAMES.items()}


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("name", NAMES)
def test_arrows_only_point_down(name: str) -> None:
    allowed = BELOW[room(name)] | {room(name)}
    assert {target for target in GRAPH[name] if room(target) not in allowed} == set()


def test_there_is_no_cycle_not_even_a_lazy_one() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"cycle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in sorted(GRAPH[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(GRAPH):
        visit(name, ())


def test_the_namespace_has_no_package_file() -> None:
    assert list(ROOT.glob("*/fedfleet/__init__.py")) == []


def test_tensorflow_stands_only_in_files_of_its_own() -> None:
    found = {name for name, path in NAMES.items() if {i.split(".")[0] for i in imports(path)} & HEAVY}
    assert found - MAY_FALL_BACK == HOLDS_TENSORFLOW


@pytest.mark.parametrize("name", sorted(set(NAMES) - COMPILER - MAY_FALL_BACK))
def test_nothing_above_pulls_tensorflow_in(name: str) -> None:
    """Follow the imports at the top of files: none leads to a file that holds TensorFlow."""
    reached, todo = {name}, [name]
    while todo:
        for target in TOP[todo.pop()] - reached:
            reached.add(target)
            todo.append(target)
    assert reached & HOLDS_TENSORFLOW == set()


def top_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


TOP = {name: {found for found in top_imports(path) if found in NAMES} for name, path in NAMES.items()}


def test_the_device_needs_three_packages_at_most() -> None:
    outside = {i.split(".")[0] for name, path in NAMES.items() if room(name) in ("fedfleet.wire", "fedfleet.edge")
               for i in imports(path)} - STANDARD - {"fedfleet"}  # fmt: skip
    assert outside == {"numpy", "paho"}  # the third, a LiteRT runtime, is looked up by name in edge/runtime.py


@pytest.mark.parametrize("name", ["fedfleet.cli.main", "fedfleet.sim.simulate", "fedfleet.cloud.aggregator"])
def test_a_fresh_interpreter_agrees(name: str) -> None:
    code = f"import sys, {name}; print(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert result.stdout.strip() == "[]"


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": ":".join(str(path) for path in ROOMS.values())}
