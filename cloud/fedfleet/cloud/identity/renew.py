"""New certificates for the broker and the cloud before the old ones end. Their keys stay: each file is whole alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fedfleet.cloud.identity import authority, folder
from fedfleet.wire import files
from fedfleet.wire.enrolment import ROLES
from fedfleet.wire.errors import SettingsError


def renew(pki: Path, now: float, hosts: tuple[str, ...] = ()) -> list[str]:
    """Renew the certificates of the broker, for `hosts` if they are given, and of each of the cloud's roles.

    Returns the names renewed. Whoever is killed in between renews once more. Raises SettingsError and StoreError.
    """
    fleet, signer = folder.read(pki), authority.of(pki, now)
    keys = {name: _public(pki / f"{name}.key") for name in ("broker", *ROLES)}
    if hosts:
        fleet = replace(fleet, hosts=hosts)
    made = {"broker": signer.server(fleet.hosts, keys["broker"], now).pem + signer.pem}
    for role in ROLES:
        said = signer.client(f"{fleet.fleet}-{role}", keys[role], now, authority.SERVER, o=fleet.fleet)
        made[role] = said.pem
    for name, pem in made.items():
        files.write(pki / f"{name}.pem", pem)
    files.write(pki / folder.FLEET, fleet.text.encode())  # last: devices are told of names that the certificate has
    return list(made)


def _public(path: Path) -> ec.EllipticCurvePublicKey:
    found = authority.private(path).public_key()
    if not isinstance(found, ec.EllipticCurvePublicKey):
        raise SettingsError(f"{path} must be an EC key, as `fedfleet pki init` makes it")
    return found
