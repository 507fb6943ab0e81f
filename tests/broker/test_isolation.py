"""The access list at a real broker: by delivery, since a broker that grants a subscription may still deliver nothing.

Each row says who may, so each attempt that must fail has one beside it, by the same steps, that must succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from itertools import count, product

import pytest
from broker.conftest import Yard
from broker.raw import Raw, Will
from broker.rights import ALL, GOSSIP, RIGHTS, Right, patterns

# mosquitto 2.0 looks after its WebSockets ten times a second only, so they get the rows that matter most
BRIEFLY = [
    pytest.param("5 in a WebSocket", right, who, id=f"WebSocket-{right.topic}-{who}")
    for right, who in product(RIGHTS[:12], ("pump-1", "pump-2"))
]
EACH = [
    pytest.param(way, right, who, id=f"{way}-{right.topic}-{who}")
    for way, right, who in product(("5", "3.1.1"), RIGHTS, ALL)
]


def cases(*columns: Iterable[object]) -> list[object]:
    """All combinations, each with a name that says what it is."""
    return [
        pytest.param(*row, id="-".join(getattr(part, "topic", str(part)) for part in row)) for row in product(*columns)
    ]


RETAINED = cases([right for right in RIGHTS if not right.topic.startswith("$")], ALL)
# mosquitto 2.0 looks after its WebSockets ten times a second only: the rows that matter most, and a thief
EACH = [*cases(("5", "3.1.1"), RIGHTS, ALL), *cases(("5 in a WebSocket",), RIGHTS[:12], ("pump-1", "pump-2"))]
GOSSIP_CASES = cases(GOSSIP, ALL)
NUMBERS = count(1)
Enter = Callable[..., Raw]


def new() -> bytes:
    """A payload that nobody has sent before."""
    return b"said %d" % next(NUMBERS)


def retained(yard: Yard, topic: str) -> list[bytes]:
    """What a newcomer with all rights is told of a topic."""
    newcomer = yard.connect("witness")
    newcomer.subscribe(topic)
    found = [payload for _, payload in newcomer.heard()]
    newcomer.leave()
    return found


@pytest.fixture
def tidy(yard: Yard) -> Iterator[None]:
    """Nothing is retained afterwards."""
    yield
    sweeper = yard.connect("witness")
    for right in RIGHTS:
        sweeper.publish(right.topic, b"", retain=True)
    sweeper.leave()


@pytest.mark.parametrize(("way", "right", "who"), EACH)
def test_only_writers_are_heard(yard: Yard, witness: Raw, enter: Enter, way: str, right: Right, who: str) -> None:
    said, writer = new(), enter(who, way)
    for retain in (False, True):
        writer.publish(right.topic, said, retain=retain)
        assert witness.heard() == ([(right.topic, said)] if who in right.writers else [])
    writer.publish(right.topic, b"", retain=True)
    assert witness.heard() == ([(right.topic, b"")] if who in right.writers else [])
    assert writer.alive  # so it was the access list, and no lost link


@pytest.mark.parametrize(("right", "who"), RETAINED)
def test_only_writers_change_what_is_retained(yard: Yard, enter: Enter, tidy: None, right: Right, who: str) -> None:
    first, second = new(), new()
    witness = yard.connect("witness")
    witness.publish(right.topic, first, retain=True)
    witness.leave()
    assert retained(yard, right.topic) == [first]
    writer = enter(who)
    writer.publish(right.topic, second, retain=True)
    assert retained(yard, right.topic) == [second if who in right.writers else first]
    writer.publish(right.topic, b"", retain=True)
    assert retained(yard, right.topic) == ([] if who in right.writers else [first])


@pytest.mark.parametrize(("way", "right", "who"), EACH)
def test_only_readers_hear(
    yard: Yard, witness: Raw, enter: Enter, tidy: None, way: str, right: Right, who: str
) -> None:
    reader = enter(who, way)
    for pattern in patterns(right.topic):
        said, kept = new(), new()
        reader.subscribe(pattern)
        reader.heard()
        witness.publish(right.topic, said)
        hears = who in right.readers and not (
            pattern.endswith("#") and right.topic.startswith("$") and "$" not in pattern
        )
        assert reader.heard() == ([(right.topic, said)] if hears else []), pattern
        reader.subscribe(pattern, unsubscribe=True)
        witness.publish(right.topic, kept, retain=True)
        reader.subscribe(pattern)
        heard = reader.heard()
        if heard or not pattern.startswith("$share"):  # to those who share, nothing retained need be sent
            assert heard == ([(right.topic, kept)] if hears else []), pattern
        reader.subscribe(pattern, unsubscribe=True)
        witness.publish(right.topic, b"", retain=True)
        witness.heard()
    assert reader.alive


@pytest.mark.parametrize(("way", "right", "who"), EACH)
def test_only_writers_have_last_wills(yard: Yard, witness: Raw, tidy: None, way: str, right: Right, who: str) -> None:
    will = Will(right.topic, new(), retain=True)
    with (
        nullcontext() if who in right.writers else suppress(OSError)
    ):  # 2.1 lets nobody in who wills what is $CONTROL's
        yard.connect(who, way, will=will).fall()
    heard = witness.heard()
    witness.leave()
    assert heard == ([(right.topic, will.payload)] if who in right.writers else [])
    assert retained(yard, right.topic) == ([will.payload] if who in right.writers else [])


@pytest.mark.parametrize(("right", "who"), GOSSIP_CASES)
def test_where_devices_gossip_they_read_models_and_write_their_own(gossips: Yard, right: Right, who: str) -> None:
    witness, said = gossips.connect("witness"), new()
    witness.subscribe("#")
    witness.heard()
    client = gossips.connect(who)
    client.publish(right.topic, said)
    assert witness.heard() == ([(right.topic, said)] if who in right.writers else [])
    client.subscribe(right.topic)
    client.heard()
    witness.publish(right.topic, said)
    assert client.heard() == ([(right.topic, said)] if who in right.readers else [])
    client.leave()
    witness.leave()
