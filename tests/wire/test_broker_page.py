"""docs/broker.md, the way by hand: its commands make certificates, its mosquitto takes the device of its settings."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest
from brokers import free_port, mosquitto, needs_mosquitto
from certificates import needs_openssl
from processes import ROOT

from fedfleet.edge.settings import load_agent
from fedfleet.wire.backoff import LONGEST, LONGEST_REFUSED, SHORTEST
from fedfleet.wire.boxes import TRIES
from fedfleet.wire.errors import BusDown
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker

PAGE = (ROOT / "docs" / "broker.md").read_text()
COMMANDS, SERVER, DEVICE = re.findall(r"```\w*\n(.*?)```", PAGE.partition("## By hand")[2], re.DOTALL)


@needs_mosquitto
@needs_openssl
def test_the_page_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-euc", COMMANDS], check=True, capture_output=True)
    ports = {name: str(free_port()) for name in ("8883", "8443")}
    server = re.sub(r"listener (\d+)", lambda found: f"listener {ports[found[1]]} 127.0.0.1", SERVER)
    (tmp_path / "agent.toml").write_text('device = "pump-1"\nfleet = "mill"\n' + DEVICE.replace("8883", ports["8883"]))
    settings, _ = load_agent(tmp_path / "agent.toml")
    with mosquitto(tmp_path, free_port(), *server.splitlines()):
        secure = settings.broker
        for broker in (secure, replace(secure, port=int(ports["8443"]), transport="websockets")):
            bus = MqttBus(broker, settings.device)
            bus.subscribe("fedfleet/v1/mill/task")
            bus.publish("fedfleet/v1/mill/task", b"1")
            assert bus.deliveries(10) == [("fedfleet/v1/mill/task", b"1")]
            bus.close()
        with pytest.raises(BusDown, match="wants a client certificate"):
            MqttBus(replace(secure, certificate="", key=""), "stranger")


def test_the_page_names_every_setting_and_the_figures_of_the_code() -> None:
    table = re.findall(r"^\| (`.*?) \|", PAGE.partition("## Settings of clients")[2], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == {field.name for field in fields(Broker)}
    assert f"doubles from {SHORTEST:g} s\nto {LONGEST:g} s" in PAGE
    assert f"to {LONGEST_REFUSED / 60:g} minutes" in PAGE
    assert f"given up after {({5: 'five'})[TRIES]} links" in PAGE
