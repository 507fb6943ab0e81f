"""The page that Prometheus reads: its format by the letter, and every number of it."""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from federations import Unwilling, world

from fedfleet.cloud.events import scalars
from fedfleet.cloud.exposition import CONTENT_TYPE, Histogram, Metric, Sample, by, counter, gauge, process, text
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.fleet import Ended
from fedfleet.cloud.meters import SECONDS, Meters
from fedfleet.cloud.notes import Standing
from fedfleet.cloud.operations import EVERY, Operations
from fedfleet.cloud.scrape import Scrape
from fedfleet.cloud.settings import AggregatorSettings, Metrics, Rounds
from fedfleet.wire.errors import DataError, SettingsError, StoreError
from fedfleet.wire.messages import STATES, Status

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (NaN|[+-]Inf|-?[0-9.]+(?:e[+-]?\d+)?)")


def parsed(page: str) -> dict[str, float]:
    """Read a page as strictly as the format is written: HELP, TYPE, then the samples of that metric, and no other."""
    assert page.endswith("\n")
    found: dict[str, float] = {}
    lines = page.splitlines()
    heads = [n for n, line in enumerate(lines) if line.startswith("# HELP ")]
    assert heads[0] == 0
    for start, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        name = lines[start].split(" ")[2]
        kind = re.fullmatch(rf"# TYPE {name} (counter|gauge|histogram)", lines[start + 1])
        assert kind, lines[start + 1]
        assert len({line.split()[2] for line in lines if line.startswith("# TYPE")}) == len(heads)
        for line in lines[start + 2 : end]:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            suffixes = ("_bucket", "_sum", "_count") if kind[1] == "histogram" else ("",)
            assert sample[1] in {name + suffix for suffix in suffixes}
            assert kind[1] != "counter" or name.endswith("_total")
            key = line.rpartition(" ")[0]
            assert key not in found
            found[key] = float(sample[3].replace("Inf", "inf"))
    return found


def ended(number: int = 1, state: str = "closed", seconds: float = 2.0, **scores: float) -> RoundRecord:
    return RoundRecord(number, state, "", 5, 4, 1, 640, 0.75, 2000, 3000, seconds, "cd" * 32, 50.5, scores, refused=2)


def test_numbers_and_labels_are_escaped_as_the_format_says() -> None:
    odd = by("x", "gauge", "one\ntwo \\", "what", {'a"b\\c\nd': 1.5, "nan": math.nan, "inf": -math.inf, "big": 1e300})
    assert text([odd]) == (
        "# HELP x one\\ntwo \\\\\n# TYPE x gauge\n"
        'x{what="a\\"b\\\\c\\nd"} 1.5\nx{what="nan"} NaN\nx{what="inf"} -Inf\n'
        f'x{{what="big"}} {int(1e300)}\n'
    )
    assert len(parsed(text([odd]))) == 4
    assert text([counter("a_total", "A.", 3), gauge("b", "B.", 0.1)]).splitlines()[2::3] == ["a_total 3", "b 0.1"]
    assert text([Metric("c", "gauge", "C.", (Sample(1, {"d": "e", "f": "g"}),))]).endswith('c{d="e",f="g"} 1\n')


def test_a_histogram_counts_all_that_is_below_each_bound() -> None:
    found = Histogram(1, 2.5)
    for value in (0.5, 1.0, 2.0, 9.0):
        found.observe(value)
    assert parsed(text([found.metric("s", "S.")])) == {
        's_bucket{le="1"}': 2, 's_bucket{le="2.5"}': 3, 's_bucket{le="+Inf"}': 4, "s_sum": 12.5, "s_count": 4
    }  # fmt: skip


def test_the_process_is_what_the_kernel_says_of_it() -> None:
    found = parsed(text(process()))
    rss = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert found["process_resident_memory_bytes"] == pytest.approx(1024 * int(rss.split()[1]), rel=0.2)
    assert found["process_cpu_seconds_total"] == pytest.approx(time.process_time(), abs=1)
    assert time.time() - 24 * 3600 < found["process_start_time_seconds"] <= time.time() + 1
    assert found["process_open_fds"] >= 3


