"""`fedfleet simulate`: a whole fleet on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedfleet.cli.options import Data, JsonFile, Model, Split, Where
from fedfleet.cli.terminal import announce, interruptible, needs
from fedfleet.cloud.settings import Combine, Rounds
from fedfleet.wire import files
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.messages import Plan
from fedfleet.wire.record import Mismatch

EXAMPLES = """
[bold]examples[/bold]

fedfleet simulate

fedfleet simulate --devices 20 --rounds 50 --data mnist:DIR --split dirichlet:0.1

fedfleet simulate --data turbofan:DIR --split natural --devices 100

fedfleet simulate --engine gossip --topology torus

fedfleet simulate --engine virtual --faults dropout=0.3,straggler=0.2 --devices 200

fedfleet simulate --engine docker --fault 'disconnect 30% for 20s at 3' --fault 'memory 16m on 1 for 10s at 8'

fedfleet simulate --split dirichlet:0.1 --cloud-share 0.1 --refine distil:every=5,steps=50

fedfleet simulate --engine tff --strategy tff:robust_aggregator+fedadam

fedfleet simulate --data 'csv:pumps.csv?label=failure' --model my_model.py:build
"""

ALONE = 100  # virtual devices for which it is worth to train each alone as well


def simulate(
    devices: Annotated[
        int, typer.Option(help="How many devices; each is a process of its own, but in loopback and virtual.")
    ] = 8,
    rounds: Annotated[int, typer.Option(help="How many rounds.")] = 30,
    data: Data = "digits",
    split: Split = "dirichlet:0.5",
    strategy: Annotated[
        str,
        typer.Option(
            help="fedavg | fedavgm | fedprox | fedadam:0.03 | median | krum:2+fedavgm | tff:FACTORY and the like."
        ),
    ] = "fedavg",
    engine: Annotated[
        str,
        typer.Option(
            help="mqtt: processes over a broker; docker: containers; loopback, virtual: all in this process; "
            "gossip: no server; tff: no fleet, but the same plan by TensorFlow Federated, if it is installed."
        ),
    ] = "mqtt",
    topology: Annotated[
        str, typer.Option(help="Who is whose neighbour in the engine gossip: ring | torus | random:DEGREE.")
    ] = "ring",
    faults: Annotated[
        str,
        typer.Option(help="What goes wrong in virtual time: none | field | storm | dropout=0.3,nan=0.1 and the like."),
    ] = "none",
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="What goes wrong in the engines docker and mqtt; may be repeated: 'disconnect 30% for 20s', 'kill 1 "
            "at 3', 'slow 256kbit for 30s', 'loss 10% on 2', 'memory 128m for 10s at 45s'."
        ),
    ] = None,
    broker: Where = "auto",
    model: Model = "",
    local: Annotated[
        list[str] | None, typer.Option(help="A layer that trains on each device for itself; may be repeated.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over a device's examples in a round.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="The devices' learning rate.")] = 0.02,
    momentum: Annotated[float, typer.Option(help="The devices' momentum.")] = 0.9,
    codec: Annotated[
        str, typer.Option(help="How updates travel: float32 | float16 | int8 | int4 | topk:0.1+int4+zlib and the like.")
    ] = "float32",
    downlink: Annotated[
        str,
        typer.Option(help="The codec of what changed in the weights, for devices that have the last."),
    ] = "",
    batch: Annotated[int, typer.Option(help="Examples in a training step.")] = 16,
    share: Annotated[float, typer.Option(help="Share of the fleet that a round calls.")] = 1.0,
    buffer: Annotated[
        int, typer.Option(help="Asynchronous: a round ends with so many updates, whoever is slow. 0: with all.")
    ] = 0,
    staleness: Annotated[int, typer.Option(help="How many rounds late an update may be and still count.")] = 0,
    deadline: Annotated[float, typer.Option(help="Seconds after which a round ends without the late.")] = 120.0,
    holdout: Annotated[
        float, typer.Option(help="Share of its examples that each device holds back, and evaluates every model on.")
    ] = 0.0,
    replicas: Annotated[
        int, typer.Option(help="GPUs, or parts of the CPU, that combine updates; -1: all GPUs, 0: this process alone.")
    ] = 0,
    refine: Annotated[
        str, typer.Option(help="What the cloud does to models: tune | distil, or tune:every=5,steps=50 and the like.")
    ] = "",
    cloud_share: Annotated[
        float, typer.Option(help="Share of the training data that the cloud gets, for --refine, and no device.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="One seed, one result, bit for bit.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for runs; each gets one of its own in it.")] = Path("runs"),
    json_file: JsonFile = None,
) -> None:
    """Simulate a fleet: real agents train, a real broker carries, and a report says what federating bought."""
    rule = f"gossip on a {topology}" if engine == "gossip" else strategy
    announce(f"fedfleet simulate: {data} on {devices} devices, {rounds} rounds of {rule}")
    # Here and not at the top: the line above must not wait for NumPy and scikit-learn.
    with needs("sim"):
        from fedfleet.sim import record, report, stage
        from fedfleet.sim import simulate as engine_room

    try:
        wanted = stage.Simulation(
            data=data,
            devices=devices,
            split=split,
            strategy=strategy,
            engine=engine,
            topology=topology,
            broker=broker,
            faults=faults,
            mishaps=tuple(fault or ()),
            model=model,
            local=tuple(local or ()),
            batch=batch,
            seed=seed,
            combine=Combine(replicas),
            refine=refine,
            cloud_share=cloud_share,
            rounds=Rounds(
                total=rounds,
                devices=devices,
                share=share,
                deadline=deadline,
                downlink=downlink,
                buffer=buffer,
                staleness=staleness,
            ),
            baselines=engine != "virtual" or devices <= ALONE,
            plan=Plan(epochs=epochs, learning_rate=learning_rate, momentum=momentum, codec=codec, holdout=holdout),
        )
    except Mismatch as error:
        raise SettingsError(str(error)) from None
    with interruptible():
        folder = engine_room.simulate(wanted, out, Console())
    if json_file is not None:
        files.write(json_file, json.dumps(record.document(folder), indent=1).encode())
    print("result", *(f"{key}={value}" for key, value in report.figures(record.read(folder)).items()))
