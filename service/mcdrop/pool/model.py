"""The description of a model that a ranking needs, for local and remote models."""

from dataclasses import dataclass, replace
from typing import Any

from dropout_core.engine.options import PassOptions, PassOverrides
from dropout_core.measures.measures import OUTPUT_KINDS, OutputKind
from mcdrop.client import Client
from mcdrop.errors import InvalidRequest
from mcdrop.pool.backends import BundleAnswerer, ServerAnswerer
from mcdrop.pool.run import Answerer
from mcdrop_models.bundle.manifest import InputSpec
from mcdrop_models.loading.predictor import Predictor


@dataclass(frozen=True)
class PoolModel:
    """One version of a model, and the passes that the ranking uses."""

    name: str
    version: int
    digest: str
    noise: int
    output: OutputKind
    specs: tuple[InputSpec, ...]
    options: PassOptions
    answerer: Answerer

    @property
    def run(self) -> dict[str, Any]:
        """The fields, by name, that reproduce the passes."""
        options = self.options
        return {
            "model": self.name,
            "version": self.version,
            "digest": self.digest,
            "passes": options.passes,
            "seed": options.seed,
            "sampling": options.sampling,
            "masks": options.masks,
            "branches": options.branches,
            "noise": self.noise,
        }


def bundle_model(predictor: Predictor, overrides: PassOverrides) -> PoolModel:
    """Describe a local bundle.

    Args:
        predictor: The bundle.
        overrides: Pass options of the caller.

    Returns:
        The model.
    """
    manifest = predictor.manifest
    plan = manifest.pass_options.overridden(**overrides)
    answerer = BundleAnswerer(_steady(predictor), plan)
    return PoolModel(
        manifest.name,
        predictor.version,
        manifest.digest,
        manifest.noise,
        manifest.output,
        manifest.inputs,
        plan,
        answerer,
    )


def server_model(client: Client, name: str, version: int | None, overrides: PassOverrides) -> PoolModel:
    """Describe a model of a server, and pin its version for the whole ranking.

    Args:
        client: Client of the server.
        name: Name of the model.
        version: Version of the model, or None.
        overrides: Pass options of the caller.

    Returns:
        The model.
    """
    description = client.model(name, version)
    if description["output"] not in OUTPUT_KINDS:
        raise InvalidRequest(f"the server says that {name} answers {description['output']}, which is not known here.")
    specs = tuple(InputSpec.model_validate(spec) for spec in description["inputs"])
    published = PassOptions(
        description["passes"],
        description["seed"],
        description["sampling"],
        description["masks"],
        description["branches"],
    )
    plan = published.overridden(**overrides)
    answerer = ServerAnswerer(client, name, description["version"], plan)
    return PoolModel(
        name,
        description["version"],
        description["digest"],
        description["noise"],
        description["output"],
        specs,
        plan,
        answerer,
    )


def _steady(predictor: Predictor) -> Predictor:
    """Return a predictor whose rounding does not depend on the chunks that ran before."""
    tuning = predictor.engine.tuning
    engine = predictor.engine.tuned(replace(tuning, thin_rows_cold=tuning.thin_rows))
    return replace(predictor, engine=engine)
