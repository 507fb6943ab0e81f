"""Roots that follow each other, what is remembered, and that python-tuf and the device agree on what is signed."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ota.boards import bundle_of
from ota.devices import AGENT
from ota.owners import Owner, altered, chain
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater

from fedfleet.cloud.releases.repository import now
from fedfleet.edge.ota import canonical
from fedfleet.edge.ota.choice import board, choose
from fedfleet.edge.ota.trust import NEVER, Trust
from fedfleet.wire.errors import ReleaseError

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=8,
)


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path / "owner")


def take(trust: Trust, owner: Owner) -> None:
    trust.roots(owner.roots())
    trust.timestamp(owner.bytes("timestamp"))
    trust.snapshot(owner.bytes("snapshot"))
    trust.targets(owner.bytes("targets"))


@given(values)
def test_canonical_json_is_that_of_securesystemslib(value: Any) -> None:
    assert canonical.encode(value).decode() == encode_canonical(value)
    assert canonical.decode(json.dumps(value).encode()) == value


@pytest.mark.parametrize("text", ["1.5", "NaN", "[1e3]", '{"a": 1, "a": 2}', "[" * 5000, "\x00", '"\\ud800'])
def test_what_has_no_canonical_form_is_refused(text: str) -> None:
    with pytest.raises(ReleaseError, match="metadata that is not JSON"):
        canonical.decode(text.encode())


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_metadata_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.raises(ReleaseError):
        Trust(tmp_path_factory.getbasetemp() / "never.json", data)


def test_five_roots_and_a_device_that_was_away_for_three(owner: Owner, tmp_path: Path) -> None:
    trust = Trust(tmp_path / "trust.json", owner.anchor())
    take(trust, owner)
    owner.rotate("root")
    take(trust, owner)
    assert trust.root.version == 2
    for _ in range(3):
        owner.rotate("root")
    trust = Trust(tmp_path / "trust.json", owner.anchor())
    assert trust.root.version == 2
    take(trust, owner)
    assert trust.root.version == 5
    assert Trust(tmp_path / "trust.json", owner.anchor()).root.version == 5
    fresh = Trust(tmp_path / "fresh.json", owner.anchor())
    take(fresh, owner)
    assert fresh.root == trust.root


def test_a_chain_of_roots_with_a_gap_or_an_impostor_is_followed_as_far_as_it_is_sound(
    owner: Owner, tmp_path: Path
) -> None:
    for _ in range(3):
        owner.rotate("root")
    found = [json.dumps(each).encode() for each in json.loads(owner.roots())]
    trust = Trust(tmp_path / "trust.json", owner.anchor())
    with pytest.raises(ReleaseError, match=r"root.json 4 does not follow version 2"):
        trust.roots(chain([found[0], found[2]]))
    forged = altered(found[1], lambda signed: None, owner.signers("root-7", "root-8"))
    with pytest.raises(ReleaseError, match=r"root.json 3 is not signed by enough"):
        trust.roots(chain([found[0], forged, found[2]]))
    assert Trust(tmp_path / "trust.json", owner.anchor()).root.version == 2


def test_more_than_256_roots_at_a_time_are_not_followed(tmp_path: Path) -> None:
    signer = CryptoSigner.generate_ecdsa()
    root = Root(expires=now() + timedelta(days=9))
    for role in root.roles:
        root.add_key(signer.public_key, role)
    found = []
    for version in range(1, 259):
        root.version = version
        whole = Metadata(root)
        whole.sign(signer)
        found.append(whole.to_bytes())
    trust = Trust(tmp_path / "trust.json", found[0])
    with pytest.raises(ReleaseError, match="more than 256 new roots at a time"):
        trust.roots(chain(found[1:]))
    assert trust.root.version == 257
    trust.roots(chain(found[1:]))
    assert trust.root.version == 258


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_a_role_whose_keys_were_changed_is_signed_by_the_new_ones(owner: Owner, tmp_path: Path, role: str) -> None:
    trust = Trust(tmp_path / "trust.json", owner.anchor())
    take(trust, owner)
    owner.rotate(role)
    take(trust, owner)
    owner.refresh()
    take(trust, owner)


def test_what_is_remembered_outlives_the_process_and_damage_begins_anew(owner: Owner, tmp_path: Path) -> None:
    path, old = tmp_path / "trust.json", owner.bytes("timestamp")
    take(Trust(path, owner.anchor()), owner)
    owner.refresh()
    take(Trust(path, owner.anchor()), owner)
    with pytest.raises(ReleaseError, match="version 1 is older than 2"):
        Trust(path, owner.anchor()).timestamp(old)
    path.write_bytes(path.read_bytes()[:-100])
    fresh = Trust(path, owner.anchor())
    assert fresh.floor == NEVER
    fresh.timestamp(old)


def test_another_root_of_the_owners_is_trusted_instead(owner: Owner, tmp_path: Path) -> None:
    path = tmp_path / "trust.json"
    take(Trust(path, owner.anchor()), owner)
    other = Owner(tmp_path / "other")
    take(Trust(path, other.anchor()), other)
    with pytest.raises(ReleaseError, match="not signed by enough"):
        Trust(path, other.anchor()).timestamp(owner.bytes("timestamp"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda value: value.update(signatures="x"), "more than 32 signatures"),
        (lambda value: value["signed"].update(_type="targets"), "it is of type 'targets'"),
        (lambda value: value["signed"].update(spec_version="2.0"), "spec_version must be 1.x"),
        (lambda value: value["signed"].update(version=0), "version must be at least 1"),
        (lambda value: value["signed"].update(expires="tomorrow"), "'tomorrow' is not a time such as"),
        (lambda value: value["signed"].update(meta={}), "snapshot.json is missing"),
        (lambda value: value["signed"]["meta"]["snapshot.json"].pop("length"), r"length is missing"),
        (lambda value: value["signed"]["meta"]["snapshot.json"].update(hashes={}), "digest must be 64"),
        (lambda value: value.pop("signed"), "it has no part `signed`"),
        (lambda value: value["signatures"][0].update(sig="zz"), "not signed by enough"),
        (lambda value: value["signatures"][0].update(keyid="zz"), "not signed by enough"),
        (lambda value: value["signed"].update(more=1), "not signed by enough"),
    ],
)
def test_a_timestamp_that_is_not_whole_is_refused(owner: Owner, tmp_path: Path, change: Any, why: str) -> None:
    value = json.loads(owner.bytes("timestamp"))
    change(value)
    with pytest.raises(ReleaseError, match=why):
        Trust(tmp_path / "trust.json", owner.anchor()).timestamp(json.dumps(value).encode())


class Folder(FetcherInterface):
    """What python-tuf's client fetches, from a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _fetch(self, url: str) -> Any:
        path = self._folder / url.removeprefix("file:///")
        if not path.is_file():
            raise DownloadHTTPError(url, 404)
        return iter([path.read_bytes()])


