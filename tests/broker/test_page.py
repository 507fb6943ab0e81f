"""docs/broker.md and docs/emqx.md say what the code does: their commands run, their lists are the list."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from broker.estates import TOPICS
from broker.running import Mosquitto
from processes import ROOT, environment

from fedfleet.cloud.broker.acl import BOTH, GOSSIP_READ, GOSSIP_WRITE, READ, WRITE
from fedfleet.cloud.broker.conf import DURABLE, PACKET
from fedfleet.cloud.identity.folder import link, read
from fedfleet.sim.brokers import free_port
from fedfleet.wire.mqtt import MqttBus

PAGE = (ROOT / "docs" / "broker.md").read_text()
EMQX = (ROOT / "docs" / "emqx.md").read_text()
FEDFLEET = f'fedfleet() {{ {sys.executable} -m fedfleet.cli.main "$@"; }}\n'
USER = 'started() { [ "$(id -u)" = 0 ] && sed -i "1i user root" "$1"; :; }\n'


def blocks(page: str, heading: str) -> list[str]:
    """The code below a heading."""
    return re.findall(r"```\w*\n(.*?)```", page.partition(f"## {heading}\n")[2].partition("\n## ")[0], re.DOTALL)


def test_the_first_commands_make_a_broker_that_lets_the_cloud_in(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks(PAGE, "A broker for a fleet")
    port, socket = free_port(), free_port()
    made, _, run = commands.replace("127.0.0.1\n", f"127.0.0.1 --port {port}\n").partition("fedfleet broker check")
    made = made.replace("8443", str(socket)) + "started pki/mosquitto.conf\nfedfleet broker check pki\n"
    subprocess.run(["bash", "-euc", FEDFLEET + USER + made], check=True, capture_output=True, env=environment())
    assert run == " pki\nmosquitto -c pki/mosquitto.conf\n"
    mosquitto = Mosquitto(tmp_path / "pki")
    mosquitto.start()
    try:
        bus = MqttBus(link(tmp_path / "pki", read(tmp_path / "pki"), "cloud"), "mill-cloud")
        bus.subscribe(TOPICS.task)
        bus.publish(TOPICS.task, b"1")
        assert bus.deliveries(10) == [(TOPICS.task, b"1")]
        bus.close()
    finally:
        mosquitto.kill()


def test_the_table_of_rights_is_the_list() -> None:
    device = next(line for line in PAGE.splitlines() if line.startswith("| a device"))
    reads, writes = device.split("|")[2:4]
    assert set(re.findall(r"`(.*?)`", reads)) == {topic.partition("%u/")[2] or topic for topic in READ + BOTH}
    assert set(re.findall(r"`(.*?)`", writes)) == {topic.partition("%u/")[2] for topic in WRITE + BOTH}
    changes = re.search(r"autosave_interval (\d+)", DURABLE)
    assert changes and f"saves after {changes[1]} changes" in PAGE


def test_the_rules_for_emqx_are_the_list() -> None:
    found = {"subscribe": set[str](), "publish": set[str]()}
    for action, topics in re.findall(r"\{allow, all, (\w+), \[(.*?)\]\}", EMQX, re.DOTALL):
        found[action] |= set(re.findall(r'"fedfleet/v1/mill/(.*?)"', topics))
    ours = {"subscribe": READ + BOTH + GOSSIP_READ, "publish": WRITE + BOTH + GOSSIP_WRITE}
    assert found == {
        action: {topic.replace("%u", "${username}") for topic in topics} for action, topics in ours.items()
    }
    assert f"max_packet_size = {PACKET // 1000}KB" in EMQX
    assert "None of this page was run by us" in EMQX
