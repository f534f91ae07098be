"""The statistics of a version, as the Open Inference Protocol reports them."""

from mcdrop.api.oip.responses import BatchStatistics, Duration, InferStatistics, VersionStatistics
from mcdrop.inference.catalogue import ModelKey
from mcdrop.observability.tallies import TimedCount, VersionCounts

_NONE = Duration(count=0, ns=0)


def statistics_response(key: ModelKey, counted: VersionCounts) -> VersionStatistics:
    """Return the statistics of a version.

    Args:
        key: The name and the version of the model.
        counted: What the metrics counted.

    Returns:
        The statistics of a version.
    """
    return VersionStatistics(
        name=key[0],
        version=str(key[1]),
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
            cache_hit=_NONE,
            cache_miss=_NONE,
        ),
        batch_stats=[
            BatchStatistics(
                batch_size=size, compute_input=_NONE, compute_infer=_duration(batches), compute_output=_NONE
            )
            for size, batches in counted.batches.items()
        ],
    )


def _duration(counted: TimedCount) -> Duration:
    return Duration(count=counted.count, ns=counted.ns)
