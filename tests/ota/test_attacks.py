"""Every class of attack that The Update Framework's specification names, against a device; metadata by python-tuf."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ota.devices import AGENT, TOPICS, Device
from ota.owners import Owner, altered, chain, expired
from tuf.api.metadata import TargetFile

from fedfleet.cloud.releases import keys
from fedfleet.cloud.releases.published import Published, publish
from fedfleet.edge.ota.choice import Board, board, choose
from fedfleet.edge.ota.trust import Trust
from fedfleet.wire.errors import ReleaseError
from fedfleet.wire.messages import Blob, decode, encode
from fedfleet.wire.release import Release


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path / "owner")


@pytest.fixture
def device(tmp_path: Path, owner: Owner) -> Device:
    return Device(tmp_path / "board", owner)


@pytest.fixture
def trust(tmp_path: Path, owner: Owner) -> Trust:
    return Trust(tmp_path / "trust.json", owner.anchor())


def take(trust: Trust, owner: Owner) -> None:
    """Take all that the owner has signed."""
    trust.roots(owner.roots())
    trust.timestamp(owner.bytes("timestamp"))
    trust.snapshot(owner.bytes("snapshot"))
    trust.targets(owner.bytes("targets"))


def test_without_an_attack_the_release_is_installed(device: Device) -> None:
    device.release("2.0.0")
    device.look()
    assert device.updater.leaving
    assert (device.current, device.slots.link("previous")) == ("2.0.0", "1.0.0")
    site = device.folder / "slots" / "2.0.0" / "site"
    assert (site / "version.py").read_bytes() == b"2.0.0"  # though the old slot has a wheel of the same name
    assert (site / "fedfleet/edge/big.py").read_bytes() == AGENT["fedfleet/edge/big.py"]


def test_arbitrary_installation_by_keys_of_ones_own(device: Device, tmp_path: Path) -> None:
    thief = Owner(tmp_path / "thief")
    thief.release(device.bundle("6.6.6"))
    publish(thief.repo, Published("6.6.6"))
    device.serving = type(device.serving)(thief.repo, device._cloud, TOPICS, lambda: device.now)
    device.serve()
    assert device.look() == "6.6.6 refused: timestamp.json 2 is not signed by enough of the keys that are trusted"
    assert not device.updater.leaving and device.current == "1.0.0"


def test_arbitrary_installation_of_what_nobody_signed(device: Device) -> None:
    device.release("2.0.0")
    message = decode(Release, device.hub.retained[TOPICS.release])
    device.hub.publish(TOPICS.release, encode(replace(message, version="2.0.1")), True)
    assert device.look() == f"2.0.1 refused: there is none for {board()}"


@pytest.mark.parametrize(
    ("field", "size", "why"),
    [
        ("timestamp", 16_385, "the timestamp would have 16385 bytes; at most 16384 are taken"),
        ("roots", 4 * 2**20 + 1, "the roots would have 4194305 bytes; at most 4194304 are taken"),
    ],
)
def test_endless_data_is_not_even_asked_for(device: Device, field: str, size: int, why: str) -> None:
    device.release("2.0.0")
    message = decode(Release, device.hub.retained[TOPICS.release])
    device.hub.publish(TOPICS.release, encode(replace(message, **{field: Blob("a" * 64, size)})), True)
    assert device.look() == f"2.0.0 refused: {why}"
    assert device.bus._patterns == {TOPICS.release}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_endless_data_in_the_place_of_metadata(trust: Trust, owner: Owner, role: str) -> None:
    take(trust, owner)
    with pytest.raises(ReleaseError, match=r"\.json has \d+ bytes; at most \d+ are taken"):
        getattr(trust, role)(owner.bytes(role) + b" " * 5_000_000)


def test_endless_data_that_is_signed(owner: Owner, trust: Trust) -> None:
    """Also whoever has a key of the timestamp cannot fill a disk with a snapshot."""

    def swell(signed: Any) -> None:
        signed.version, signed.snapshot_meta.length = 9, 2_000_001

    with pytest.raises(ReleaseError, match=r"snapshot.json must have at most 2000000 bytes"):
        trust.timestamp(altered(owner.bytes("timestamp"), swell, owner.signers("timestamp-1")))


def test_extraneous_dependencies_are_not_fetched(device: Device, owner: Owner) -> None:
    """A release.json that names a wheel which is no signed target, though it is a sound blob on the broker."""
    made = device.bundle("2.0.0", {**AGENT, "more.py": b"1"})
    owner.release(made)
    extra = b"a wheel from elsewhere"
    facts = json.loads((made / "release.json").read_text())
    named = {"name": "extra-1.0-py3-none-any.whl", "sha256": hashlib.sha256(extra).hexdigest(), "size": len(extra)}
    text = json.dumps({**facts, "wheels": [*facts["wheels"], named]}).encode()
    place = f"{board().folder('2.0.0')}/release.json"

    def swap(signed: Any) -> None:
        fake = TargetFile.from_data(place, text)
        fake.unrecognized_fields["custom"] = signed.targets[place].unrecognized_fields["custom"]
        signed.targets[place] = fake

    resign(owner, swap)
    target = owner.repo / "targets" / place
    target.with_name(f"{hashlib.sha256(text).hexdigest()}.release.json").write_bytes(text)
    device.publish("2.0.0")
    assert device.look() == "2.0.0 refused: extra-1.0-py3-none-any.whl is not among the signed files"


def resign(owner: Owner, change: Any) -> None:
    """Let the owner sign targets of another content: what a careless one might."""
    from fedfleet.cloud.releases.repository import Repository

    found = Repository(owner.repo)
    targets = found.targets.signed
    change(targets)
    assert found.change(targets, keys.load(owner.keys)) == ""


def test_fast_forward_is_recovered_from_by_new_keys(trust: Trust, owner: Owner) -> None:
    """Who has the keys of timestamp and snapshot can take versions to their end, but not for ever."""
    take(trust, owner)
    thief = owner.signers("timestamp-1")
    far = altered(owner.bytes("timestamp"), lambda signed: setattr(signed, "version", 2**53 - 1), thief)
    trust.timestamp(far)
    owner.refresh()
    with pytest.raises(ReleaseError, match=f"version 2 is older than {2**53 - 1}"):
        trust.timestamp(owner.bytes("timestamp"))
    owner.rotate("timestamp")
    owner.rotate("snapshot")
    take(trust, owner)
    with pytest.raises(ReleaseError, match="not signed by enough"):
        trust.timestamp(far)


def test_indefinite_freeze_ends_with_the_metadata(owner: Owner, trust: Trust) -> None:
    old = altered(owner.bytes("timestamp"), expired, owner.signers("timestamp-1"))
    with pytest.raises(ReleaseError, match=r"made after it expires|timestamp.json has expired at"):
        trust.timestamp(old)


def lasting(signed: Any) -> None:
    """Let metadata last for three years."""
    signed.expires = signed.expires + timedelta(days=1000)


@pytest.mark.parametrize(("role", "days"), [("timestamp", 8), ("snapshot", 31), ("targets", 366), ("root", 366)])
def test_indefinite_freeze_by_any_role_that_has_expired(owner: Owner, tmp_path: Path, role: str, days: int) -> None:
    later = datetime.now(UTC) + timedelta(days=days)
    late = Trust(tmp_path / "late.json", owner.anchor(), lambda: later)
    everyone = owner.signers("root-1", "root-2")
    if role != "root":

        def next_root(signed: Any) -> None:
            lasting(signed)
            signed.version = 2

        late.roots(chain([altered(owner.anchor(), next_root, everyone)]))
    snapshot, timestamp = owner.bytes("snapshot"), owner.bytes("timestamp")
    if role == "targets":
        snapshot = altered(snapshot, lasting, owner.signers("snapshot-1"))
    if role in ("snapshot", "targets"):

        def names_it(signed: Any) -> None:
            lasting(signed)
            signed.snapshot_meta.length = len(snapshot)
            signed.snapshot_meta.hashes["sha256"] = hashlib.sha256(snapshot).hexdigest()

        timestamp = altered(timestamp, names_it, owner.signers("timestamp-1"))
    with pytest.raises(ReleaseError, match=f"{role}.json has expired at 20"):
        late.timestamp(timestamp)
        late.snapshot(snapshot)
        late.targets(owner.bytes("targets"))


def test_indefinite_freeze_is_seen_by_a_board_without_a_clock(owner: Owner, tmp_path: Path) -> None:
    """It believes that it is 1970, but what was made later has been signed: that is a floor to its clock."""
    clock = datetime(1970, 1, 1, tzinfo=UTC)
    trust = Trust(tmp_path / "trust.json", owner.anchor(), lambda: clock)
    frozen = owner.bytes("timestamp")
    take(trust, owner)

    def later(signed: Any) -> None:
        signed.version, signed.expires = 2, signed.expires + timedelta(days=30)
        signed.unrecognized_fields["made"] = f"{signed.expires - timedelta(days=10):%Y-%m-%dT%H:%M:%SZ}"

    trust.timestamp(altered(frozen, later, owner.signers("timestamp-1")))
    assert trust.floor > datetime.now(UTC) + timedelta(days=20)

    def oldest(signed: Any) -> None:
        signed.version = 3

    with pytest.raises(ReleaseError, match="made before the one that is known"):
        trust.timestamp(altered(frozen, oldest, owner.signers("timestamp-1")))
    again = Trust(tmp_path / "trust.json", owner.anchor(), lambda: clock)
    assert again.floor == trust.floor


def test_a_malicious_mirror_gives_other_bytes(device: Device) -> None:
    """The broker serves a wheel's chunk with one byte changed: dropped; with the true bytes it goes on."""
    device.release("2.0.0")
    chunks = {topic: data for topic, data in device.hub.retained.items() if "/chunk/" in topic}
    for topic, data in chunks.items():
        device.hub.retained[topic] = bytes([data[0] ^ 1]) + data[1:]
    assert device.look() == "2.0.0 fetching"
    assert device.current == "1.0.0"
    for topic, data in chunks.items():
        device.hub.publish(topic, data, True)
        device.look(steps=2)
    for topic, data in chunks.items():
        device.hub.publish(topic, data, True)
    device.look()
    assert device.current == "2.0.0"


