"""Who is there: births, goodbyes, and last wills that come late."""

from __future__ import annotations

import pytest

from fedfleet.cloud.presence import Presence
from fedfleet.wire.calling import Ability, Needs
from fedfleet.wire.messages import Status


def test_births_and_goodbyes() -> None:
    presence = Presence()
    assert presence.see("a", Status("ready", 1))
    assert presence.see("b", Status("training", 4))
    assert presence.devices == {"a", "b"}
    assert not presence.see("b", Status("away", 4))
    assert presence.devices == {"a"}


@pytest.mark.parametrize("late", ["lost", "away"])
def test_the_will_of_an_older_start_is_ignored(late: str) -> None:
    presence = Presence()
    presence.see("a", Status("ready", 1))
    assert presence.see("a", Status("ready", 2))
    assert presence.see("a", Status(late, 1))
    assert presence.devices == {"a"}
    assert not presence.see("a", Status(late, 2))
    assert presence.devices == set()


def test_a_birth_of_an_older_start_does_not_bring_it_back() -> None:
    presence = Presence()
    presence.see("a", Status("lost", 3))
    assert not presence.see("a", Status("ready", 2))
    assert presence.see("a", Status("ready", 3))


def test_who_takes_notes_is_told_who_was_heard_of() -> None:
    presence = Presence()
    presence.see("a", Status("ready", 2))
    presence.see("b", Status("asleep", 1, reason="until 22:00"))
    presence.heard("c")  # of whom no status is known
    assert presence.changed == {"a", "b"}
    assert presence.statuses == {"a": Status("ready", 2), "b": Status("asleep", 1, reason="until 22:00")}
    presence.changed.clear()
    presence.see("a", Status("lost", 1))  # a latecomer
    assert presence.changed == set()
    presence.see("b", None)
    presence.heard("a")
    assert (presence.changed, set(presence.statuses)) == ({"a", "b"}, {"a"})


def test_a_device_that_was_removed_may_begin_anew() -> None:
    presence = Presence()
    presence.see("a", Status("ready", 9, declined=4, reason="full"))
    assert not presence.see("a", None)
    assert presence.see("a", Status("ready", 1))
    assert presence.declined == {}


def test_what_a_device_has_is_what_it_last_said_also_of_one_that_is_gone() -> None:
    presence = Presence()
    camera = Needs(("camera",))
    presence.see("a", Status("ready", 2, ability=Ability(("camera",), 512)))
    presence.see("b", Status("ready", 1))
    assert (presence.fit(camera), sorted(presence.fit(Needs()))) == (["a"], ["a", "b"])
    assert not presence.fits("stranger", camera)
    presence.see("a", Status("lost", 2, ability=Ability(("camera",), 512)))
    assert (presence.fit(camera), presence.fits("a", camera)) == ([], True)
    presence.see("a", Status("ready", 1))  # a latecomer
    assert presence.fits("a", camera)
    presence.see("a", Status("ready", 3, ability=Ability((), 512)))
    assert not presence.fits("a", camera)
    presence.see("a", Status("ready", 3, ability=Ability(("camera",))))
    presence.see("a", None)
    assert not presence.fits("a", camera)


def test_what_was_declined_is_remembered_over_a_later_birth() -> None:
    presence = Presence()
    presence.see("a", Status("ready", 1, declined=4, reason="no examples"))
    presence.see("a", Status("ready", 1))
    presence.see("a", Status("lost", 1))
    assert presence.declined == {"a": (4, "no examples")}
    presence.see("a", Status("ready", 0, declined=9, reason="a latecomer"))
    assert presence.declined == {"a": (4, "no examples")}
