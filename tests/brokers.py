"""Real brokers for tests: mosquitto where it is installed, and amqtt, which comes with the simulator."""

from __future__ import annotations

from fedfleet.sim import brokers

KINDS = (["mosquitto"] if brokers.mosquitto() else []) + ["amqtt"]