def test_mix_and_match_of_days(trust: Trust, owner: Owner, device: Device) -> None:
    take(trust, owner)
    snapshot, targets = owner.bytes("snapshot"), owner.bytes("targets")
    owner.release(device.bundle("2.0.0", {**AGENT, "x.py": b"1"}))
    trust.timestamp(owner.bytes("timestamp"))
    with pytest.raises(ReleaseError, match=r"snapshot.json has other bytes than the metadata before it says"):
        trust.snapshot(snapshot)
    trust.snapshot(owner.bytes("snapshot"))
    with pytest.raises(ReleaseError, match=r"targets.json has other bytes than the metadata before it says"):
        trust.targets(targets)


def test_rollback_of_each_role(trust: Trust, owner: Owner, device: Device) -> None:
    old = owner.bytes("timestamp")
    owner.release(device.bundle("2.0.0", {**AGENT, "x.py": b"1"}))
    take(trust, owner)
    with pytest.raises(ReleaseError, match=r"timestamp.json: version 1 is older than 2"):
        trust.timestamp(old)
    thief = owner.signers("timestamp-1", "snapshot-1")

    def back(signed: Any) -> None:
        signed.version, signed.snapshot_meta.version = 3, 1

    with pytest.raises(ReleaseError, match=r"its snapshot 1 is older than 2"):
        trust.timestamp(altered(owner.bytes("timestamp"), back, thief))

    def older_targets(signed: Any) -> None:
        signed.version, signed.meta["targets.json"].version = 3, 1

    worse = altered(owner.bytes("snapshot"), older_targets, thief)

    def names_it(signed: Any) -> None:
        signed.version, signed.snapshot_meta.version = 3, 3
        signed.snapshot_meta.length, signed.snapshot_meta.hashes["sha256"] = (
            len(worse),
            hashlib.sha256(worse).hexdigest(),
        )

    trust.timestamp(altered(owner.bytes("timestamp"), names_it, thief))
    with pytest.raises(ReleaseError, match=r"its targets.json 1 is older than 2"):
        trust.snapshot(worse)


