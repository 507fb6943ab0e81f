#!/bin/sh
# Put the fedfleet agent on this board, or take it off. Needs no network; every step is whole or not done, so that a run
# after a power cut finishes what the one before had begun.
set -eu
umask 022

usage() {
	cat <<'END'
Put the fedfleet agent on this board: run as root what `fedfleet bundle` made.

  install.sh [--settings FILE] [--claim FILE] [--root DIR]
  install.sh --uninstall [--root DIR]

  --settings FILE  the agent's settings (TOML); without it agent.toml beside this script, else those that are there
  --claim FILE     what the board enrols with, then scrubbed where it lay; without it claim.pem beside this script
  --root DIR       install into this tree, for images; nothing that runs is touched
  --uninstall      take the service and the program off; settings, identity and examples stay
END
}

say() { echo "fedfleet: $*"; }

die() {
	echo "fedfleet: $*" >&2
	exit 2
}

# --- the pieces: each does nothing where all is as it should be, and sets `changed` where it was not. What lies below
# /var/lib/fedfleet belongs to the agent's user, whom root does not trust with links: there nothing is written in place.

put() { # SOURCE TARGET MODE OWNER: a copy of SOURCE takes the place of TARGET
	[ "$(id -u)" = 0 ] || set -- "$1" "$2" "$3" "$owner"
	if cmp -s "$1" "$2" && [ "$(stat -c '%a %u:%g' "$2")" = "$3 $4" ]; then return 0; fi # a link has a mode of its own
	case $2 in "$var"/*) new=$work/file ;; *) new=$2.new ;; esac
	cp "$1" "$new"
	chown "$4" "$new"
	chmod "$3" "$new"
	sync
	mv -T "$new" "$2"
	sync
	changed=yes
}

folder() { # PATH MODE OWNER
	[ ! -L "$1" ] || die "$1 is a link: remove it"
	[ ! -d "$1" ] || return 0
	mkdir -p "$1"
	chmod "$2" "$1"
	[ "$(id -u)" != 0 ] || chown "$3" "$1"
	changed=yes
}

link() { # TARGET NAME: by rename, so that NAME is never missing
	[ "$(readlink "$2" || true)" != "$1" ] || return 0
	ln -sfn "$1" "$2.new"
	mv -T "$2.new" "$2"
	sync
	changed=yes
}

scrub() { # FILE: overwritten where it lies, then removed
	dd if=/dev/zero of="$1" bs="$(stat -c %s "$1")" count=1 conv=notrunc,fsync 2>/dev/null && rm "$1" && sync && return 0
	left=$1
}

look_at_claim() { # a power cut may have left one that was overwritten already: of no use, and no secret
	[ -f "$claim" ] || die "$claim: no such file"
	if [ -z "$(tr -d '\000' <"$claim")" ]; then
		rm "$claim"
		claim=''
	else
		grep -q '^-----BEGIN CERTIFICATE-----' "$claim" || die "$claim is no claim: fedfleet enrol claim makes one"
	fi
}

live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

user() { # make the user that the agent runs as, and find the numbers of it
	if [ "$(id -u)" != 0 ]; then
		owner="$(id -u):$(id -g)"
		return 0
	fi
	if ! grep -q '^fedfleet:' "$root/etc/passwd" 2>/dev/null; then
		useradd ${root:+--prefix "$root"} --system --user-group --no-create-home --home-dir /var/lib/fedfleet \
			--shell /usr/sbin/nologin fedfleet || die "the user fedfleet cannot be made${root:+ in $root}"
		changed=yes
	fi
	owner=$(awk -F: '$1 == "fedfleet" { print $3 ":" $4 }' "$root/etc/passwd")
}

numpy() { # where the bundle has none: 32-bit boards have Debian's
	[ ! -d "$root/usr/lib/python3/dist-packages/numpy" ] || return 0
	[ -z "$root" ] || die "$root has no numpy: install python3-numpy in it first"
	say "numpy is not there; fetching Debian's python3-numpy"
	{ apt-get update -q && apt-get install -y -q --no-install-recommends python3-numpy; } >&2 ||
		die "this board needs Debian's python3-numpy and has no network to get it: install it, then run this again"
	changed=yes
}

unpack() { # SLOT: under a name of its own first, so that a slot is whole or not there
	mkdir -p "$work/slot/site"
	cp "$here/release.json" "$work/slot/release.json"
	python3 -B "$here/bundle.py" unpack "$here" "$work/slot/site"
	[ "$(id -u)" != 0 ] || chown -R "$owner" "$work/slot"
	sync
	mv -T "$work/slot" "$slots/$1"
	sync
	changed=yes
}

accept() { # put the settings in place if the agent takes them; root itself runs nothing that the agent's user could change
	if [ -z "$root" ]; then
		site=$slots/$slot/site
		[ "$age" != older ] || site=$slots/current/site
		chmod 711 "$work"
		mkdir "$work/look"
		cp "$settings" "$work/look/agent.toml"
		chown -R "$owner" "$work/look"
		runuser -u fedfleet -- env PYTHONPATH="$site" PYTHONDONTWRITEBYTECODE=1 python3 -c '
import sys
from pathlib import Path
from fedfleet.edge.settings import load_agent
from fedfleet.wire.errors import SettingsError
try:
    load_agent(Path(sys.argv[1]))
except SettingsError as error:
    sys.exit(f"fedfleet: {error}".replace(sys.argv[1], sys.argv[2]))' "$work/look/agent.toml" "$settings" || exit 2
	fi
	if [ -f "$etc/agent.toml" ] && ! cmp -s "$settings" "$etc/agent.toml"; then
		put "$etc/agent.toml" "$etc/agent.toml.old" 640 "0:${owner#*:}"
	fi
	put "$settings" "$etc/agent.toml" 640 "0:${owner#*:}"
}

tidy() { # slots that neither run nor may be gone back to
	current=$(readlink "$slots/current")
	previous=$(readlink "$slots/previous" || true)
	for release in "$slots"/*/release.json; do
		name=$(basename "$(dirname "$release")")
		case $name in current | previous | "$current" | "$previous") ;; *) rm -rf "${slots:?}/$name" ;; esac
	done
}

