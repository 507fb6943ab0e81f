"""`fedfleet compile`: a Keras model becomes a device program."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedfleet.cli.terminal import announce, needs
from fedfleet.models.quiet import quiet

EXAMPLES = """
[bold]examples[/bold]

fedfleet compile my_model.py:build --out build/mine

fedfleet compile my_model.py:build --loss mean_squared_error --batch 32 --out build/mine
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
) -> None:
    """Compile a Keras model into a device program that trains on LiteRT builtins alone."""
    console = Console()
    announce(f"fedfleet compile: {model}, {loss}, batch {batch}")
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "tensorflow.log"):
        # Here and not at the top: TensorFlow takes seconds to load.
        with needs("models"):
            from fedfleet.models import audit, compiler, source

        keras_model = source.build(model)
        compiled = compiler.compile(keras_model, loss, batch=batch, local=local or (), frozen=frozen)
        found = audit.audit(keras_model, compiled)
    compiled.save(out)
    rows = {
        "parameters": f"{found.parameters:,}",
        "program": f"{found.program_bytes:,} bytes, sha256 {compiled.digest[:12]}",
        "ops": ", ".join(f"{name} {count}" for name, count in sorted(found.ops.items())),
        "one step against Keras": f"{found.difference:.1e} relative difference",
        "time here": f"{found.step_ms:.2f} ms a step of {batch}",
        "written to": str(out),
    }
    for name, text in rows.items():
        console.print(f"{name:>24}  {text}", highlight=False, soft_wrap=True)
