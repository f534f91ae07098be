"""GET /v1/models: the models, and the description of one."""

from dataclasses import asdict

import anyio.to_thread
from fastapi import APIRouter

from dropout_core.acquire.vocabulary import scores_of
from mcdrop.api.v1.schemas import Bounds, InputDescription, ModelDescription, ModelList, ModelSummary, SiteDescription
from mcdrop.http.error_docs import MODEL_ERRORS, problem_docs
from mcdrop.http.paths import ModelName, ModelVersion
from mcdrop.inference.query import example_row, model_measures
from mcdrop.inference.state import ServerState, State
from mcdrop_models.loading.predictor import Predictor

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=problem_docs("internal"))
async def list_models(state: State) -> ModelList:
    """List every version of every model, newest first, with the reason if one is refused."""
    return await anyio.to_thread.run_sync(_list, state)


@router.get("/{name}", responses=problem_docs(*MODEL_ERRORS))
async def describe_model(name: ModelName, state: State) -> ModelDescription:
    """Describe the newest version of a model that can be served."""
    return _describe((await state.model(name, None)).predictor, state)


@router.get("/{name}/versions/{version}", responses=problem_docs(*MODEL_ERRORS))
async def describe_version(name: ModelName, version: ModelVersion, state: State) -> ModelDescription:
    """Describe one version of a model."""
    return _describe((await state.model(name, version)).predictor, state)


def _list(state: ServerState) -> ModelList:
    return ModelList(models=[ModelSummary.model_validate(asdict(one)) for one in state.catalogue.states()])


def _describe(predictor: Predictor, state: ServerState) -> ModelDescription:
    manifest, measures = predictor.manifest, model_measures(predictor)
    return ModelDescription(
        name=manifest.name,
        version=predictor.version,
        versions=state.catalogue.repository.versions(manifest.name),
        task=manifest.task,
        output=manifest.output,
        labels=list(manifest.labels) if manifest.labels else None,
        inputs=[InputDescription(name=spec.name, shape=list(spec.shape), dtype=spec.dtype) for spec in manifest.inputs],
        free={name: Bounds(least=free.least, most=free.most) for name, free in (manifest.free or {}).items()},
        result=manifest.result,
        positions=list(manifest.positions or ()),
        measures=list(measures),
        scores=list(scores_of(manifest.output)),
        passes=manifest.passes,
        seed=manifest.seed,
        sampling=manifest.sampling,
        masks=manifest.masks,
        branches=manifest.branches,
        noise=manifest.noise,
        sites=[SiteDescription(module=site.module, kind=site.kind, rate=site.rate) for site in manifest.sites],
        computed_by=predictor.engine.network.computer,
        looped=predictor.engine.looped,
        metrics=manifest.metrics,
        digest=manifest.digest,
        example=example_row(predictor),
    )
