"""TLS to the broker: 1.2 at least, its certificate and its name always checked, and each failure in words."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from fedfleet.wire.errors import SettingsError
from fedfleet.wire.settings import Broker

BY_DATE = ("certificate has expired", "certificate is not yet valid")
# what OpenSSL says, and what its reader can do about it
REMEDIES = {
    "hostname mismatch": "its certificate is for another name; set broker.host to a name that it lists",
    "ip address mismatch": "its certificate does not list this address; set broker.host to a name that it lists",
    "unable to get local issuer": "its certificate is signed by nobody known here; set broker.ca to its authority's",
    "self-signed certificate": "its certificate is signed by nobody known here; set broker.ca to its authority's",
    "self signed certificate": "its certificate is signed by nobody known here; set broker.ca to its authority's",
    "certificate signature failure": "its certificate is signed by nobody known here; set broker.ca to its authority's",
    "certificate required": "it wants a client certificate; set broker.certificate and broker.key",
    "alert certificate expired": "it says that our certificate has expired; renew broker.certificate",
    "alert certificate revoked": "it says that our certificate was revoked; have a new one made",
    "alert unknown ca": "it does not know who signed our certificate; set broker.certificate to one of its own",
    "alert decrypt error": "it does not know who signed our certificate; set broker.certificate to one of its own",
    "alert handshake failure": "it does not take our client certificate, or we have none; set broker.certificate",
    "wrong version number": "it does not speak TLS on this port; 8883 is usual, and 443 with WebSocket",
    "record layer failure": "it does not speak TLS on this port; 8883 is usual, and 443 with WebSocket",
}


def context(broker: Broker) -> ssl.SSLContext:
    """Return what connections to `broker` are made with; raises SettingsError that names the key.

    Read anew for every connection, so that a renewed certificate is taken up without a restart.
    """
    for key in ("ca", "certificate", "key"):
        file = getattr(broker, key)
        try:
            if file:
                Path(file).open("rb").close()
        except OSError as error:
            raise SettingsError(f"broker.{key}: {file} cannot be read: {error.strerror}") from None
    found = _trusting(broker.ca)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    if broker.certificate:
        try:
            found.load_cert_chain(broker.certificate, broker.key, password="")
        except ssl.SSLError as error:
            raise SettingsError(
                f"broker.certificate {broker.certificate} and broker.key {broker.key} must be PEM files that belong"
                f" together, the key without a passphrase: {_short(error)}"
            ) from None
    return found


def explain(said: str) -> tuple[str, bool]:
    """Return what went wrong in words, and whether trying again soon is of no use."""
    lower = said.lower()
    if any(text in lower for text in BY_DATE) and "alert" not in lower:
        # a board without a clock believes in 1970 until the network has told it the time: soon, so keep trying
        today = time.strftime("%Y-%m-%d", time.gmtime())
        return f"its certificate is not valid on {today}, which this clock shows; set the clock or renew it", False
    for text, remedy in REMEDIES.items():
        if text in lower:
            return remedy, True
    return said, False


def _trusting(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except ssl.SSLError as error:
        raise SettingsError(f"broker.ca {ca} must be a PEM file of certificates: {_short(error)}") from None


def _short(error: ssl.SSLError) -> str:
    return error.reason or str(error)