# --- the two commands

install() {
	[ -f "$here/release.json" ] || die "there is no release.json beside $0: run the install.sh of a bundle"
	[ -n "$settings" ] || [ ! -f "$here/agent.toml" ] || settings=$here/agent.toml
	[ -n "$claim" ] || [ ! -f "$here/claim.pem" ] || claim=$here/claim.pem
	[ -n "$settings" ] || [ -f "$etc/agent.toml" ] || die "there are no settings: put agent.toml beside $0, or give --settings FILE"
	[ -z "$claim" ] || look_at_claim
	found=$(python3 -B "$here/bundle.py" check "$here" "${root:-/}" "$settings" "$claim") || exit 2
	read -r slot state age brings <<END
$found
END
	[ "$brings" = wheel ] || numpy
	mkdir -p "$root/var/lib"
	exec 9<"$root/var/lib"
	flock -n 9 || die "another install.sh is at work on this board: wait for it"
	user
	folder "$root/usr/lib/fedfleet" 755 0:0
	folder "$etc" 750 "0:${owner#*:}"
	folder "$var" 700 "$owner"
	folder "$slots" 700 "$owner"
	place=$root/var/lib # where its user may not write; but a rename needs the same file system
	[ "$(stat -c %d "$place")" = "$(stat -c %d "$slots")" ] || place=$var
	rm -rf "$place"/.fedfleet.*
	work=$(mktemp -d "$place/.fedfleet.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	[ "$state" = there ] || [ "$age" = older ] || unpack "$slot"
	[ -z "$settings" ] || accept
	[ ! -f "$here/root.json" ] || put "$here/root.json" "$etc/root.json" 640 "0:${owner#*:}" # whose releases it takes
	[ -z "$claim" ] || [ "$claim" = "$var/claim.pem" ] || put "$claim" "$var/claim.pem" 600 "$owner"
	if [ "$age" != older ] || [ ! -e "$unit" ]; then service; fi
	switch
	link ../fedfleet-agent.service "$wants"
	[ -z "$claim" ] || [ "$claim" = "$var/claim.pem" ] || scrub "$claim"
	tidy
	begin
	[ -z "$left" ] || die "all is done, but $left holds the claim and could not be scrubbed: remove it yourself"
}

service() { # what only this script ever replaces
	put "$here/launch" "$root/usr/lib/fedfleet/launch" 755 0:0
	put "$here/install.sh" "$root/usr/lib/fedfleet/install.sh" 755 0:0
	mkdir -p "$(dirname "$wants")"
	put "$here/fedfleet-agent.service" "$unit" 644 0:0
}

switch() { # make the slot the one that is started; one that was on trial is on trial no more
	was=$(readlink "$slots/current" || true)
	if [ "$age" = older ]; then
		say "the board runs $was, which is newer than this bundle's $slot: it stays"
	elif [ "$was" != "$slot" ]; then
		rm -f "$slots/trial.json"
		[ -z "$was" ] || link "$was" "$slots/previous"
		link "$slot" "$slots/current"
	fi
}

begin() {
	running=$(readlink "$slots/current")
	if [ "$changed" = no ]; then
		say "$running is installed; nothing changed"
		! live || systemctl start --no-block fedfleet-agent.service
		return 0
	fi
	if live; then
		systemctl daemon-reload
		systemctl restart --no-block fedfleet-agent.service # it is ready when it has met its broker: not waited for
	fi
	say "$running is installed${root:+ in $root}"
}

uninstall() {
	if [ ! -e "$unit" ] && [ ! -d "$root/usr/lib/fedfleet" ] && [ ! -d "$slots" ]; then
		say "it is not installed; nothing changed"
		return 0
	fi
	! live || systemctl disable --now fedfleet-agent.service || true
	rm -f "$wants" "$unit"
	! live || systemctl daemon-reload
	rm -rf "$slots" "$root/usr/lib/fedfleet"
	sync
	say "the agent is off this board; its settings, identity and examples are still there, until you say"
	say "  rm -r $etc $var; userdel fedfleet"
}

main() {
	here=$(cd "$(dirname "$0")" && pwd -P)
	root='' settings='' claim='' action=install changed=no left=''
	while [ $# -gt 0 ]; do
		case $1 in
		--settings | --claim | --root)
			[ $# -gt 1 ] || die "$1 wants a value: see $0 --help"
			[ -e "$2" ] || die "$2: no such file"
			case $1 in
			--settings) settings=$(readlink -f "$2") ;;
			--claim) claim=$(readlink -f "$2") ;;
			--root) root=$(readlink -f "$2") ;;
			esac
			shift
			;;
		--uninstall) action=uninstall ;;
		--help | -h)
			usage
			return 0
			;;
		*) die "$1 is no option: see $0 --help" ;;
		esac
		shift
	done
	[ -n "$root" ] || [ "$(id -u)" = 0 ] || die "run this as root: sudo $0"
	[ "$root" != / ] || root=''
	etc=$root/etc/fedfleet var=$root/var/lib/fedfleet
	slots=$var/slots
	unit=$root/etc/systemd/system/fedfleet-agent.service
	wants=$root/etc/systemd/system/multi-user.target.wants/fedfleet-agent.service
	command -v python3 >/dev/null || die "this needs python3: apt-get install python3"
	$action
}

main "$@"
