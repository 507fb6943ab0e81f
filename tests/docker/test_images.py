"""Images, compose and the dashboard as they are written: what they promise, and that they agree with each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ROOT, environment

from fedfleet.cloud import exposition
from fedfleet.cloud.federation import RoundRecord
from fedfleet.cloud.meters import Meters
from fedfleet.cloud.notes import Standing
from fedfleet.cloud.settings import load_aggregator
from fedfleet.edge.settings import load_agent
from fedfleet.sim.docker.breaking import OWN_MEMORY, TOOLS
from fedfleet.sim.docker.client import NEEDED
from fedfleet.sim.docker.stack import CONFIGURATION, HOME, PORT, USER

SIM = ROOT / "firmware_sim"
DOCKERFILES = ("edge/Dockerfile", "cloud/Dockerfile", "cloud/broker.Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((SIM / "compose.yaml").read_text())
SERVICES: dict[str, Any] = yaml.safe_load((SIM / "services.yaml").read_text())["services"]
DASHBOARD: dict[str, Any] = json.loads((SIM / "observe" / "dashboard.json").read_text())
DEVICES = [f"d{index}" for index in range(8)]
WORDS = {"rate", "increase", "time", "histogram_quantile", "closed", "abandoned", "state", "m", "h"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_takes_its_base_and_is_nobodys_root(name: str) -> None:
    text = (ROOT / name).read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == f"{USER}:{USER}"
    assert text.count("\nHEALTHCHECK") == 1 and "://" not in text
    assert f"-f {name}" in text, "how it is built is said on top"


@pytest.mark.parametrize(
    ("name", "lock"), [("edge/Dockerfile", "edge/lock.txt"), ("cloud/Dockerfile", "cloud/lock.txt")]
)
def test_packages_are_those_of_the_lock_by_their_hashes(name: str, lock: str) -> None:
    text = (ROOT / name).read_text()
    assert f"COPY {lock} /tmp/lock.txt" in text
    assert "--require-hashes" in text and "-r /tmp/lock.txt" in text
    assert ("tensorflow==" in (ROOT / lock).read_text()) == (name == "cloud/Dockerfile")


def test_what_is_sent_to_the_builder_is_code_and_locks_and_no_key() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {"cloud", "edge", "firmware_sim", "models"}
    assert {"**/*.key", "**/*.pem"} <= set(lines)


def test_the_engine_finds_what_it_builds_from() -> None:
    assert all((ROOT / name).is_file() for name in NEEDED)
    assert f"-t {TOOLS}" in (ROOT / "cloud" / "broker.Dockerfile").read_text()


@pytest.mark.parametrize("name", [*SERVICES, *COMPOSE["services"]])
def test_services_have_no_rights(name: str) -> None:
    found = {**SERVICES, **COMPOSE["services"]}[name]
    if "extends" in found:
        found = SERVICES[found["extends"]["service"]]
    assert found["cap_drop"] == ["ALL"] and found["security_opt"] == ["no-new-privileges:true"]
    assert found.get("read_only") or name == "grafana", "Grafana writes where it lies"


def test_a_device_is_as_small_as_a_board() -> None:
    agent = SERVICES["agent"]
    assert (agent["mem_limit"], agent["memswap_limit"], agent["cpus"]) == ("512m", "512m", 0.5)
    assert OWN_MEMORY == 512 * 2**20, "what a device has again after a fault"
    assert agent["networks"] == ["field"] and COMPOSE["networks"]["field"] == {"internal": True}


def test_each_device_has_a_volume_of_its_own_and_init_fills_them() -> None:
    services = COMPOSE["services"]
    assert [name for name in services if re.fullmatch(r"d\d", name)] == DEVICES
    for name in DEVICES:
        assert services[name]["volumes"] == [f"{name}:{HOME}"]
        assert f"{name}:/fleet/{name}" in services["init"]["volumes"]
    assert set(COMPOSE["volumes"]) == {"cloud", "broker", "prometheus", *DEVICES}
    assert services["init"]["command"] == "${DEVICES:-" + " ".join(DEVICES) + "}"
    assert services["broker"]["volumes"] == [f"broker:{CONFIGURATION}"]


def test_nothing_is_published_but_a_dashboard_to_this_machine() -> None:
    published = {name: found["ports"] for name, found in COMPOSE["services"].items() if "ports" in found}
    assert published == {"grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]}


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What init.sh makes, run here with its folders moved; twice, since it may run before every start."""
    place = tmp_path_factory.mktemp("init")
    for folder in ("cloud", "broker", "fleet/d0", "fleet/d1"):
        (place / folder).mkdir(parents=True)
    text = (SIM / "init.sh").read_text()
    zoo = ROOT / "models" / "fedfleet" / "models" / "zoo"
    for old, new in (
        ("cloud=/var/lib/fedfleet broker=/etc/fedfleet devices=/fleet user=10001", f"cloud={place}/cloud broker={place}/broker devices={place}/fleet"),
        ('chown -R "$user:$user"', ":"),
        ("/opt/fedfleet/fedfleet/models/zoo", str(zoo)),
        ("python3 -m", f"{sys.executable} -m"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    for _ in range(2):
        known = {**environment(), "FLEET": "yard", "ROUNDS": "7"}
        done = subprocess.run(
            ["sh", "-c", text, "init", "d0", "d1"], env=known, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        (place / "said").write_text(done.stdout)
    return place


def test_init_makes_settings_that_are_good_and_meet_at_the_broker(initialised: Path) -> None:
    cloud = load_aggregator(initialised / "cloud" / "settings.toml")
    assert (cloud.fleet, cloud.rounds.total, cloud.rounds.devices, cloud.identity.pki) == ("yard", 7, 2, "pki")
    assert all(Path(file).is_file() for file in (cloud.broker.ca, cloud.broker.certificate, cloud.broker.key))
    assert (initialised / "cloud" / cloud.model / "program.tflite").is_file()
    for device in ("d0", "d1"):
        agent, state = load_agent(initialised / "fleet" / device / "agent.toml")
        assert (agent.device, agent.fleet, state.name) == (device, "yard", "state")
        assert (agent.broker.host, agent.broker.port, agent.broker.tls) == ("broker", PORT, True)
        assert (agent.broker.host, agent.broker.port) == (cloud.broker.host, cloud.broker.port)
        assert Path(initialised / "fleet" / device / agent.enrol.claim).stat().st_mode & 0o077 == 0
    conf = (initialised / "broker" / "mosquitto.conf").read_text()
    assert f"listener {PORT}" in conf and "require_certificate true" in conf


def test_init_leaves_alone_what_is_there(initialised: Path) -> None:
    assert (initialised / "said").read_text() == ""


def metrics() -> dict[str, set[str]]:
    """The samples' names of the exposition as it is, each with its labels' names."""
    meters = Meters()
    meters.round(RoundRecord(1, "closed", "all", 1, 1, 0, 10, 0.5, 1, 1, 1.0, "", 1.0, {"accuracy": 0.5}))
    now = Standing("yard", "fedavg", 9, 1)
    page = exposition.text(meters.metrics(now, [])) + exposition.text(exposition.process())
    rows = re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", page, re.MULTILINE)
    return {name: set(re.findall(r"(\w+)=", labels)) for name, labels in rows}


def queries() -> list[dict[str, str]]:
    return [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_there_are_and_for_all_of_them() -> None:
    known, asked = metrics(), set[str]()
    for target in queries():
        names = {word for word in re.findall(r"[a-z_]+", target["expr"]) if word not in WORDS}
        assert names <= set(known), target["expr"]
        labels = {label for name in names for label in known[name]}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target
        asked |= names
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} == plain


def test_the_dashboard_lies_where_grafana_looks_and_its_source_is_ours() -> None:
    source = yaml.safe_load((SIM / "observe" / "source.yaml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    provider = yaml.safe_load((SIM / "observe" / "dashboards.yaml").read_text())["providers"][0]
    mounted = [volume.split(":") for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/dashboard.json" in [target for _, target, _ in mounted]
    assert all((SIM / source).is_file() for source, _, _ in mounted)


def test_prometheus_asks_where_the_aggregator_answers_and_alerts_as_the_page_says(initialised: Path) -> None:
    settings = yaml.safe_load((SIM / "observe" / "prometheus.yaml").read_text())
    port = load_aggregator(initialised / "cloud" / "settings.toml").metrics.port
    (job,) = settings["scrape_configs"]
    assert job["job_name"] == "fedfleet" and job["static_configs"] == [{"targets": [f"aggregator:{port}"]}]
    (stated,) = re.findall(r"```yaml\n(groups:.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    assert yaml.safe_load(stated) == yaml.safe_load((SIM / "observe" / "alerts.yaml").read_text())
