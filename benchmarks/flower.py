"""Flower on loopback, as its documents set it up: what clients take while they wait and while they train the CNN.

A SuperLink and SuperNodes with their defaults (isolation `subprocess`, so each message gets a ClientApp process of its
own), without TLS, telemetry and update check; FedAvg for three rounds, no evaluation. A client is the SuperNode with
all processes below it; its memory is the sum of their resident sets, which counts pages that they share twice.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import device
import watch

PACKAGES = ("flwr==1.41.0", "tensorflow-cpu==2.21.0")
SETTLE, PAUSE, PATIENCE = 10.0, 0.1, 900.0
HERE = Path(__file__).parent
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "smallcnn"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "smallcnn.server:app"
clientapp = "smallcnn.client:app"
[tool.flwr.app.config]
rounds = 3
nodes = {nodes}
notes = "{notes}"
"""
CLIENT = """
import time
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from smallcnn.task import EXAMPLES, cnn, train
app = ClientApp()
@app.train()
def work(message, context):
    model = cnn()
    model.set_weights(message.content["arrays"].to_numpy_ndarrays())
    began = time.monotonic()
    train(model, context.node_config["partition-id"])
    metrics = MetricRecord({"num-examples": EXAMPLES, "seconds": time.monotonic() - began})
    content = {"arrays": ArrayRecord(model.get_weights()), "metrics": metrics}
    return Message(content=RecordDict(content), reply_to=message)
"""
SERVER = """
import json, time
from pathlib import Path
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from smallcnn.task import cnn
app = ServerApp()
notes = []
class Noted(FedAvg):
    def configure_train(self, *arguments):
        self.began = time.monotonic()
        return super().configure_train(*arguments)
    def aggregate_train(self, number, replies):
        replies = list(replies)
        trained = [reply.content["metrics"]["seconds"] for reply in replies if reply.has_content()]
        found = super().aggregate_train(number, replies)
        took = time.monotonic() - self.began
        notes.append({"seconds": took, "training": max(trained), "devices": len(trained)})
        return found
@app.main()
def main(grid, context):
    config = context.run_config
    least = {"min_train_nodes": config["nodes"], "min_available_nodes": config["nodes"]}
    strategy = Noted(fraction_train=1.0, fraction_evaluate=0.0, **least)
    arrays = ArrayRecord(cnn().get_weights())
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=config["rounds"])
    Path(config["notes"]).write_text(json.dumps(notes))
"""


class Deployment(NamedTuple):
    """A Flower that runs: the process of each SuperNode, and how to have its three rounds and what was noted of them.

    Of each round: the seconds, those that the slowest client's training took, how many clients replied.
    """

    nodes: list[int]
    rounds: Callable[[], list[dict[str, float]]]


def figures() -> dict[str, float]:
    """Memory of a client that waits and of one that trains, and the disk of its environment, in MiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        device.install(folder / "venv", *PACKAGES)
        disk = device.size_mib(folder / "venv")
        return {"flower_disk": disk, **measured(folder, folder / "venv" / "bin")}


def measured(folder: Path, tools: Path) -> dict[str, float]:
    """The memory, with the Flower whose commands are in `tools`; everything else is kept in `folder`."""
    with deployed(folder, tools, 1) as flower:
        with sampled(flower.nodes[0]) as idle:
            time.sleep(SETTLE)
        with sampled(flower.nodes[0]) as training:
            flower.rounds()
    return {"flower_idle": idle["now"], "flower_training": training["peak"], "flower_clientapp": training["clientapp"]}


@contextmanager
def deployed(folder: Path, tools: Path, nodes: int) -> Iterator[Deployment]:
    """A SuperLink and `nodes` SuperNodes, while the block lasts."""
    link, app, home = free_port(), _app(folder / "app", nodes, folder / "notes.json"), folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    environment = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{tools}:/usr/bin:/bin",
        "PYTHONPATH": "",
    }
    superlink = [str(tools / "flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"]
    supernode = [str(tools / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{link}"]

    def rounds() -> list[dict[str, float]]:
        _run(tools, app, environment)
        noted: list[dict[str, float]] = json.loads((folder / "notes.json").read_text())
        return noted

    with ExitStack() as stack:
        up = stack.enter_context
        up(watch.started([*superlink, "--port", str(link)], folder / "superlink.log", environment))
        up(_open(link))
        pids = []
        for index in range(nodes):
            port = free_port()
            command = [*supernode, "--port", str(port), "--node-config", f"partition-id={index}"]
            pids.append(up(watch.started(command, folder / f"supernode{index}.log", environment)).pid)
            up(_open(port))
        yield Deployment(pids, rounds)


def _run(tools: Path, app: Path, environment: Mapping[str, str]) -> None:
    """Run the federation to its end; raises RuntimeError with Flower's last words where it has none."""
    command = [str(tools / "flwr"), "run", str(app), "bench", "--stream"]
    ended = subprocess.run(command, env={**environment}, capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = ended.stdout + ended.stderr
    if ended.returncode != 0 or "ROUND 3/3" not in said.upper():
        raise RuntimeError(f"Flower did not finish its three rounds: {said[-2000:]}")


@contextmanager
def sampled(pid: int) -> Iterator[dict[str, float]]:
    """While the block lasts, look at a process and all below it: `now` and `peak` of their sum, the largest one."""
    found = {"now": 0.0, "peak": 0.0, "clientapp": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(PAUSE):
            family = [pid, *watch.descendants(pid)]
            found["now"] = sum(watch.resident_mib(each) for each in family)
            found["peak"] = max(found["peak"], found["now"])
            found["clientapp"] = max(found["clientapp"], *(watch.peak_mib(each) for each in family))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _app(folder: Path, nodes: int, notes: Path) -> Path:
    """The Flower app: the same model and the same training as TensorFlow alone has."""
    (folder / "smallcnn").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(nodes=nodes, notes=notes))
    (folder / "smallcnn" / "__init__.py").write_text("")
    (folder / "smallcnn" / "client.py").write_text(CLIENT)
    (folder / "smallcnn" / "server.py").write_text(SERVER)
    shutil.copy(HERE / "tensorflow_client.py", folder / "smallcnn" / "task.py")
    return folder


@contextmanager
def _open(port: int) -> Iterator[None]:
    """Begin once something listens there."""
    watch.until(_connects(port), f"port {port} opens")
    yield


def _connects(port: int) -> Callable[[], bool]:
    def connects() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return connects


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
