"""`fedfleet compare`: one task and one data set, trained in every way there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedfleet.cli.options import Data, JsonFile, Model, Split, Where
from fedfleet.cli.terminal import announce, interruptible, needs
from fedfleet.cloud.settings import Rounds
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan
from fedfleet.wire.record import Mismatch

MOMENTUM = 0.9
EXAMPLES = """
[bold]examples[/bold]

fedfleet compare

fedfleet compare --data turbofan:DIR --split natural --devices 20 --rounds 20 --learning-rate 0.01

fedfleet compare --devices 16 --topology random:4 --dying 0.5

fedfleet compare --data 'csv:pumps.csv?label=failure' --model my_model.py:build --json compared.json
"""


def compare(
    devices: Annotated[int, typer.Option(help="How many devices; each is a process of its own.")] = 8,
    rounds: Annotated[int, typer.Option(help="How many rounds, for the ways that have some.")] = 20,
    data: Data = "digits",
    split: Split = "dirichlet:0.5",
    model: Model = "",
    epochs: Annotated[int, typer.Option(help="Passes over the examples in a round.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="The learning rate of all.")] = 0.02,
    topology: Annotated[
        str, typer.Option(help="Who is whose neighbour in gossip: ring | torus | random:DEGREE.")
    ] = "ring",
    dying: Annotated[
        float, typer.Option(help="Share of the devices that is killed half way, in a second run of each. 0: none.")
    ] = 0.3,
    refine: Annotated[
        str,
        typer.Option(help="What the cloud does in the hybrid: tune | distil, or tune:every=5,steps=50 and the like."),
    ] = "tune:every=5,steps=100",
    cloud_share: Annotated[
        float, typer.Option(help="Share of the training data that is the cloud's own in the hybrid, and no device's.")
    ] = 0.1,
    broker: Where = "auto",
    seed: Annotated[int, typer.Option(help="One seed for the data, the split, the model and who dies.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for comparisons; each gets one of its own in it.")] = Path("runs"),
    json_file: JsonFile = None,
) -> None:
    """Train one task in one place, on each device alone, federated, refined and by gossip, and compare what it cost."""
    announce(f"fedfleet compare: {data} on {devices} devices, {rounds} rounds of {epochs} passes")
    # Here and not at the top: the line above must not wait for NumPy and scikit-learn.
    with needs("sim"):
        from fedfleet.sim import stage
        from fedfleet.sim.compare import page, run

    try:
        wanted = stage.Simulation(
            data=data,
            devices=devices,
            split=split,
            topology=topology,
            broker=broker,
            model=model,
            seed=seed,
            rounds=Rounds(total=rounds, devices=devices),
            plan=Plan(epochs=epochs, learning_rate=learning_rate, momentum=MOMENTUM),
            dying=dying,
        )
    except Mismatch as error:
        raise SettingsError(str(error)) from None
    run.require(wanted, refine, cloud_share)
    console = Console()
    with interruptible():
        folder, found = run.compare(wanted, run.contenders(refine, cloud_share), out, console)
        page.write(folder, found)
    page.tell(console, folder, found)
    if json_file is not None:
        files.write(json_file, json.dumps(run.document(found), indent=1).encode())
    print("result", *(f"{key}={value}" for key, value in run.figures(found).items()))
