"""`python -m tff_own`: TFF's own FedProx, and FedAvg with our proximal clients of either sign, on the same clients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow_federated as tff

from fedfleet.cloud.tff.pipe import Array, Message
from fedfleet.cloud.tff.serving import serve
from fedfleet.sim.tff.model import Masked
from fedfleet.sim.tff.proximal import Proximal
from fedfleet.sim.tff.worker import Learner, begun, keras_model

ROUNDS = 3


def compare(header: dict[str, Any], arrays: list[Array]) -> Message:
    """The weights after some rounds: of TFF's FedProx, then with mu turned round, then with mu as it is."""
    learner, mu = begun(header), header["mu"]
    model = partial(Masked, keras_model(header, learner.compiled), learner.compiled)
    client = tff.learning.optimizers.build_sgdm(learner.plan.learning_rate, learner.plan.momentum)
    build = tff.learning.algorithms
    own = build.build_weighted_fed_prox(model, mu, client)
    ours = [build.build_weighted_fed_avg(model, Proximal(client, way * mu)) for way in (-1, 1)]
    return {}, [trained(learner, process, header["called"]) for process in (own, *ours)]


def trained(learner: Learner, process: Any, called: list[str]) -> Array:
    """The weights that `process` comes to, from those that the learner begins with."""
    first = learner.process.get_model_weights(learner.state)
    found = replace(learner, process=process, state=process.set_model_weights(process.initialize(), first))
    for number in range(1, ROUNDS + 1):
        _, (weights,) = found.round({"round": number, "called": called})
    return np.asarray(weights)


if __name__ == "__main__":
    serve({"compare": compare})