def test_the_client_of_python_tuf_accepts_our_repository(owner: Owner, tmp_path: Path) -> None:
    made = bundle_of(tmp_path / "bundle", "2.0.0", {"agent": AGENT})
    owner.release(made)
    for role in ("root", "timestamp", "targets", "snapshot"):
        owner.rotate(role)
    folder = tmp_path / "client"
    folder.mkdir()
    parts = ("file:///metadata/", str(tmp_path), "file:///targets/")
    client = Updater(str(folder), *parts, Folder(owner.repo), bootstrap=owner.anchor())
    client.refresh()
    for name in ("release.json", "agent-1.0-py3-none-any.whl"):
        info = client.get_targetinfo(f"{board().folder('2.0.0')}/{name}")
        assert info is not None
        got = Path(client.download_target(info, str(tmp_path / name)))
        source = made / name if name == "release.json" else made / "wheels" / name
        assert got.read_bytes() == source.read_bytes()


def test_a_device_accepts_a_repository_that_python_tuf_alone_has_made(tmp_path: Path) -> None:
    """With keys of other kinds beside, which count for nothing, and fields that we do not know."""
    signer, other = CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ed25519()
    day = now() + timedelta(days=1)
    root = Root(expires=day, consistent_snapshot=False)
    for role in root.roles:
        root.add_key(signer.public_key, role)
        root.add_key(other.public_key, role)
    path = f"{board().folder('3.0.0')}/release.json"
    file = TargetFile.from_data(path, b"{}", ["sha256", "sha512"])
    here = board()
    file.unrecognized_fields["custom"] = {
        "version": "3.0.0",
        "machine": here.machine,
        "python": here.python,
        "serial": 1,
    }
    targets = signed(Targets(7, expires=day, targets={path: file}, unrecognized_fields={"more": [1]}), other, signer)
    snapshot = signed(Snapshot(5, expires=day, meta={"targets.json": described(7, targets)}), signer, other)
    timestamp = signed(Timestamp(3, expires=day, snapshot_meta=described(5, snapshot)), signer)
    trust = Trust(tmp_path / "trust.json", signed(root, other, signer))
    assert trust.timestamp(timestamp).size == len(snapshot)
    assert trust.snapshot(snapshot).size == len(targets)
    assert choose(trust.targets(targets), "3.0.0", here).release.size == 2
    assert trust.floor == NEVER
    only = Trust(tmp_path / "only.json", signed(root, signer))
    with pytest.raises(ReleaseError, match="not signed by enough"):
        only.timestamp(signed(Timestamp(3, expires=day, snapshot_meta=described(5, snapshot)), other))


def signed(what: Any, *signers: CryptoSigner) -> bytes:
    whole = Metadata(what)
    for signer in signers:
        whole.sign(signer, append=True)
    return whole.to_bytes()


def described(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])
