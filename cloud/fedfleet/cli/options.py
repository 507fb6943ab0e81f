"""Options that several verbs have alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[str, typer.Option(help="digits | mnist:DIR | turbofan:DIR | npz:FILE | csv:FILE?label=COL")]
Split = Annotated[str, typer.Option(help="Who holds what: iid | dirichlet:ALPHA | natural.")]
Model = Annotated[str, typer.Option(help="Your own Keras model, as FILE.py:FUNCTION.")]
Where = Annotated[
    str, typer.Option(help="auto | mosquitto[:PORT] | amqtt[:PORT] | HOST[:PORT] of one that runs already.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write facts and outcome to this file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