def test_rollback_to_an_older_release_that_is_signed_still(device: Device) -> None:
    """Whoever may write the message cannot take a fleet back; the owner can, by signing the old one anew."""
    device.owner.release(device.folder / "bundle-1.0.0")
    device.release("2.0.0")
    device.look()
    (device.folder / "slots" / "trial.json").unlink()  # it was good
    device.start("2.0.0")
    device.publish("1.0.0")
    assert device.look().startswith("1.0.0 refused: it is older than 2.0.0")
    device.owner.release(device.folder / "bundle-1.0.0")
    device.serve()
    device.look()
    assert device.current == "1.0.0"


def test_key_compromise_takes_as_many_keys_as_the_threshold(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "o", {"targets": 2}, targets=2)
    trust = Trust(tmp_path / "trust.json", owner.anchor())
    take(trust, owner)
    mine = keys.make(tmp_path / "mine", "root", 1)

    def seize(signed: Any) -> None:
        signed.version = 2
        signed.add_key(mine[0].public_key, "targets")
        signed.roles["targets"].threshold = 1

    one = altered(owner.anchor(), seize, [*owner.signers("root-1"), *mine])
    with pytest.raises(ReleaseError, match=r"root.json 2 is not signed by enough"):
        trust.roots(chain([one]))
    assert trust.root.version == 1
    worse = altered(owner.bytes("targets"), lambda signed: None, owner.signers("targets-1"))
    with pytest.raises(ReleaseError, match="has other bytes"):
        trust.targets(worse)
    both = altered(owner.anchor(), seize, owner.signers("root-1", "root-2"))
    trust.roots(chain([both]))
    assert trust.root.version == 2


