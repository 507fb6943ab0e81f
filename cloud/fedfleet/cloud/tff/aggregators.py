"""Factories of TFF by what a strategy names, held against the type that they are to combine."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_federated as tff

from fedfleet.cloud.tff.factory import Factory
from fedfleet.models.source import returned
from fedfleet.wire.errors import SettingsError

PLACES = {"tff.aggregators": tff.aggregators, "tff.learning": tff.learning}
KINDS = (tff.aggregators.WeightedAggregationFactory, tff.aggregators.UnweightedAggregationFactory)
WEIGHT = tff.TensorType(np.float32)


def weighted(wanted: Factory) -> Any:
    """Return the factory that `wanted` names, one that takes weights; those that know none ignore them.

    Raises SettingsError, ModelError.
    """
    found = _made(wanted)
    if not isinstance(found, KINDS):
        raise SettingsError(f"{wanted.name} gives {type(found).__name__}; a rule is made of an aggregation factory")
    return found if isinstance(found, KINDS[0]) else tff.aggregators.as_weighted_aggregator(found)


def process(wanted: Factory, parameters: int) -> Any:
    """Return the process that combines float32[P] to float32[P]; raises SettingsError where it does not do that."""
    values = tff.TensorType(np.float32, [parameters])
    try:
        found = weighted(wanted).create(values, WEIGHT)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise SettingsError(f"{wanted.name} does not take weights, float32[{parameters}]: {_first(error)}") from None
    given = found.next.type_signature.result.result.member
    if given != values:
        raise SettingsError(f"{wanted.name} makes {given} of weights, float32[{parameters}]; take one that keeps them")
    if "federated_secure" in str(found.next.to_building_block()):
        raise SettingsError(f"{wanted.name} takes secure sums, which TFF cannot run on one machine; take one without")
    state = found.initialize.type_signature.result.member
    if "?" in state.compact_representation():  # a size that is not known
        raise SettingsError(f"{wanted.name} has a state that grows, which cannot be kept from round to round")
    return found


def _made(wanted: Factory) -> Any:
    if wanted.file:
        return returned(f"{wanted.file}:{wanted.name}", "TFF aggregation factory", wanted.given)
    make = next((found for place in PLACES.values() if (found := _named(place, wanted.name))), None)
    if not callable(make):
        raise SettingsError(f"there is no {wanted.name} in {' or '.join(PLACES)}")
    _accepted(make, wanted.name, wanted.given)
    try:
        return make(**wanted.given)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{wanted.name} does not take that: {_first(error)}") from None


def _named(place: Any, name: str) -> Any:
    found = place
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _accepted(make: Any, name: str, given: Mapping[str, Any]) -> None:
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        raise SettingsError(f"{name}: {error}; write tff:{name}(ARGUMENT=VALUE,...)") from None


def _first(error: Exception) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
