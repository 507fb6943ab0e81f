"""`fedfleet compile`: a Keras model becomes a device program."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedfleet.cli.terminal import announce, interruptible, needs, require_writable, sheet
from fedfleet.models.quiet import quiet

COSTLIEST = 5
EXAMPLES = """
[bold]examples[/bold]

fedfleet compile my_model.py:build --out build/mine

fedfleet compile my_model.py:build --loss mean_squared_error --batch 32 --out build/mine

fedfleet compile my_model.py:build --out build/mine --json > mine.json
"""


def compile_model(
    model: Annotated[str, typer.Argument(help="FILE.py:FUNCTION; the function returns a Keras model.")],
    out: Annotated[Path, typer.Option(help="Folder for program.tflite, weights.bin and program.json.")],
    loss: Annotated[
        str,
        typer.Option(
            help="sparse_categorical_crossentropy, categorical_crossentropy, binary_crossentropy, "
            "mean_squared_error, mean_absolute_error or huber."
        ),
    ] = "sparse_categorical_crossentropy",
    batch: Annotated[int, typer.Option(help="Examples in a training step.")] = 16,
    local: Annotated[
        list[str] | None, typer.Option(help="A layer that trains on each device for itself; may be repeated.")
    ] = None,
    frozen: Annotated[str, typer.Option(help="How weights that do not train are kept: float32 or int8.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
) -> None:
    """Compile a Keras model into a device program that trains on LiteRT builtins alone, and say what it will cost."""
    announce(f"fedfleet compile: {model}, {loss}, batch {batch}", aside=as_json)
    require_writable(out)
    with interruptible(), tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        # Here and not at the top: TensorFlow takes seconds to load.
        with needs("models"):
            from fedfleet.models import audit, compiler, profile, rehearsal, source

        # what the user's own code prints must not get into the JSON
        with redirect_stdout(sys.stderr if as_json else sys.stdout):
            keras_model = source.build(model)
        compiled = compiler.compile(keras_model, loss, batch=batch, local=local or (), frozen=frozen)
        found = audit.audit(keras_model, compiled)
        costs = profile.profile(compiled.program)
        peak = rehearsal.peak_mib(compiled)
    compiled.save(out)
    facts = {
        "parameters": {"shared": found.shared, "local": found.local, "frozen": found.frozen},
        "program": {"bytes": found.program_bytes, "sha256": compiled.digest, "batch": batch, "loss": loss},
        "training_peak_mib": peak,
        "step_ms": found.step_ms,
        "ops": [asdict(cost) for cost in costs],
        "difference": found.difference,
        "out": str(out),
    }
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        Console().print(_table(facts))


def _table(facts: dict[str, Any]) -> Table:
    """The report for people; of the ops only the costliest."""
    program, peak = facts["program"], facts["training_peak_mib"]
    total = sum(cost["ms"] for cost in facts["ops"]) or 1.0
    ops = [
        f"{cost['op']} {cost['ms']:.2g} ms ({cost['count']}), {cost['ms'] / total:.0%}"
        for cost in facts["ops"][:COSTLIEST]
    ]
    unknown = "not measured: no LiteRT runtime here (pip install ai-edge-litert)"
    rows = {
        "parameters": ", ".join(f"{count:,} {kind}" for kind, count in facts["parameters"].items()),
        "program": f"{program['bytes']:,} bytes, sha256 {program['sha256'][:12]}",
        "memory while it trains": unknown if peak is None else f"{peak:.1f} MiB at its peak, the whole process",
        "time here": f"{facts['step_ms']:.3g} ms a step of {program['batch']}",
        "costliest ops": "\n".join(ops),
        "one step against Keras": f"{facts['difference']:.1e} relative difference",
        "written to": facts["out"],
    }
    return sheet(rows)
