"""mosquitto's settings, each with the reason for it. Paths are absolute, so it can be started from anywhere."""

from __future__ import annotations

from fedfleet.cloud.broker.layout import Layout
from fedfleet.wire.frames import MAX_BODY, MAX_HEADER

PACKET = 300_000


def conf(layout: Layout) -> str:
    """Return the text of mosquitto.conf for a broker whose files lie in `layout.at`."""
    revoked = REVOKED.format(at=layout.at)
    listeners = [LISTENER.format(who="the fleet", port=layout.port, protocol="", revoked=revoked, at=layout.at)]
    if layout.websockets:
        who, revoked = (
            "those whom a firewall lets pass by WebSocket only",
            UNSEEN if layout.syntax == "2.0" else revoked,
        )
        listeners.append(
            LISTENER.format(who=who, port=layout.websockets, protocol=WEBSOCKET, revoked=revoked, at=layout.at)
        )
    access = ACCESS[layout.syntax].format(at=layout.at, plugin=layout.plugin)
    texts = [HEAD.format(fleet=layout.fleet), access, LIMITS, DURABLE.format(at=layout.at), *listeners]
    return "\n".join(texts)


HEAD = """\
# mosquitto for fleet {fleet}, written by `fedfleet broker config`.
# There is no bridge, and no listener without TLS: nobody reaches this broker without a certificate of the fleet.

# a certificate is all that lets anybody in
allow_anonymous false
# each client says who it is
allow_zero_length_clientid false
"""

ACCESS = {
    "2.0": """\
# who may read and write what; read anew at SIGHUP
acl_file {at}/acl
""",
    "2.1": """\
# the same code that `acl_file` is, which 2.1 calls deprecated
plugin {plugin}
# who may read and write what; read anew at SIGHUP
plugin_opt_acl_file {at}/acl
""",
}

LIMITS = f"""\
# a frame of fedfleet has {MAX_HEADER + MAX_BODY:,} bytes at most, its topic some more; 2.0 would take 256 MB
max_packet_size {PACKET}
# 2.0 does not look at that by a WebSocket: what is larger goes no further, and nobody else is troubled
message_size_limit {PACKET - 10_000}
# on their way to one client at a time: 20 chunks of 64 KiB, then it must acknowledge
max_inflight_messages 20
# waiting for one client: an aggregator gets the status of each device at once, and what is over is lost unsaid
max_queued_messages 50000
# the same in bytes: an aggregator that hangs must not fill the memory
max_queued_bytes 268435456
# for those who are away nothing waits: what they would miss is retained, or said again
queue_qos0_messages false
# a session that somebody asked to be kept all the same goes after a day
persistent_client_expiration 1d
# that a device is lost is known within 15 minutes, whatever it asked for
max_keepalive 600
# small answers go at once, not 40 ms later together with the next
set_tcp_nodelay true
# the log has times that people can read
log_timestamp_format %Y-%m-%dT%H:%M:%S
"""

DURABLE = """\
# what is retained outlives the broker: a model of 25 MB need not be sent again after each restart
persistence true
# in a folder of its own, all that it writes
persistence_location {at}/data/
# written when so much has changed, and at the end; not by the clock, where a broker at rest would write for ever
autosave_on_changes true
# 1 would write all that is retained anew at each message; what a broker that is killed forgets, the fleet says again
autosave_interval 1000
# whom a revocation tells to read access list and revoked certificates anew
pid_file {at}/data/mosquitto.pid
"""

WEBSOCKET = """\
# MQTT in a WebSocket
protocol websockets
"""

REVOKED = """\
# nor who was revoked; read anew at SIGHUP
crlfile {at}/crl.pem
"""

UNSEEN = """\
# No crlfile here: 2.0 does not look at it for a WebSocket, and once it has read it anew dies of who is on it. Who was
# revoked gets in by this port, and the access list denies everything; 2.1 keeps them out.
"""

LISTENER = """\
# for {who}; a claim's certificate comes by the same way
listener {port}
{protocol}# beyond this many, take another broker: docs/emqx.md
max_connections 10000
# who signs our clients
cafile {at}/ca.pem
# and nobody else gets in
require_certificate true
{revoked}# the broker's own certificate, with the names by which it is reached
certfile {at}/broker.pem
# and the key to it
keyfile {at}/broker.key
# 1.1 and before are broken
tls_version tlsv1.2
# the common name of the certificate is the user whom the access list knows
use_identity_as_username true
# and the client id, so that nobody takes the session of another
use_username_as_clientid true
"""
