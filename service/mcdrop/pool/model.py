"""What a ranking needs to know of a model, wherever it is."""

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
    """One version of a model, and the passes it is asked for."""

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
        """By name, what repeats the passes."""
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
    """A bundle that is here."""
    told = predictor.manifest
    plan = told.pass_options.overridden(**overrides)
    answerer = BundleAnswerer(_steady(predictor), plan)
    return PoolModel(told.name, predictor.version, told.digest, told.noise, told.output, told.inputs, plan, answerer)


def server_model(client: Client, name: str, version: int | None, overrides: PassOverrides) -> PoolModel:
    """A model of a server, as it describes it: this version of it answers throughout."""
    told = client.model(name, version)
    if told["output"] not in OUTPUT_KINDS:
        raise InvalidRequest(f"the server says that {name} answers {told['output']}, which is not known here.")
    specs = tuple(InputSpec.model_validate(spec) for spec in told["inputs"])
    published = PassOptions(told["passes"], told["seed"], told["sampling"], told["masks"], told["branches"])
    plan = published.overridden(**overrides)
    answerer = ServerAnswerer(client, name, told["version"], plan)
    return PoolModel(name, told["version"], told["digest"], told["noise"], told["output"], specs, plan, answerer)


def _steady(predictor: Predictor) -> Predictor:
    """The same, of which a chunk rounds alike whether others ran before it or a run resumes with it."""
    tuning = predictor.engine.tuning
    engine = predictor.engine.tuned(replace(tuning, thin_rows_cold=tuning.thin_rows))
    return replace(predictor, engine=engine)
