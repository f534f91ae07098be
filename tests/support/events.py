"""Events as a server tells them."""

from mcdrop.observability.events import BatchFinished, CallFinished, Phase

START_NS = 1_800_000_000_000_000_000
# Nanoseconds of each phase: no sum of some of them is that of others.
SPENT_NS = {"decode": 2_000_001, "queue": 40_000_010, "prefix": 600_100, "suffix": 8_001_000, "encode": 310_000}


def phases(spent=SPENT_NS):
    """One after the other."""
    found, now = [], START_NS
    for name, ns in spent.items():
        found.append(Phase(name, now, now + ns))
        now += ns
    return tuple(found)


def answered(outcome="success", spent=SPENT_NS, rows=3, passes=32, model="digits", version=2, **measures):
    return CallFinished(model, version, "predict", outcome, rows, passes, phases(spent), measures)


def computed(rows=3, seconds=0.25, failed=False, requests=2, model="digits", version=2):
    return BatchFinished(model, version, rows, 32, requests, seconds, failed)
