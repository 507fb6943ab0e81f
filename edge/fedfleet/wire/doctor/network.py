"""The way to a broker, a step at a time: its name, its port, its TLS. Nothing is said to it, so nobody is disturbed."""

from __future__ import annotations

import errno
import socket
import ssl

from fedfleet.wire import tls
from fedfleet.wire.doctor.checkup import Cause, Finding, beside, failed, fine
from fedfleet.wire.errors import SettingsError
from fedfleet.wire.settings import Broker

PATIENCE = 5.0

UNKNOWN = Cause("name-unknown", "no such host name", "correct broker.host, {host}, or give the name an address")
NO_SERVER = Cause(
    "name-server",
    "no name server answers",
    "see to the network and /etc/resolv.conf, or name the broker by its address",
)
NAME = (UNKNOWN, NO_SERVER)

REFUSED = Cause(
    "port-refused", "the host is there, and nobody listens", "start the broker, or correct broker.port, {port}"
)
NO_ROUTE = Cause(
    "port-no-route", "there is no way to the host", "bring the network up (ip route), or correct broker.host"
)
SILENT = Cause(
    "port-silent", "the host does not answer", "see whether {host} is up, and whether a firewall drops port {port}"
)
UNREACHED = Cause(
    "port-failed", "the connection failed in another way", "see what is in the way to {host}, port {port}"
)
PORT = (REFUSED, NO_ROUTE, SILENT, UNREACHED)

NOT_TLS = Cause(
    "tls-none", "the port does not speak TLS", "correct broker.port, 8883 as a rule, or set broker.tls = false"
)
NOT_OURS = Cause(
    "tls-foreign", "the broker's certificate is of an authority not known here", "set broker.ca to its authority's"
)
ENDED = Cause(
    "tls-expired", "the broker's certificate has expired", "renew the broker's certificate: fedfleet pki renew"
)
EARLY = Cause(
    "tls-not-yet", "the broker's certificate is not yet valid", "set the broker's clock, and have it made anew"
)
WRONG_NAME = Cause(
    "tls-name", "the broker's certificate is for another name",
    "set broker.host to one of {names}, or have {host} put into the certificate",
)  # fmt: skip
UNSHAKEN = Cause("tls-failed", "the handshake failed in another way", "see the broker's log; TLS 1.2 is the least here")
BY_CODE = {9: EARLY, 10: ENDED, 62: WRONG_NAME, 64: WRONG_NAME}  # of X509_V_ERR_*, in OpenSSL's x509_vfy.h

WANTED = Cause(
    "refused-no-certificate", "the broker wants a client certificate", "set broker.certificate and broker.key"
)
REVOKED = Cause(
    "refused-revoked", "the client's certificate was revoked", "enrol {name} anew, or ask why it was revoked"
)
LAPSED = Cause(
    "refused-expired", "the broker says that the client's certificate has expired", "renew it, or set its clock"
)
STRANGER = Cause(
    "refused-unknown-ca", "the broker does not know who signed the client's certificate",
    "use one signed by the broker's authority, or add {ca} to the broker's",
)  # fmt: skip
ALERTS = {
    "certificate required": WANTED,
    "handshake failure": WANTED,
    "certificate revoked": REVOKED,
    "alert certificate expired": LAPSED,
    "unknown ca": STRANGER,
    "decrypt error": STRANGER,
}
REFUSALS = (WANTED, REVOKED, LAPSED, STRANGER)
TLS = (NOT_TLS, NOT_OURS, ENDED, EARLY, WRONG_NAME, UNSHAKEN, *REFUSALS)


def name(broker: Broker) -> Finding:
    """Whether the broker's name has an address."""
    try:
        found = socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        cause = NO_SERVER if error.errno == socket.EAI_AGAIN else UNKNOWN
        return failed(cause, f"{broker.host}: {error.strerror}", host=broker.host)
    except UnicodeError:
        return failed(UNKNOWN, f"{broker.host}: no host may be called so", host=broker.host)
    return fine(f"{broker.host} is {', '.join(dict.fromkeys(str(each[4][0]) for each in found))}")


def port(broker: Broker) -> Finding:
    """Whether somebody takes connections there."""
    at = f"{broker.host}:{broker.port}"
    try:
        _connected(broker).close()
    except ConnectionRefusedError:
        return failed(REFUSED, f"{at} refuses connections", port=broker.port)
    except TimeoutError:
        return failed(SILENT, f"{at}: no answer within {PATIENCE:g} s", host=broker.host, port=broker.port)
    except OSError as error:
        far = error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
        return failed(
            NO_ROUTE if far else UNREACHED, f"{at}: {error.strerror or error}", host=broker.host, port=broker.port
        )
    return fine(f"{at} takes connections")


def handshake(broker: Broker, client: str) -> Finding:
    """Whether TLS is spoken there, by a broker whose certificate is good for its name."""
    if not broker.tls:
        return beside("tls is off in [broker]")
    try:
        with _connected(broker) as plain, tls.context(broker).wrap_socket(plain, server_hostname=broker.host) as link:
            return fine(f"{link.version()}, its certificate is good for {broker.host}")
    except ssl.SSLCertVerificationError as error:
        return _untrusted(broker, error)
    except ssl.SSLError as error:
        return _unshaken(broker, client, error)
    except (SettingsError, OSError) as error:
        # a broker that hears TLS where it expects MQTT hangs up, or waits for more
        return failed(UNSHAKEN if isinstance(error, SettingsError) else NOT_TLS, str(error))


def _untrusted(broker: Broker, error: ssl.SSLCertVerificationError) -> Finding:
    cause = BY_CODE.get(error.verify_code, NOT_OURS)
    names = ", ".join(_names(broker)) if cause is WRONG_NAME else ""
    seen = f"its certificate: {error.verify_message}{f', it lists {names}' if names else ''}"
    return failed(cause, seen, names=names or "its names", host=broker.host)


def _unshaken(broker: Broker, client: str, error: ssl.SSLError) -> Finding:
    said = str(error).lower()
    if cause := refusal(said):
        return failed(cause, error.reason or said, name=client, ca=broker.ca)
    spoken = not any(text in said for text in ("wrong version", "record layer", "eof"))
    return failed(UNSHAKEN if spoken else NOT_TLS, error.reason or said)


def refusal(said: str) -> Cause | None:
    """Why a broker does not take our certificate, by its alert; None where it has sent none."""
    lower = said.lower()
    return next((cause for text, cause in ALERTS.items() if text in lower and "alert" in lower), None)


def speaks_tls(broker: Broker) -> bool:
    """Whether TLS is spoken at a broker that we spoke to without; whose it is does not matter for that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connected(broker) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return refusal(str(error)) is not None
    except OSError:
        return False


def _names(broker: Broker) -> list[str]:
    """What the broker's certificate, whose authority is known, lists."""
    context = tls.context(broker)
    context.check_hostname = False
    try:
        with _connected(broker) as plain, context.wrap_socket(plain) as link:
            found: dict[str, object] = dict(link.getpeercert() or {})
    except OSError:
        return []
    listed = found.get("subjectAltName", ())
    return [str(pair[1]) for pair in listed] if isinstance(listed, tuple) else []


def _connected(broker: Broker) -> socket.socket:
    return socket.create_connection((broker.host, broker.port), PATIENCE)
