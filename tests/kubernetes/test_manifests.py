"""The manifests: each against Kubernetes' own schema, then against each other, the images and the house's rules."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from processes import ROOT

from fedfleet.cloud.broker.folder import KEPT, kept
from fedfleet.cloud.health import trouble
from fedfleet.cloud.identity import folder as authority
from fedfleet.cloud.settings import load_aggregator
from fedfleet.cloud.training.workers import parse
from fedfleet.wire.errors import StoreError

FOLDER = ROOT / "cloud" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
DOCUMENTS = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]
BY_NAME = {(document["kind"], document["metadata"]["name"]): document for document in DOCUMENTS}
WORKLOADS = [document for document in DOCUMENTS if document["kind"] in ("StatefulSet", "Job")]
USER = 10001
FROM_OUTSIDE = {"fedfleet-broker", "fedfleet-pki", "fedfleet-model"}  # what docs/kubernetes.md has the operator make


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def ports(workload: dict[str, Any]) -> dict[str, int]:
    found = [port for container in containers(workload) for port in container.get("ports", [])]
    return {port["name"]: port["containerPort"] for port in found}


def workload(name: str) -> dict[str, Any]:
    return next(found for found in WORKLOADS if found["metadata"]["name"] == name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_each_is_what_kubernetes_takes_and_nothing_more(document: dict[str, Any]) -> None:
    for version in ("1.27", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_would_say_no() -> None:
    broken = json.loads(json.dumps(BY_NAME["StatefulSet", "broker"]))
    pod(broken)["containers"][0]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_all_lie_in_one_namespace(document: dict[str, Any]) -> None:
    if document["kind"] == "Namespace":
        assert document["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert document["metadata"]["name"] == "fedfleet"
    else:
        assert document["metadata"]["namespace"] == "fedfleet"


@pytest.mark.parametrize("found", WORKLOADS, ids=named)
def test_pods_have_no_rights_and_bounded_resources(found: dict[str, Any]) -> None:
    spec = pod(found)
    context = spec["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] == context["fsGroup"] == USER
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in containers(found):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])


@pytest.mark.parametrize("name", ["broker", "aggregator"])
def test_what_serves_is_probed(name: str) -> None:
    (container,) = pod(workload(name))["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe].get("tcpSocket") or container[probe].get("httpGet")
        assert asked is None or asked["port"] in ports(workload(name))


def test_the_aggregators_health_check_is_the_images_own() -> None:
    (container,) = pod(workload("aggregator"))["containers"]
    check = container["readinessProbe"]["exec"]["command"]
    stated = (ROOT / "cloud" / "Dockerfile").read_text()
    assert json.dumps(check) in stated


@pytest.mark.parametrize("name", ["broker", "aggregator", "training"])
def test_services_lead_to_pods_and_their_ports(name: str) -> None:
    service, found = BY_NAME["Service", name], workload(name)
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    for port in service["spec"]["ports"]:
        assert ports(found)[port["targetPort"]] == port["port"]
    if found["kind"] == "StatefulSet":
        assert found["spec"]["serviceName"] == name
        assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    else:
        assert pod(found)["subdomain"] == name


def test_volumes_are_there_and_used() -> None:
    for found in WORKLOADS:
        claimed = {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", [])}
        have = claimed | {volume["name"] for volume in pod(found)["volumes"]}
        used = {mount["name"] for container in containers(found) for mount in container["volumeMounts"]}
        assert have == used, named(found)


def sources() -> Iterator[tuple[str, str]]:
    for found in WORKLOADS:
        for volume in pod(found)["volumes"]:
            if "secret" in volume:
                yield "Secret", volume["secret"]["secretName"]
            elif "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"]
            elif "persistentVolumeClaim" in volume:
                yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def test_what_is_mounted_is_made_here_or_by_what_the_page_says() -> None:
    elsewhere = {name for kind, name in sources() if (kind, name) not in BY_NAME}
    assert elsewhere == FROM_OUTSIDE
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    for name in FROM_OUTSIDE:
        assert re.search(rf"create (secret generic|configmap) {name} ", page), name


def test_images_are_those_of_the_dockerfiles_in_one_version() -> None:
    images = {container["image"] for found in WORKLOADS for container in containers(found)}
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert images == {f"fedfleet-broker:{version[1]}", f"fedfleet-cloud:{version[1]}"}
    for file, image in (("broker.Dockerfile", "fedfleet-broker"), ("Dockerfile", "fedfleet-cloud")):
        text = (ROOT / "cloud" / file).read_text()
        assert f"-t {image}" in text and f"USER {USER}:{USER}" in text
    assert "/etc/fedfleet/mosquitto.conf" in (ROOT / "cloud" / "broker.Dockerfile").read_text()


def policy(name: str) -> dict[str, Any]:
    found: dict[str, Any] = BY_NAME["NetworkPolicy", name]["spec"]
    return found


def test_nothing_is_open_but_the_ports_that_pods_have() -> None:
    assert policy("nothing") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in ("broker", "aggregator", "training"):
        spec = policy(name)
        assert spec["podSelector"]["matchLabels"] == {"app": name}
        opened = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
        assert opened == set(ports(workload(name)).values())
    assert all("from" in rule for name in ("aggregator", "training") for rule in policy(name)["ingress"])
    (out,) = policy("aggregator")["egress"]
    assert out["to"] == [{"podSelector": {"matchLabels": {"app": "broker"}}}]
    assert [port["port"] for port in out["ports"]] == [
        port["port"] for port in BY_NAME["Service", "broker"]["spec"]["ports"]
    ]


def test_the_aggregators_settings_are_good_and_name_what_the_manifests_have(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(BY_NAME["ConfigMap", "aggregator"]["data"]["settings.toml"])
    settings = load_aggregator(tmp_path / "settings.toml")
    (service,) = BY_NAME["Service", "broker"]["spec"]["ports"]
    assert (settings.broker.host, settings.broker.port, settings.broker.tls) == ("broker", service["port"], True)
    assert settings.metrics.port == ports(workload("aggregator"))["metrics"]
    assert settings.identity.pki == "pki"
    link = authority.link(tmp_path / "pki", authority.Fleet(settings.fleet, ("broker",)), "cloud")
    assert (settings.broker.ca, settings.broker.certificate, settings.broker.key) == (
        link.ca,
        link.certificate,
        link.key,
    )
    with pytest.raises(StoreError):
        trouble(tmp_path / "settings.toml")


def script(found: dict[str, Any], container: str) -> str:
    (text,) = next(one["args"] for one in containers(found) if one["name"] == container)
    return str(text)


@pytest.mark.parametrize("index", [0, 1])
def test_each_worker_of_the_job_is_told_who_is_who(index: int) -> None:
    job = workload("training")
    text = script(job, "worker").replace("exec python3 -m fedfleet.cli.main", 'printf "%s\\n" "$TF_CONFIG"; echo')
    (count,) = [one["value"] for one in pod(job)["containers"][0]["env"] if one["name"] == "WORKERS"]
    assert int(count) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert job["spec"]["completionMode"] == "Indexed"
    environment = {"WORKERS": count, "JOB_COMPLETION_INDEX": str(index), "PATH": "/usr/bin:/bin"}
    said = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=True).stdout
    found = json.loads(said.splitlines()[0])
    port = ports(job)["worker"]
    assert found == {
        "cluster": {"worker": [f"training-{number}.training:{port}" for number in range(int(count))]},
        "task": {"type": "worker", "index": index},
    }
    assert "train --strategy workers" in said
    assert parse(said.splitlines()[0]).index == index


def test_the_authority_moves_into_its_volume_once(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "ca.pem").write_text("first")
    (secret / KEPT).write_text("/home/operator/broker")
    text = script(workload("aggregator"), "authority").replace("/secret/", f"{secret}/")
    for said in ("first", "second"):
        (secret / "ca.pem").write_text(said)
        subprocess.run(["sh", "-c", text], cwd=tmp_path, check=True)
        assert (tmp_path / "pki" / "ca.pem").read_text() == "first"
    assert (tmp_path / "pki" / "ca.pem").stat().st_mode & 0o777 == 0o600
    assert kept(tmp_path / "pki") == tmp_path / "pki", "a revocation writes where the pod may"
