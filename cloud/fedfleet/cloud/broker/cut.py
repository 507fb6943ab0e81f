"""Shutting a device out of a broker that runs: it reads its lists anew, and then the device's live session is ended.

A broker looks at a certificate when a link begins, so one that was revoked lives on with its link. But MQTT lets one
link at a time have a client id, and here that is the common name: who connects with a certificate of the same name
takes the session over, and the broker ends the other link. By then the access list denies the device everything, its
last will as well, and the list of revoked certificates keeps it out.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from fedfleet.cloud.broker import server
from fedfleet.cloud.broker.folder import CHANGING, copied, kept
from fedfleet.cloud.identity import authority
from fedfleet.cloud.identity.folder import link, read
from fedfleet.wire import files
from fedfleet.wire.errors import BusDown, StoreError
from fedfleet.wire.mqtt import MqttBus
from fedfleet.wire.settings import Broker
from fedfleet.wire.topics import name

LIFE = timedelta(minutes=1)
WAIT = 5.0


def cut(pki: Path, device: str) -> list[str]:
    """Have the broker of a PKI folder shut out `device`, which the folder's lists name already.

    Returns what is left for people to do, in order, a line each; nothing where it has been done. Raises SettingsError
    for files of the PKI folder that cannot be read.
    """
    if left := handed_over(pki, CHANGING):
        return [left, f"then end its session: fedfleet broker kick {pki} {device}"]
    try:
        kick(pki, device)
    except BusDown as error:
        return [f"end its session, once the broker can be reached: fedfleet broker kick {pki} {device} ({error})"]
    return []


def handed_over(pki: Path, names: tuple[str, ...]) -> str:
    """Have the broker of a PKI folder read the files `names` of it anew; returns what is left for people to do, if any.

    Raises SettingsError for files of the PKI folder that cannot be read.
    """
    folder, what = kept(pki), " and ".join(names)
    try:
        if folder != pki:
            copied(pki, folder, names)
    except StoreError as error:
        return f"{error}; give the broker {what} of {pki}, and send it SIGHUP"
    elsewhere = server.reload(folder)
    return f"{elsewhere}; if it reads other files, give it {what} of {folder} before" if elsewhere else ""


def kick(pki: Path, device: str) -> None:
    """End the session of `device` by taking it over; leaves no session and no last will. Raises BusDown.

    A device that is not shut out is back within seconds. Raises SettingsError where the authority's key is not here.
    """
    said, now = read(pki), time.time()
    key = authority.new_key()
    signed = authority.of(pki, now).client(name(device, "device"), key.public_key(), now, LIFE)
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "pair.pem"
        files.write(pair, signed.pem + authority.key_pem(key), secret=True)
        own = replace(link(pki, said, "operator"), certificate=str(pair), key=str(pair))
        _first([replace(own, host=host) for host in said.hosts], device)


def _first(brokers: list[Broker], device: str) -> None:
    """Take the session over at the first of these addresses that answers."""
    why = ""
    for broker in brokers:
        try:
            MqttBus(broker, device, wait=WAIT).close()
        except BusDown as error:
            why = why or str(error)
        else:
            return
    raise BusDown(why)
