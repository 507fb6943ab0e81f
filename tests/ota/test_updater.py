"""An updater by hand: whom a release is for, when it waits, what it says, and what it does about trouble."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from ota.devices import AGENT, TOPICS, Device
from ota.owners import Owner

from fedfleet.edge.ota.slots import Slots, Trial, started
from fedfleet.edge.ota.trial import Gate, version
from fedfleet.edge.ota.wheels import TIMES, room
from fedfleet.wire.chunks import Want
from fedfleet.wire.errors import StoreError
from fedfleet.wire.messages import Blob, decode, encode
from fedfleet.wire.release import Release, outcome, said


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "board", Owner(tmp_path / "owner"), ("line-1", "camera"))


@pytest.mark.parametrize(
    ("groups", "installs"), [((), True), (("line-1",), True), (("line-9", "camera"), True), (("line-9",), False)]
)
def test_a_release_is_for_devices_with_any_of_the_tags(device: Device, groups: tuple[str, ...], installs: bool) -> None:
    device.owner.release(device.bundle("2.0.0", {**AGENT, "x.py": b"2"}))
    device.publish("2.0.0", groups=groups)
    device.look()
    assert (device.current == "2.0.0") is installs
    if not installs:
        assert device.updater.said == ""
        device.publish("2.0.0", groups=(*groups, "line-1"))
        device.look()
        assert device.current == "2.0.0"


def test_a_wider_share_keeps_who_took_part_in_a_narrower_one() -> None:
    blob, names = Blob("a" * 64, 1), [f"d{number}" for number in range(2000)]
    parts = [
        {name for name in names if Release("2.0.0", blob, share=share).calls(name, ())}
        for share in (0.1, 0.25, 0.5, 1.0)
    ]
    assert all(a < b for a, b in pairwise(parts))
    assert [round(len(part) / 2000, 1) for part in parts] == [0.1, 0.2, 0.5, 1.0]
    other = {name for name in names if Release("2.1.0", blob, share=0.1).calls(name, ())}
    assert other != parts[0]


def test_an_installation_waits_for_a_training_and_for_guards(device: Device) -> None:
    device.release("2.0.0")
    assert device.look("held") == "2.0.0 fetching"
    assert device.look("training") == "2.0.0 waiting: a round is being trained"
    assert (device.current, device.updater.leaving) == ("1.0.0", False)
    device.look("fetching")
    assert (device.current, device.updater.leaving) == ("2.0.0", True)


def test_what_is_installed_is_said_to_be_good_and_left_alone(device: Device) -> None:
    device.owner.release(device.folder / "bundle-1.0.0")
    device.publish("1.0.0")
    assert device.look() == "1.0.0 good"
    assert not device.updater.leaving
    assert list((device.folder / "state/release/blobs").iterdir()) == []


def test_a_link_that_is_made_anew_brings_nothing_new(device: Device) -> None:
    device.owner.release(device.folder / "bundle-1.0.0")
    device.publish("1.0.0")
    device.look()
    before = device.bus.received
    device.hub.publish(TOPICS.release, device.hub.retained[TOPICS.release], True)
    device.look()
    assert device.bus.received - before < 1000


def test_a_release_that_is_taken_back_is_not_installed(device: Device) -> None:
    device.release("2.0.0")
    device.look("held")
    device.hub.publish(TOPICS.release, b"", True)
    device.look()
    assert device.current == "1.0.0"


def test_a_release_that_is_narrowed_is_no_more_said_to_be_fetched(device: Device) -> None:
    device.release("2.0.0")
    assert device.look("held") == "2.0.0 fetching"
    device.publish("2.0.0", groups=("line-9",))
    assert device.look() == ""
    assert device.current == "1.0.0"


def test_what_could_not_be_unpacked_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no room for a release of \d+ bytes, unpacked; free the disk"):
        room(tmp_path, shutil.disk_usage(tmp_path).free // TIMES)
    room(tmp_path, 1)


def test_rubbish_on_the_topic_is_dropped(device: Device) -> None:
    device.hub.publish(TOPICS.release, b"rubbish", True)
    assert device.look() == ""
    device.release("2.0.0")
    device.look()
    assert device.current == "2.0.0"


def test_what_has_expired_by_a_wrong_clock_is_installed_when_the_clock_is_right(device: Device) -> None:
    device.date = datetime(2099, 1, 1, tzinfo=UTC)
    device.release("2.0.0")
    assert outcome(device.look())[:2] == ("2.0.0", "refused")
    assert "root.json has expired at 20" in device.updater.said
    device.date = None
    assert outcome(device.look())[1] == "refused", "it looked again at once"
    device.again()
    assert device.current == "2.0.0"


def test_a_disk_that_refuses_is_waited_for(device: Device) -> None:
    (device.folder / "slots" / ".2.0.0.tmp").touch()
    device.release("2.0.0")
    assert device.look().startswith("2.0.0 waiting: ")
    assert len(list((device.folder / "state/release/blobs").iterdir())) >= 4, "all would have to be fetched again"
    (device.folder / "slots" / ".2.0.0.tmp").unlink()
    device.again()
    assert device.current == "2.0.0"


def test_what_the_broker_has_forgotten_is_asked_for_and_said_again(device: Device) -> None:
    device.release("2.0.0")
    message = device.hub.retained[TOPICS.release]
    device.hub.retained.clear()
    device.hub.publish(TOPICS.release, message, True)
    assert device.look() == "2.0.0 fetching"
    for _ in range(12):
        device.now += 400.0
        device.look(steps=3)
        for topic, payload in device._cloud.deliveries(0):
            if topic == TOPICS.want("d1"):
                device.serving.want(decode(Want, payload).names)
        device.serve()
    device.look()
    assert device.current == "2.0.0"


def test_the_bad_version_is_not_tried_again_until_it_is_signed_anew(device: Device) -> None:
    device.release("2.0.0")
    device.look()
    back(device, "round 3 declined: no runtime")
    device.start("1.0.0")
    device.serve()
    assert device.look() == "2.0.0 back: to 1.0.0 after 3 starts: round 3 declined: no runtime"
    assert not device.updater.leaving
    device.owner.refresh()
    device.serve()
    assert outcome(device.look())[1] == "back", "a new timestamp is no new release"
    device.owner.release(device.folder / "bundle-2.0.0")
    device.serve()
    device.look()
    assert device.updater.leaving and device.current == "2.0.0"


def back(device: Device, why: str) -> None:
    """Do what `launch` does after three starts."""
    slots = device.folder / "slots"
    Slots(slots, "2.0.0").got(why)
    trial = Slots(slots, "2.0.0").trial
    assert trial is not None
    (slots / "current").unlink()
    (slots / "current").symlink_to("1.0.0")
    (slots / "trial.json").rename(slots / "failed.json")
    (slots / "failed.json").write_text((slots / "failed.json").read_text().replace('"starts": 0', '"starts": 3'))


def test_a_version_on_trial_passes_by_a_finished_round_and_tidies_up(device: Device) -> None:
    for name in ("0.9.0", ".0.9.1.tmp", "lost+found"):
        (device.folder / "slots" / name).mkdir()
    device.release("2.0.0")
    device.look()
    device.start("2.0.0")
    assert device.look() == "2.0.0 trial: it has connected"
    assert device.slots.trial == Trial("2.0.0", serial=1, got="it connected")
    device.updater.finished(7)
    device.updater.finished(8)
    assert device.look() == "2.0.0 good: it passed its trial in round 7"
    assert device.slots.trial is None
    assert sorted(path.name for path in (device.folder / "slots").iterdir()) == [
        "1.0.0",
        "2.0.0",
        "current",
        "lost+found",
        "previous",
    ]
    device.start("2.0.0")
    device.serve()
    assert device.look() == "2.0.0 good"


def test_what_is_published_during_a_trial_is_installed_after_it(device: Device) -> None:
    device.release("2.0.0")
    device.look()
    device.start("2.0.0")
    device.release("2.1.0")
    assert device.look() == "2.0.0 trial: it has connected"
    assert device.current == "2.0.0"
    device.updater.finished(1)
    device.look()
    assert (device.current, device.slots.link("previous")) == ("2.1.0", "2.0.0")


@pytest.mark.parametrize(("work", "fails"), [("idle", False), ("held", False), ("fetching", True), ("training", True)])
def test_a_trial_that_does_not_come_on_ends(device: Device, work: str, fails: bool) -> None:
    device.release("2.0.0")
    device.look()
    device.start("2.0.0")
    device.look(work)
    device.now += 61.0
    device.look(work)
    assert device.updater.leaving is fails
    trial = device.slots.trial
    assert trial is not None
    assert trial.got == ("nothing came of it in 60 s" if fails else "it connected")


def test_a_declined_round_ends_the_start_with_its_reason(device: Device) -> None:
    device.updater.declined("round 2 declined: no examples")
    device.look()
    assert not device.updater.leaving, "a version that is not on trial goes on"
    device.release("2.0.0")
    device.look()
    device.start("2.0.0")
    device.updater.declined('round 3 declined: "\\')
    device.updater.finished(4)
    device.look()
    assert device.updater.leaving
    trial = device.slots.trial
    assert trial is not None and trial.got == "round 3 declined: '/"


def test_a_start_that_the_owner_ended_is_not_counted(tmp_path: Path) -> None:
    slots = Slots(tmp_path, "2.0.0")
    for starts, left in ((2, 1), (0, 0)):
        slots._write(Trial("2.0.0", starts, 4, "it connected"))
        Gate(slots, 60.0, lambda: 0.0).stopped()
        assert slots.trial == Trial("2.0.0", left, 4, "it connected")


def test_a_version_that_is_installed_with_other_contents_is_not_replaced(device: Device) -> None:
    shutil.rmtree(device.folder / "bundle-1.0.0")
    device.owner.release(device.bundle("1.0.0", {**AGENT, "x.py": b"other"}))
    device.publish("1.0.0")
    assert device.look().startswith("1.0.0 refused: another release of this version is installed")


def test_a_blob_that_rots_before_it_is_read_is_fetched_again(device: Device) -> None:
    device.release("2.0.0")
    message = decode(Release, device.hub.retained[TOPICS.release])
    blobs = device.folder / "state/release/blobs"
    (blobs / message.timestamp.digest).write_bytes(bytes(message.timestamp.size))
    assert "has rotted on the disk" in device.look()
    device.again()
    assert device.current == "2.0.0"


def test_slots_are_known_by_what_launch_says(tmp_path: Path) -> None:
    found = started({"FEDFLEET_SLOT": str(tmp_path / "slots" / "2.0.0")})
    assert found is not None and (found.folder, found.own) == (tmp_path / "slots", "2.0.0")
    assert version(found) == "2.0.0"
    for wrong in ({}, {"FEDFLEET_SLOT": ""}, {"FEDFLEET_SLOT": "slots/2.0.0"}, {"FEDFLEET_SLOT": "/slots/current"}):
        assert started(wrong) is None
    assert version(None)[:1].isdigit()


@pytest.mark.parametrize("text", ["", "good", "2.0.0", "2.0.0 gone", "x good", "2.0.0 good then", "2.0.0  good"])
def test_other_words_say_nothing_of_a_release(text: str) -> None:
    assert outcome(text) == ("", "", "")


def test_what_is_said_of_a_release_is_understood() -> None:
    assert outcome(said("2.0.0", "back", "to 1.0: why")) == ("2.0.0", "back", "to 1.0: why")
    assert outcome(said("2.0.0", "good")) == ("2.0.0", "good", "")
    assert len(said("2.0.0", "back", "x" * 500)) == 200
    message = Release("2.0.0", Blob("a" * 64, 9), None, ("line-1",), 0.5)
    assert decode(Release, encode(message)) == message


def test_without_openssl_nothing_is_installed_and_training_goes_on(device: Device, tmp_path: Path) -> None:
    path, os.environ["PATH"] = os.environ["PATH"], str(tmp_path)
    try:
        device.release("2.0.0")
        assert device.look() == "2.0.0 refused: the command openssl is missing: install the package openssl"
    finally:
        os.environ["PATH"] = path
    device.again()
    assert device.current == "2.0.0"