def test_all_that_is_counted_has_its_number() -> None:
    meters = Meters(clock=lambda: 1700000000.0)
    meters.round(ended(1, accuracy=0.5))
    meters.round(ended(2, "abandoned", seconds=700.0))
    now = Standing("mill", "fedavg", 9, 3, known=4, present=2, called=5, reported=3, declined=1)
    statuses = [Status("ready", 1), Status("training", 1), Status("lost", 1), Status("lost", 2)]
    found = parsed(text(meters.metrics(now, statuses)))
    expected = {
        'fedfleet_rounds_total{state="closed"}': 1,
        'fedfleet_rounds_total{state="abandoned"}': 1,
        'fedfleet_round_seconds_bucket{le="1"}': 0,
        'fedfleet_round_seconds_bucket{le="600"}': 1,
        'fedfleet_round_seconds_bucket{le="1800"}': 2,
        "fedfleet_round_seconds_sum": 702,
        'fedfleet_updates_total{outcome="counted"}': 8,
        'fedfleet_updates_total{outcome="refused"}': 4,
        'fedfleet_bytes_total{direction="up"}': 4000,
        'fedfleet_bytes_total{direction="down"}': 6000,
        'fedfleet_info{fleet="mill",strategy="fedavg"}': 1,
        "fedfleet_round": 3,
        'fedfleet_round_devices{part="called"}': 5,
        'fedfleet_round_devices{part="reported"}': 3,
        'fedfleet_round_devices{part="declined"}': 1,
        "fedfleet_broker_up": 1,
        'fedfleet_devices{state="lost"}': 2,
        'fedfleet_devices{state="paused"}': 0,
        "fedfleet_devices_present": 2,
        "fedfleet_model_timestamp_seconds": 1700000000,
        "fedfleet_train_loss": 0.75,
        'fedfleet_score{metric="accuracy"}': 0.5,
    }
    assert {key: found[key] for key in expected} == expected
    assert sum("fedfleet_devices{" in key for key in found) == len(STATES)
    assert sum("_bucket" in key for key in found) == len(SECONDS) + 1
    down = parsed(text(meters.metrics(Standing(link="no answer"), [])))
    assert down["fedfleet_broker_up"] == 0


def test_before_the_first_model_there_is_none() -> None:
    found = parsed(text(Meters().metrics(Standing(), [])))
    assert not any("model" in key or "score" in key or "loss" in key for key in found)
    assert found['fedfleet_rounds_total{state="closed"}'] == 0


def test_after_a_new_start_the_model_is_as_old_as_it_is() -> None:
    known = Ended(7, "closed", "", 2, 2, 30, 1.0, 9, "", "2023-11-14T22:13:20Z", {"accuracy": 0.5, "loss": None})
    found = parsed(text(Meters(known).metrics(Standing(), [])))
    assert found["fedfleet_model_timestamp_seconds"] == 1700000000
    assert found['fedfleet_score{metric="accuracy"}'] == 0.5
    assert math.isnan(found['fedfleet_score{metric="loss"}'])
    assert "fedfleet_train_loss" not in found
    with world(evaluate=lambda _: {"accuracy": 0.25}) as federation:
        federation.play()
        operations = Operations(AggregatorSettings("mill", "model", "cloud"), federation.folder, lambda: 0.0)
        operations.look(federation.cloud)
        found = parsed(operations.page())
        assert time.time() - 60 < found["fedfleet_model_timestamp_seconds"] <= time.time()
        assert found['fedfleet_score{metric="accuracy"}'] == 0.25
        operations.close()


def test_the_page_is_as_long_for_any_fleet() -> None:
    now, meters = Standing(), Meters()
    pages = [text(meters.metrics(now, [Status("ready", 1)] * n)) for n in (1, 9999)]
    assert len(pages[1]) == len(pages[0]) + 3


def test_every_metric_is_explained() -> None:
    meters = Meters()
    meters.round(ended(accuracy=0.5))
    known = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    for metric in (*meters.metrics(Standing(), []), *process()):
        assert f"`{metric.name}" in known, metric.name


@pytest.fixture
def scrape() -> Iterator[Scrape]:
    found = Scrape("127.0.0.1", 0, lambda: text([gauge("x", "X.", 1)]))
    yield found
    found.close()


