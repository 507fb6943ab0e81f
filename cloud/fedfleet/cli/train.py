"""`fedfleet train`: data-parallel training on the data that the cloud owns; devices go on from what comes of it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fedfleet.cli.course import Outcome, Wanted, run
from fedfleet.cli.engine import served
from fedfleet.cli.epochs import Epochs
from fedfleet.cli.options import Data, JsonFile, Model
from fedfleet.cli.terminal import announce, interruptible, require_writable
from fedfleet.wire import files

EXAMPLES = """
[bold]examples[/bold]

fedfleet train --out build/digits

fedfleet train --model my_model.py:build --data npz:mine.npz --test npz:held-out.npz --replicas 4 --out build/mine

fedfleet train --model my_model.py:build --data npz:mine.npz --start state/cloud:promoted --state state/cloud

fedfleet train --model my_model.py:build --data npz:mine.npz --strategy mesh --mesh batch=2,model=4 --out build/mine
"""


def train(
    data: Data = "digits",
    test: Annotated[str, typer.Option(help="What npz or csv data is judged by: npz:FILE | csv:FILE?label=COL")] = "",
    model: Model = "",
    start: Annotated[
        str, typer.Option(help="Weights to start from: STATE:MODEL of an aggregator, or a program's folder.")
    ] = "",
    strategy: Annotated[
        str,
        typer.Option(
            help="one | mirrored: all devices of this machine | workers: machines, by TF_CONFIG | "
            "servers: asynchronous, by TF_CONFIG or all here | mesh: parts of one model, by --mesh.",
        ),
    ] = "mirrored",
    replicas: Annotated[
        int,
        typer.Option(
            help="Devices for mirrored: GPUs, or parts of the CPU where there is none; 0: all GPUs. "
            "Workers for servers on this machine.",
        ),
    ] = 0,
    mesh: Annotated[str, typer.Option(help="Devices for parts of batch and model: batch=2,model=2")] = "",
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 10,
    batch: Annotated[int, typer.Option(help="Examples in a step, over all replicas together.")] = 64,
    optimizer: Annotated[str, typer.Option(help="sgd | momentum | adam")] = "momentum",
    learning_rate: Annotated[float, typer.Option(help="Its learning rate.")] = 0.02,
    seed: Annotated[int, typer.Option(help="One seed, one order of the data.")] = 0,
    loss: Annotated[str, typer.Option(help="As for compile; by the data where it is empty.")] = "",
    device_batch: Annotated[int, typer.Option(help="Examples in a device's training step.")] = 16,
    local: Annotated[
        list[str] | None, typer.Option(help="A layer that trains on each device for itself; may be repeated.")
    ] = None,
    frozen: Annotated[str, typer.Option(help="How weights that do not train are kept: float32 or int8.")] = "float32",
    out: Annotated[Path, typer.Option(help="Folder for the trained program, as `fedfleet compile` writes it.")] = Path(
        "build/trained"
    ),
    state: Annotated[
        Path | None, typer.Option(help="An aggregator's state folder, which gets a new version; stop it first.")
    ] = None,
    backup: Annotated[Path | None, typer.Option(help="Folder for backups; OUT/backup if not given.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's event files.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for all workers.")] = 300.0,
    json_file: JsonFile = None,
) -> None:
    """Train a model on the data of the cloud, on all GPUs of one machine or of several, for devices to go on from."""
    announce(f"fedfleet train: {data}, {strategy}, {epochs} epochs of batches of {batch}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    wanted = Wanted(
        data=data, test=test, model=model, start=start, strategy=strategy, replicas=replicas, mesh=mesh, epochs=epochs,
        batch=batch, optimizer=optimizer, learning_rate=learning_rate, seed=seed, loss=loss,
        device_batch=device_batch, local=tuple(local or ()), frozen=frozen, out=out, state=state,
        backup=backup or out / "backup", tensorboard=tensorboard, wait=wait,
    )  # fmt: skip
    with interruptible():
        if served(strategy):
            print("done: the chief has the result")
            return
    require_writable(out)
    console = Console()
    with Epochs(console, epochs) as view, _stoppable(view, wanted):
        found = run(wanted, view)
    if found is None:
        print("done: the first worker has the result")
    else:
        _say(wanted, found, time.monotonic() - began, json_file)


def _say(wanted: Wanted, found: Outcome, seconds: float, json_file: Path | None) -> None:
    """Print what came of it, and write it to `json_file` where there is one."""
    told = [f"the trained program is in {wanted.out}"]
    told += [f"model {found.version} of {wanted.state}"] if found.version else []
    print(", and is ".join(told))
    print(f"trained by {found.training['strategy']}")
    facts = asdict(found) | {"seconds": seconds, "out": str(wanted.out)}
    if json_file is not None:
        files.write(json_file, json.dumps(facts, indent=1).encode())
    print("result", *(f"{name}={value}" for name, value in _figures(facts).items()))


@contextmanager
def _stoppable(view: Epochs, wanted: Wanted) -> Iterator[None]:
    """Turn Ctrl-C into a line that says where training goes on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        last = view.last
        where = f" in epoch {last.epoch} of {wanted.epochs}, step {last.step} of {last.steps}" if last else ""
        print(f"fedfleet: interrupted{where}; the same command goes on from {wanted.backup}", file=sys.stderr)
        raise typer.Exit(130) from None


def _figures(facts: dict[str, Any]) -> dict[str, str]:
    """What the last line says."""
    training = facts["training"]
    numbers = {"epochs": training["epochs"], "train_loss": training["last_loss"], **facts["scores"]}
    numbers["seconds"] = facts["seconds"]
    said = {name: f"{value:.6g}" for name, value in numbers.items() if value is not None}
    return said | {"version": str(facts["version"])}