def test_key_compromise_a_root_must_be_signed_by_the_old_keys_and_by_its_own(owner: Owner, tmp_path: Path) -> None:
    trust, mine = Trust(tmp_path / "trust.json", owner.anchor()), keys.make(tmp_path / "mine", "root", 2)

    def mine_alone(signed: Any) -> None:
        signed.version = 2
        for keyid in list(signed.roles["root"].keyids):
            signed.revoke_key(keyid, "root")
        for key in mine:
            signed.add_key(key.public_key, "root")

    theirs = owner.signers("root-1", "root-2")
    for signers in (mine, theirs, [theirs[0], *mine], [*theirs, mine[0]]):
        with pytest.raises(ReleaseError, match=r"root.json 2 is not signed by enough"):
            trust.roots(chain([altered(owner.anchor(), mine_alone, signers)]))
        assert trust.root.version == 1
    trust.roots(chain([altered(owner.anchor(), mine_alone, [*theirs, *mine])]))
    assert trust.root.version == 2


def test_one_key_under_two_names_counts_once(owner: Owner, tmp_path: Path) -> None:
    value = json.loads(owner.anchor())
    stolen = owner.signers("root-1")[0]
    value["signed"]["keys"]["twin"] = value["signed"]["keys"][stolen.public_key.keyid]
    value["signed"]["roles"]["root"]["keyids"] = [stolen.public_key.keyid, "twin"]
    signed = json.loads(altered(json.dumps(value).encode(), lambda _: None, [stolen]))
    signed["signatures"].append({**signed["signatures"][0], "keyid": "twin"})
    with pytest.raises(ReleaseError, match="not signed by enough"):
        Trust(tmp_path / "t.json", json.dumps(signed).encode())


def test_wrong_software_is_for_another_machine(device: Device, owner: Owner, trust: Trust) -> None:
    owner.release(device.bundle("2.0.0", {**AGENT, "x.py": b"1"}, machine="mips"))
    device.publish("2.0.0")
    assert device.look() == f"2.0.0 refused: there is none for {board()}"
    here, there = board().folder("2.0.0"), f"2.0.0/mips-{board().python}"
    trust.timestamp(owner.bytes("timestamp"))
    trust.snapshot(owner.bytes("snapshot"))
    listed = trust.targets(owner.bytes("targets"))
    moved = replace(listed, targets={path.replace(there, here): file for path, file in listed.targets.items()})
    with pytest.raises(ReleaseError, match=f"it was made for mips with Python {board().python}, not for {board()}"):
        choose(moved, "2.0.0", board())
    assert choose(listed, "2.0.0", Board("mips", board().python)).kind.machine == "mips"