def asked(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str | None, str]:
    link = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        link.request(method, path)
        answer = link.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()
    finally:
        link.close()


def test_the_page_is_served(scrape: Scrape) -> None:
    assert asked(scrape.port) == (200, CONTENT_TYPE, "# HELP x X.\n# TYPE x gauge\nx 1\n")
    assert asked(scrape.port, "/metrics?name[]=x")[0] == 200
    assert asked(scrape.port, "/")[0] == 404
    assert asked(scrape.port, method="POST")[0] == 501


def test_a_reader_that_says_nothing_is_in_nobodys_way(scrape: Scrape) -> None:
    with socket.create_connection(("127.0.0.1", scrape.port)):
        assert asked(scrape.port)[0] == 200


def test_an_address_that_cannot_be_had_is_named(scrape: Scrape) -> None:
    reason = rf"metrics: 127.0.0.1:{scrape.port}: Address already in use; choose another host or port"
    with pytest.raises(SettingsError, match=reason):
        Scrape("127.0.0.1", scrape.port, str)
    with pytest.raises(SettingsError, match="metrics: nowhere.invalid:1: .*; choose another host or port"):
        Scrape("nowhere.invalid", 1, str)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_federation_is_seen_over_a_real_socket(tmp_path: Path) -> None:
    rounds = Rounds(total=3, devices=3, deadline=1000.0)
    trainers = {"d1": Unwilling(DataError("no examples"))}
    with world(rounds=rounds, trainers=trainers, evaluate=lambda _: {"accuracy": 0.5}) as found:
        wanted = Metrics(port=free_port(), tensorboard="events")
        settings = AggregatorSettings("mill", "model", "cloud", rounds=rounds, metrics=wanted)
        operations = Operations(settings, found.folder, lambda: found.now)
        found.until(2)
        for record in found.records:
            operations.round(record)
        operations.look(found.cloud)
        seen = parsed(asked(wanted.port)[2])
        assert (seen["fedfleet_round"], seen['fedfleet_rounds_total{state="closed"}']) == (2, 1)
        assert seen['fedfleet_updates_total{outcome="counted"}'] == 2
        assert seen['fedfleet_bytes_total{direction="up"}'] == found.records[0].bytes_up > 0
        assert (seen['fedfleet_devices{state="ready"}'], seen['fedfleet_score{metric="accuracy"}']) == (3, 0.5)
        found.play()
        operations.look(found.cloud, now=True)
        assert parsed(asked(wanted.port)[2])["fedfleet_round"] == 3
        operations.close()
        with pytest.raises(ConnectionRefusedError):
            asked(wanted.port)
        assert len(list((found.folder / "events").glob("events.out.tfevents.*"))) == 1
        assert "score/accuracy" in scalars(found.records[0])


def test_it_looks_once_a_second_at_most() -> None:
    with world() as found:
        now = [0.0]
        operations = Operations(AggregatorSettings("mill", "model", "cloud"), found.folder, lambda: now[0])
        operations.look(found.cloud)
        first = operations.page()
        found.until(1)
        now[0] += EVERY / 2
        operations.look(found.cloud)
        assert "\nfedfleet_round 0\n" in first and "\nfedfleet_round 0\n" in operations.page()
        now[0] += EVERY / 2
        operations.look(found.cloud)
        assert "\nfedfleet_round 1\n" in operations.page()
        operations.close()


def test_event_files_that_cannot_be_written_hold_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with world() as found:
        operations = Operations(AggregatorSettings("mill", "model", "cloud"), found.folder, lambda: 0.0)

        def full(_: RoundRecord) -> None:
            raise StoreError("events: no space left; free the disk")

        operations._listeners.insert(0, full)
        operations.round(ended(1))
        assert [record.message for record in caplog.records] == ["events: no space left; free the disk"]
        operations.look(found.cloud)
        assert 'fedfleet_rounds_total{state="closed"} 1' in operations.page()
        operations.close()
        (found.folder / "file").write_text("")
        settings = AggregatorSettings("mill", "model", "cloud", metrics=Metrics(tensorboard="file/x"))
        with pytest.raises(StoreError, match="cannot take event files"):
            Operations(settings, found.folder, lambda: 0.0)
