"""Drive a choice with queries that wait for the device like all others."""

from collections.abc import Mapping
from contextlib import aclosing

import torch

from dropout_core.acquire.choose import Ranking, advance, choose
from dropout_core.acquire.need import Arrays, Need, concatenate_chunks
from dropout_core.errors import NonFiniteOutput
from mcdrop.api.v1.rank.request import RankQuery, embedding_of
from mcdrop.inference.call import Call
from mcdrop.wire.npy import Array

# Of so many numbers what is kept is found on the event loop: handing them to a thread would cost more.
_FEW_NUMBERS = 2048


async def ranking_of(call: Call, question: RankQuery) -> Ranking:
    """Run the choice of a query.

    Args:
        call: The call.
        question: The query.

    Returns:
        The ranking.

    Raises:
        InvalidInput: A row that is not excluded has NaN or infinity.
    """
    call.set_size(question.asked.num_rows, question.plan.passes if question.runs else 0)
    choice = choose(question.asked)
    step = await call.choose(advance, choice, None)
    while isinstance(step, Need):
        step = await call.choose(advance, choice, await _answered(call, question, step))
    return step


async def _answered(call: Call, question: RankQuery, need: Need) -> Arrays:
    """Compute the arrays of a Need, row by row."""
    try:
        return concatenate_chunks(await _kept(call, question, need))
    except NonFiniteOutput as error:
        raise (error if need.of == "pool" else NonFiniteOutput(f"of the {need.of}: {error}")) from error


async def _kept(call: Call, question: RankQuery, need: Need) -> list[Arrays]:
    kept: list[Arrays] = []
    for query in question.queries(need):
        if need.embeddings:
            whole = dict((await call.compute(query)).measures) if need.estimates else {}
            kept.append(need.kept(_tensors({**whole, **(await call.compute(embedding_of(query))).measures})))
            continue
        async with aclosing(call.stream(query, monitored=need.of == "pool")) as parts:
            kept += [await _kept_of(call, need, _tensors(part.result.measures)) async for part in parts]
    return kept


async def _kept_of(call: Call, need: Need, arrays: Arrays) -> Arrays:
    few = sum(values.numel() for values in arrays.values()) <= _FEW_NUMBERS
    return need.kept(arrays) if few and not need.samples else await call.choose(need.kept, arrays)


def _tensors(arrays: Mapping[str, Array]) -> Arrays:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}
