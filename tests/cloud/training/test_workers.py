"""Workers meet before TensorFlow begins: all of them, for the same job, or it is said who is missing."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from fedfleet.cloud.training.workers import Cluster, meet, parse
from fedfleet.wire.errors import SettingsError

LONG = 30.0


def config(job: str = "worker", index: object = 0, **jobs: object) -> str:
    return json.dumps({"cluster": jobs or {"worker": ["a:1", "b:2"]}, "task": {"type": job, "index": index}})


def test_tf_config_says_who_and_where() -> None:
    found = parse(config("worker", 1, chief=["c:1"], worker=["a:1", "[::1]:2"]))
    assert (found.own, found.first, found.others) == ("[::1]:2", "c:1", ("c:1", "a:1"))
    assert parse(config()).first == "a:1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "TF_CONFIG is not set"),
        ("{", "TF_CONFIG is malformed (JSONDecodeError"),
        ("[]", "TF_CONFIG is malformed (TypeError"),
        ('{"cluster": {"worker": 3}}', "TF_CONFIG is malformed (TypeError"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG is malformed (KeyError: 'task')"),
        ("[" * 100_000, "TF_CONFIG is malformed (RecursionError"),
        (config(worker=["a"]), "has an address 'a'; write it as host:port"),
        (config(worker=["a:0"]), "has an address 'a:0'"),
        (config(worker=["a:65536"]), "has an address 'a:65536'"),
        (config(worker=[7]), "has an address 7"),
        (config(worker=["a:1", "a:1"]), "each with an address of its own"),
        (config(index=2), "index 2; its cluster has 0 to 1 of worker"),
        (config(index=True), "index True"),
        (config(index="0"), "index '0'"),
        (config("chief"), "is of type 'chief', which its cluster lacks"),
        (config(worker=["a:1"], ps=["b:1"]), "has a job 'ps'; this strategy knows chief and worker"),
    ],
)
def test_a_malformed_tf_config_is_refused_in_a_line(text: str, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def addresses(free: Callable[[int], list[str]]) -> list[str]:
    """Three of this machine."""
    return free(3)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as found:
        yield found


def cluster(addresses: list[str], index: int) -> Cluster:
    return Cluster({"worker": tuple(addresses)}, "worker", index)


def begin(
    pool: ThreadPoolExecutor, addresses: list[str], index: int, job: str = "j", wait: float = LONG
) -> Future[None]:
    return pool.submit(meet, cluster(addresses, index), job, wait)


def test_all_meet_whoever_comes_first(pool: ThreadPoolExecutor, addresses: list[str]) -> None:
    for order in ((0, 1, 2), (2, 0, 1)):
        for each in [begin(pool, addresses, index) for index in order]:
            each.result(LONG)


def test_who_is_alone_needs_nobody(addresses: list[str]) -> None:
    meet(cluster(addresses[:1], 0), "j", 0.1)


def test_who_never_comes_is_named(pool: ThreadPoolExecutor, addresses: list[str]) -> None:
    there = [begin(pool, addresses, index, wait=1.0) for index in (0, 2)]
    for each in there:
        with pytest.raises(SettingsError) as error:
            each.result(LONG)
        assert str(error.value).startswith(f"{addresses[1]} did not come within 1 s; start what is missing")
        assert addresses[0] not in str(error.value) and addresses[2] not in str(error.value)


def test_who_has_another_job_is_named(pool: ThreadPoolExecutor, addresses: list[str]) -> None:
    both = [begin(pool, addresses[:2], index, job) for index, job in enumerate(("one", "another"))]
    for index, each in enumerate(both):
        with pytest.raises(SettingsError, match=f"{addresses[1 - index]} trains another job; start all workers with"):
            each.result(LONG)


def test_a_port_that_is_taken_is_refused(addresses: list[str]) -> None:
    port = int(addresses[0].rpartition(":")[2])
    with socket.create_server(("", port)):
        with pytest.raises(SettingsError, match=f"port {port}, this worker's own in TF_CONFIG, cannot be had"):
            meet(cluster(addresses, 0), "j", 1.0)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n", b"\xff\n", b"{}\n", b'{"from": "evil:1", "job": "j"}\n'])
def test_strangers_are_not_taken_for_workers(pool: ThreadPoolExecutor, addresses: list[str], said: bytes) -> None:
    first = begin(pool, addresses[:2], 0)
    host, _, port = addresses[0].rpartition(":")
    with _when_there(host, int(port)) as stranger:
        stranger.sendall(said)
    assert not first.done()
    begin(pool, addresses[:2], 1).result(LONG)
    first.result(LONG)


def _when_there(host: str, port: int) -> socket.socket:
    for _ in range(10_000):
        try:
            return socket.create_connection((host, port), 1.0)
        except ConnectionRefusedError:
            continue
    raise AssertionError("nobody listens")
