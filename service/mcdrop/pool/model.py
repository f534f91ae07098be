"""What a ranking needs to know of a model, wherever it is."""

from dataclasses import dataclass, replace
from typing import Any, cast

from dropout_core.engine.plan import Plan, plan_of
from dropout_core.engine.scheme import Scheme, Sharing, scheme_of
from dropout_core.measures.measures import OUTPUT_KINDS, OutputKind
from mcdrop.client import Client
from mcdrop.errors import InvalidRequest
from mcdrop.pool.backends import OfBundle, OfServer
from mcdrop.pool.run import Answerer
from mcdrop_models.bundle.manifest import InputSpec
from mcdrop_models.loading.predictor import Predictor


@dataclass(frozen=True)
class Said:
    """What was said of the passes; None: as the bundle says."""

    passes: int | None
    seed: int | None
    masks: str | None


@dataclass(frozen=True)
class PoolModel:
    """One version of a model, and the passes it is asked for."""

    name: str
    version: int
    digest: str
    noise: int
    output: OutputKind
    specs: tuple[InputSpec, ...]
    plan: Plan
    answerer: Answerer

    @property
    def run(self) -> dict[str, Any]:
        """By name, what repeats the passes."""
        scheme = self.plan.scheme
        return {
            "model": self.name,
            "version": self.version,
            "digest": self.digest,
            "passes": self.plan.passes,
            "seed": self.plan.seed,
            "sampling": scheme.sampling,
            "masks": scheme.masks,
            "branches": scheme.branches,
            "noise": self.noise,
        }


def of_bundle(predictor: Predictor, said: Said) -> PoolModel:
    """A bundle that is here."""
    told = predictor.manifest
    plan = _plan(said, told.passes, told.seed, told.scheme)
    answerer = OfBundle(_steady(predictor), plan)
    return PoolModel(told.name, predictor.version, told.digest, told.noise, told.output, told.inputs, plan, answerer)


def of_server(client: Client, name: str, version: int | None, said: Said) -> PoolModel:
    """A model of a server, as it describes it: this version of it answers throughout."""
    told = client.model(name, version)
    if told["output"] not in OUTPUT_KINDS:
        raise InvalidRequest(f"the server says that {name} answers {told['output']}, which is not known here.")
    specs = tuple(InputSpec.model_validate(spec) for spec in told["inputs"])
    scheme = Scheme(told["sampling"], told["masks"], told["branches"])
    plan = _plan(said, told["passes"], told["seed"], scheme)
    answerer = OfServer(client, name, told["version"], plan)
    return PoolModel(name, told["version"], told["digest"], told["noise"], told["output"], specs, plan, answerer)


def _steady(predictor: Predictor) -> Predictor:
    """The same, of which a chunk rounds alike whether others ran before it or a run resumes with it."""
    tuning = predictor.engine.tuning
    engine = predictor.engine.tuned(replace(tuning, thin_rows_cold=tuning.thin_rows))
    return replace(predictor, engine=engine)


def _plan(said: Said, passes: int, seed: int, scheme: Scheme) -> Plan:
    return plan_of(
        passes if said.passes is None else said.passes,
        seed if said.seed is None else said.seed,
        scheme_of(masks=cast("Sharing | None", said.masks), default=scheme),  # which it checks,
    )
