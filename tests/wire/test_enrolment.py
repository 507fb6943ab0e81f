"""Requests for certificates and their answers: bounds, names that no device may have, whose topic it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.wire.enrolment import (
    MAX_CHAIN,
    MAX_REQUEST,
    Enrol,
    Enrolled,
    open_enrol,
    open_enrolled,
    pack_enrol,
    pack_enrolled,
    reserved,
)
from fedfleet.wire.errors import FrameError
from fedfleet.wire.frames import pack
from fedfleet.wire.topics import Topics

TOPICS = Topics("pumps")


@given(st.binary(min_size=1, max_size=500))
def test_a_request_and_its_answer_survive_the_wire(body: bytes) -> None:
    assert open_enrol(pack_enrol(Enrol("d1", "", body))) == Enrol("d1", "", body)
    assert open_enrolled(pack_enrolled(Enrolled("issued", "", body))) == Enrolled("issued", "", body)


@pytest.mark.parametrize(
    ("header", "body", "text"),
    [
        ({"device": "d1"}, b"", "1 to 8192 bytes, not 0"),
        ({"device": "d1"}, bytes(MAX_REQUEST + 1), "not 8193"),
        ({"device": "D1"}, b"x", "device must be 1 to 36"),
        ({"device": "x" * 37}, b"x", "device must be 1 to 36"),
        ({"device": "d1", "group": "a/b"}, b"x", "group must be 1 to 36"),
        ({"device": 1}, b"x", "device must be str"),
        ({"device": "d1", "kind": "enrolled"}, b"x", "expected kind enrol"),
        ({}, b"x", "device is missing"),
    ],
)
def test_a_request_has_its_bounds(header: dict[str, object], body: bytes, text: str) -> None:
    with pytest.raises(FrameError, match=text):
        open_enrol(pack({"kind": "enrol", **header}, body))


@pytest.mark.parametrize(
    ("header", "body", "text"),
    [
        ({"outcome": "perhaps"}, b"", "outcome must be one of issued, pending, refused"),
        ({"outcome": "issued"}, b"", "if it is issued"),
        ({"outcome": "refused"}, b"x", "none else"),
        ({"outcome": "issued"}, bytes(MAX_CHAIN + 1), "certificate chain"),
        ({"outcome": "refused", "reason": "a\nb"}, b"", "200 printable"),
    ],
)
def test_an_answer_has_its_bounds(header: dict[str, object], body: bytes, text: str) -> None:
    with pytest.raises(FrameError, match=text):
        open_enrolled(pack({"kind": "enrolled", **header}, body))


def test_what_the_frame_says_of_the_body_is_not_believed() -> None:
    frame = pack({"kind": "enrol", "device": "d1", "csr": "other"}, b"body")
    assert open_enrol(frame).csr == b"body"


@pytest.mark.parametrize("name", ["claim-0123456789ab", "claim-", "pumps-cloud", "pumps-enrol", "pumps-operator"])
def test_names_of_claims_and_of_the_cloud_are_reserved(name: str) -> None:
    assert reserved("pumps", name)


@pytest.mark.parametrize("name", ["pump-1", "claims", "mills-cloud", "pumps", "pumps-clouds", "a-claim-1"])
def test_other_names_are_free(name: str) -> None:
    assert not reserved("pumps", name)


def test_who_asks_stands_in_the_topic() -> None:
    assert TOPICS.asking(TOPICS.request("claim-0123456789ab")) == "claim-0123456789ab"
    assert TOPICS.answer("d1") == "fedfleet/v1/pumps/enrol/d1/answer"


@pytest.mark.parametrize(
    "topic",
    [
        TOPICS.answer("d1"),
        TOPICS.request("D1"),
        TOPICS.request("+"),
        TOPICS.request("a/b"),
        TOPICS.update("d1"),
        Topics("mills").request("d1"),
        "request",
        "",
    ],
)
def test_other_topics_name_nobody_who_asks(topic: str) -> None:
    with pytest.raises(FrameError, match="is none where fleet pumps asks"):
        TOPICS.asking(topic)
