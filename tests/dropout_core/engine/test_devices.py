"""Where tensors lie decides time, never an answer; and passes ask nothing of a device that has to be waited for.

Without a GPU the meta device stands in for one: it is not the CPU, and whatever needs a number of its tensors on the
host fails, or is counted here and answered with a made-up one.
"""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Chunk, Engine
from dropout_core.engine.masks import Masks
from dropout_core.engine.options import PassOptions
from dropout_core.engine.tuning import NEVER, Tuning
from dropout_core.estimate.fold import Fold
from dropout_core.measures.measures import OUTPUT_KINDS, output_kind
from dropout_core.measures.precision import mutual_information_error, standard_error
from dropout_core.noise.balanced import balanced_words
from dropout_core.noise.philox import words
from tests.support.captured import captured, made
from tests.support.nets import BatchNorm, Channels2d, FoldedTime, LastLayer, NoisyWeights, StochasticDepth, TwoSites
from tests.support.twins import TWINS, Alpha, Attention, DrawnUnits, Probabilities, StackedLSTM

DENSE, THIN = Tuning(NEVER, NEVER), Tuning(1, 1)
MANY = 40  # more passes than one group of 32
# One of each way in which noise and rows meet.
SOME = [
    Alpha, Attention, BatchNorm, Channels2d, DrawnUnits, FoldedTime, LastLayer, NoisyWeights, Probabilities,
    StackedLSTM, StochasticDepth,
]  # fmt: skip
each_net = pytest.mark.parametrize("kind", TWINS, ids=lambda kind: kind.__name__)
each_sampling = pytest.mark.parametrize("sampling", ["iid", "balanced"])
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

_READS = {
    Tensor.tolist, Tensor.item, Tensor.cpu, Tensor.numpy, Tensor.__int__, Tensor.__float__, Tensor.__bool__,
    Tensor.__index__,
}  # fmt: skip
_COPIES = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.to, Tensor.copy_}
_ANSWER = 6  # for every number that is read: as many units as a layer of 12 may keep


class Traffic(TorchFunctionMode):
    """The names of the calls by which numbers cross between the host and the meta device."""

    def __init__(self):
        super().__init__()
        self.crossings = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        from_device = bool(args) and isinstance(args[0], Tensor) and args[0].is_meta
        if func in _READS and from_device:
            self.crossings.append(func.__name__)
            answer = torch.full(args[0].shape, _ANSWER).tolist()
            return bool(answer) if func is Tensor.__bool__ else answer
        result = func(*args, **(kwargs or {}))
        came_from = args[-1] if func is Tensor.copy_ else args[0] if args else None
        if func in _COPIES and result.is_meta and not (isinstance(came_from, Tensor) and came_from.is_meta):
            self.crossings.append(func.__name__)
        return result


def on(device, tensors):
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def run(engine, weights, x, seed, scheme, passes=MANY):
    return list(engine.run(weights, x, replace(scheme, passes=passes, seed=seed)))


def layers(*activations):
    """Layers of 12 units, each with an activation and a dropout, then three classes."""
    hidden = [layer for activation in activations for layer in (nn.Linear(12, 12), activation, nn.Dropout(0.5))]
    return capture(made(lambda: nn.Sequential(*hidden, nn.Linear(12, 3))).eval(), torch.randn(2, 12))


def test_what_crosses_is_seen():
    """Each of these waits for a GPU, and has been somewhere in a prediction."""
    x = torch.empty(3, device="meta", dtype=torch.int64)
    with Traffic() as traffic:
        assert [int(x.max()), x.tolist(), bool(x[0])] == [6, [6, 6, 6], True]
        torch.tensor([1, 2], device="meta")
        torch.as_tensor(3, device=x.device)
        torch.arange(3).to(x.device)
        x.copy_(torch.arange(3))
        assert x.to(torch.int32).is_meta
        torch.arange(3, device=x.device)
        torch.tensor([1, 2]).tolist()
    assert traffic.crossings == ["__int__", "tolist", "__bool__", "tensor", "as_tensor", "to", "copy_"]
    with pytest.raises(RuntimeError, match="meta"):
        x[x > 1]


@each_sampling
@pytest.mark.parametrize("kind", SOME, ids=lambda kind: kind.__name__)
def test_passes_ask_nothing_of_the_host(kind, sampling):
    """Neither under a new seed nor under one that was there before; the first run puts tables on the device."""
    one = captured(kind)
    engine, weights, x = Engine(one.program, DENSE), on("meta", one.program.weights), one.rows(3).to("meta")
    first = run(engine, weights, x, 0, PassOptions(sampling=sampling))
    for seed in (1, 0):
        with Traffic() as traffic:
            chunks = run(engine, weights, x, seed, PassOptions(sampling=sampling))
        assert traffic.crossings == []
        assert [chunk.outputs.shape for chunk in chunks] == [chunk.outputs.shape for chunk in first]
        assert {chunk.outputs.device.type for chunk in chunks} == {"meta"}


@each_sampling
def test_branching_passes_ask_nothing_of_the_host(sampling):
    one, scheme = captured(TwoSites), PassOptions(sampling=sampling, branches=4)
    engine, weights, x = Engine(one.program, DENSE), on("meta", one.program.weights), one.rows(3).to("meta")
    run(engine, weights, x, 0, scheme)
    with Traffic() as traffic:
        run(engine, weights, x, 1, scheme)
        run(engine, weights, x, 0, scheme)
    assert traffic.crossings == []


