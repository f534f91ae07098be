"""Answerers: compute the arrays that a Need requests, with a local bundle or through a server."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from dropout_core.acquire.need import EMBEDDINGS, SAMPLES, Arrays, Need
from dropout_core.engine.embedding import embeddings
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors
from mcdrop.client import Client
from mcdrop.pool.readers.base import Rows
from mcdrop_models.loading.predictor import Predictor, finite_rows


@dataclass(frozen=True)
class BundleAnswerer:
    """Answers requests with a bundle on this machine."""

    predictor: Predictor
    options: PassOptions

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.predictor.program.device

    def arrays(self, need: Need, inputs: NamedTensors, rows: Rows) -> Arrays:
        """See Answerer. Raises NonFiniteOutput, which names the row of the pool."""
        arrays: dict[str, torch.Tensor] = {}
        self.predictor.check_indices(inputs)
        if need.estimates:
            options = self.options if need.passes is None else replace(self.options, passes=need.passes)
            estimate = self.predictor.estimate(inputs, options, need.samples, torch.from_numpy(rows))
            self.predictor.check_finite(finite_rows(estimate), torch.from_numpy(rows))
            arrays = {name: estimate.measure(name) for name in need.measures}
            if need.samples:
                arrays[SAMPLES] = estimate.samples.movedim(0, 1)
        if need.embeddings:
            program = self.predictor.program
            placed = {name: values.to(program.device) for name, values in inputs.items()}
            arrays[EMBEDDINGS] = embeddings(program.graph, program.weights, placed)
        return arrays


@dataclass(frozen=True)
class ServerAnswerer:
    """Answers requests through the predictions of a server, some rows at a time."""

    client: Client
    name: str
    version: int
    options: PassOptions

    @property
    def device(self) -> torch.device:
        """Device of the selector: the CPU of this machine."""
        return torch.device("cpu")

    def arrays(self, need: Need, inputs: NamedTensors, rows: Rows) -> Arrays:  # noqa: ARG002 - a server counts from 0
        """See Answerer. Raises InvalidInput for embeddings, which a prediction does not contain."""
        if need.embeddings:
            raise InvalidInput(
                "a server answers where rows lie (k_centre, badge) only to a pool sent at once; rank a bundle that is "
                "here, or raise --rows-at-once, as far as the server's largest body."
            )
        arrays = {name: values.numpy() for name, values in inputs.items()}
        answer = self.client.predict(
            self.name,
            arrays if len(arrays) > 1 else next(iter(arrays.values())),
            version=self.version,
            passes=self.options.passes if need.passes is None else need.passes,
            seed=self.options.seed,
            sampling=self.options.sampling,
            masks=self.options.masks,
            branches=self.options.branches,
            outputs=list(need.measures),
            samples=need.samples,
        )
        names = [*need.measures, *([SAMPLES] if need.samples else [])]
        return {name: torch.from_numpy(np.ascontiguousarray(answer.outputs[name])) for name in names}
