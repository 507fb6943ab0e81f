#!/bin/sh
# Makes what a fleet of containers begins with: authority, broker's settings, a program, and for each device that is named
# a claim and settings. What is there already is left as it is, so it may run before every start.
set -eu
cloud=/var/lib/fedfleet broker=/etc/fedfleet devices=/fleet user=10001
cd "$cloud"
fedfleet() { python3 -m fedfleet.cli.main "$@"; }

[ -d pki ] || fedfleet pki init pki --fleet "$FLEET" --broker broker,localhost,127.0.0.1
[ -f "$broker/mosquitto.conf" ] || fedfleet broker config pki --out "$broker"
[ -d model ] || fedfleet compile /opt/fedfleet/fedfleet/models/zoo/digits.py:digits --out model
[ -f settings.toml ] || cat >settings.toml <<SETTINGS
fleet = "$FLEET"
model = "model"

[rounds]
total = $ROUNDS
devices = $#
deadline = 120

[identity]
pki = "pki"

[plan]
epochs = 2
learning_rate = 0.02
momentum = 0.9

[metrics]
host = "0.0.0.0"
port = 9464

[broker]
host = "broker"
port = 8883
keepalive = 10
tls = true
ca = "pki/ca.pem"
certificate = "pki/cloud.pem"
key = "pki/cloud.key"
SETTINGS

for device in "$@"; do
  there="$devices/$device"
  [ -f "$there/agent.toml" ] && continue
  fedfleet enrol claim pki --group yard --device "$device" --accept --out "$there/claim.pem"
  cat >"$there/agent.toml" <<SETTINGS
device = "$device"
fleet = "$FLEET"
group = "yard"

[enrol]
claim = "claim.pem"

[broker]
host = "broker"
port = 8883
keepalive = 10
tls = true
certificate = "state/identity.pem"
key = "state/identity.pem"
SETTINGS
  chown -R "$user:$user" "$there"
  chmod 700 "$there"
done
chown -R "$user:$user" "$cloud" "$broker"