@each_sampling
@pytest.mark.parametrize(
    ("activations", "chains"), [([nn.ReLU(), nn.ReLU()], 1), ([nn.ReLU(), nn.Softmax(1)], 2)], ids=["one", "two"]
)
def test_thinned_weights_ask_once_for_each_chain_when_they_are_made(activations, chains, sampling):
    """How many units each pass keeps: the sizes of what is computed from then on."""
    program = layers(*activations)
    engine, weights, x = Engine(program, THIN), on("meta", program.weights), torch.empty(5, 12, device="meta")
    with Traffic():  # puts tables on the device
        run(engine, weights, x, 0, PassOptions(sampling=sampling))
    asked = {}
    for seed, passes in ((1, 32), (1, 32), (2, MANY)):
        with Traffic() as traffic:
            run(engine, weights, x, seed, PassOptions(sampling=sampling), passes)
        asked.setdefault((seed, passes), []).append(traffic.crossings)
    assert asked == {(1, 32): [["tolist"] * chains, []], (2, MANY): [["tolist"] * 2 * chains]}


@each_sampling
@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_measures_ask_nothing_of_the_host(output, sampling):
    """Folding the chunks, and reading every measure and the standard errors of as many passes for all rows."""
    kind = output_kind(output)
    passes_made = [torch.empty(passes, 3, 4, device="meta") for passes in (32, 8)]
    with Traffic() as traffic:
        fold = Fold(kind, options=PassOptions(sampling=sampling))
        for outputs in passes_made:
            fold.add(Chunk(0, outputs))
        statistics = fold.statistics()
        for measure in kind.measures.values():
            measure(statistics)
        standard_error(statistics)
        if "mutual_information" in kind.measures:
            mutual_information_error(statistics)
    assert traffic.crossings == []


@needs_cuda
@pytest.mark.parametrize("shape", [(1,), (7,), (64, 3), (5, 4, 3, 2)])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_a_gpu_draws_the_words_of_the_cpu(seed, shape):
    for site in (0, 5):
        passes = torch.arange(3, 40)
        assert torch.equal(words(seed, site, passes.cuda(), shape).cpu(), words(seed, site, passes, shape))
        drawn = [balanced_words(seed, site, range(3, 40), shape, device=torch.device(name)) for name in ("cpu", "cuda")]
        assert torch.equal(drawn[0], drawn[1].cpu())


@needs_cuda
@each_sampling
@pytest.mark.parametrize("rate", [0.1, 0.5, 1 / 3, 1.0])
def test_a_gpu_keeps_the_units_that_the_cpu_keeps(rate, sampling):
    net = nn.Sequential(nn.Linear(12, 500), nn.Dropout(rate), nn.Linear(500, 3)).eval()
    (site,) = capture(net, torch.randn(2, 12)).graph.sites
    value, passes = torch.ones(1, 500), range(5, 45)
    kept = [
        Masks(PassOptions(1, 3, sampling=sampling), passes).kept(site, value.to(name), 0, 40)
        for name in ("cpu", "cuda")
    ]
    assert torch.equal(kept[0], kept[1].cpu())


@needs_cuda
@each_sampling
@each_net
def test_a_gpu_answers_as_the_cpu_does(kind, sampling):
    """To 1e-4 of the scale in any precision: kernels sum in other orders, and TF32 is off."""
    one = captured(kind)
    with torch.backends.cudnn.flags(allow_tf32=False):
        engine, weights = Engine(one.program, DENSE), on("cuda", one.program.weights)
        found = run(engine, weights, one.rows(5).cuda(), 1, PassOptions(sampling=sampling))
    wanted = run(Engine(one.program, DENSE), one.program.weights, one.rows(5), 1, PassOptions(sampling=sampling))
    assert_close([chunk.outputs.cpu() for chunk in found], [chunk.outputs for chunk in wanted])


@needs_cuda
@each_sampling
def test_thinned_passes_of_a_gpu_are_those_of_the_cpu(sampling):
    program, x = layers(nn.ReLU(), nn.ReLU()), torch.randn(9, 12)
    found = run(Engine(program, THIN), on("cuda", program.weights), x.cuda(), 1, PassOptions(sampling=sampling))
    wanted = run(Engine(program, DENSE), program.weights, x, 1, PassOptions(sampling=sampling))
    assert_close([chunk.outputs.cpu() for chunk in found], [chunk.outputs for chunk in wanted])


def assert_close(found, wanted):
    found, wanted = torch.cat(found), torch.cat(wanted)
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


@contextmanager
def memory_left(nbytes):
    """This process may take so many more bytes of the GPU; other processes keep theirs."""
    torch.cuda.empty_cache()
    taken, total = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((taken + nbytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@needs_cuda
def test_a_gpu_without_memory_for_a_chunk_runs_smaller_ones():
    """A chunk of 2048 rows of 256 KiB does not fit into 200 MiB, nor does half of it."""
    net = made(lambda: nn.Sequential(nn.Linear(12, 65536), nn.ReLU(), nn.Dropout(0.5), nn.Linear(65536, 3)))
    program, x = capture(net.eval(), torch.randn(2, 12)), torch.randn(64, 12, device="cuda")
    weights = on("cuda", program.weights)
    ample = run(Engine(program, DENSE), weights, x, 0, PassOptions(sampling="iid"), 32)
    assert [len(chunk.outputs) for chunk in ample] == [32]
    engine = Engine(program, DENSE)
    with memory_left(200 * 2**20):
        scarce = run(engine, weights, x, 0, PassOptions(sampling="iid"), 32)
    assert len(scarce) >= 4
    assert_close([chunk.outputs for chunk in scarce], [chunk.outputs for chunk in ample])
