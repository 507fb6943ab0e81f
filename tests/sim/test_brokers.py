"""Brokers that a run starts for itself: they come up, they go away, and a port that is taken is said so."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from brokers import KINDS

from fedfleet.sim.brokers import mosquitto, running
from fedfleet.wire.errors import BusDown, SettingsError
from fedfleet.wire.mqtt import MqttBus


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_while_the_block_lasts(kind: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as (broker, name):
        assert name == f"{kind} on port {broker.port}"
        MqttBus(broker, "client").close()
    with pytest.raises(BusDown, match="no broker"):
        MqttBus(broker, "client")


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_away_when_the_block_fails(kind: str, tmp_path: Path) -> None:
    def fail() -> None:
        with running(kind, tmp_path) as (broker, _):
            ports.append(broker.port)
            raise KeyboardInterrupt

    ports: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fail()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", ports[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_that_is_taken_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port} cannot be had \(Address already in use\); name another"):
            with running(f"{kind}:{port}", tmp_path):
                pass


def test_auto_takes_mosquitto_where_it_is_and_amqtt_where_not(tmp_path: Path) -> None:
    with running("auto", tmp_path) as (_, name):
        assert name.startswith("mosquitto" if mosquitto() else "amqtt")


def test_a_broker_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    with running("broker.example:8883", tmp_path) as (broker, name):
        assert (broker.host, broker.port, name) == ("broker.example", 8883, "broker.example:8883")
    with running("localhost", tmp_path) as (broker, _):
        assert broker.port == 1883


@pytest.mark.parametrize("bad", ["host:port", ":1883", "host:0", "host:99999", "mosquitto:x"])
def test_an_address_that_is_none_is_refused(bad: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="broker"), running(bad, tmp_path):
        pass
