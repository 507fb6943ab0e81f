"""Who takes part in asynchronous training, and who has not come."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import alive, children, until

from fedfleet.cloud.training.cluster import absent, check, cluster, loopback, reach
from fedfleet.cloud.training.workers import Cluster
from fedfleet.wire.errors import SettingsError

JOBS = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}


def config(jobs: dict[str, list[str]], job: str = "chief", index: int = 0) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


def test_tf_config_says_who_is_who() -> None:
    found = cluster(config(JOBS, "worker", 1))
    assert (found.own, found.jobs["ps"]) == ("c:1", ("d:1",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "TF_CONFIG is malformed"),
        ("[]", "TF_CONFIG is malformed"),
        (config(JOBS | {"evaluator": ["e:1"]}), "has a job 'evaluator'; this strategy knows chief and worker and ps"),
        (config({name: JOBS[name] for name in ("chief", "worker")}), "has no ps; asynchronous training takes a chief"),
        (config({name: JOBS[name] for name in ("worker", "ps")}, "worker"), "has no chief"),
        (config(JOBS | {"worker": []}), "has no worker"),
        (config(JOBS | {"chief": ["a:1", "e:1"]}), "has 2 chiefs; it takes one"),
        (config(JOBS | {"ps": ["d"]}), "has an address 'd'; write it as host:port"),
        (config(JOBS, "ps", 1), "its cluster has 0 to 0 of ps"),
    ],
)
def test_what_tf_config_must_not_say_is_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        cluster(text)


def test_who_does_not_come_is_named(free: Callable[[int], list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        here = f"127.0.0.1:{there.getsockname()[1]}"
        worker, server = free(2)
        assert absent([here, worker]) == [worker]
        place = Cluster({"chief": ("a:1",), "worker": (here, worker), "ps": (server,)}, "chief", 0)
        with pytest.raises(SettingsError) as refused:
            reach(place, 0.3)
        assert str(refused.value).startswith(f"worker {worker}, ps {server} did not come within 0.3 s; start what is")
        reach(Cluster({"chief": ("a:1",), "worker": (here,), "ps": (here,)}, "chief", 0), 0.3)


def test_a_whole_cluster_on_this_machine_is_ended_with_its_block(tmp_path: Path) -> None:
    before = set(children(os.getpid()))
    with pytest.raises(ZeroDivisionError), loopback(2, tmp_path / "servers.log") as found:
        started = set(children(os.getpid())) - before
        assert len(started) == 3
        assert (found.job, len(found.jobs["worker"]), len(found.jobs["ps"])) == ("chief", 2, 1)
        assert len({address for addresses in found.jobs.values() for address in addresses}) == 4
        raise ZeroDivisionError
    assert until(lambda: not any(map(alive, started)), 10)


def test_workers_here_are_counted() -> None:
    check(2, "")
    with pytest.raises(SettingsError, match="1 to 64 workers on this machine, not 65"):
        check(65, "")
    with pytest.raises(SettingsError, match="TF_CONFIG is set, and says how many workers there are"):
        check(2, config(JOBS))
