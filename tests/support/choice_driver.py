"""A driver of `choose` on arrays of passes: no network, chunks of any size, and a record of what was asked."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dropout_core.acquire import Need, Ranking, RankOptions, choose, concatenate_chunks
from dropout_core.acquire.need import EMBEDDINGS, SAMPLES
from dropout_core.engine.engine import Chunk
from dropout_core.estimate.estimate import fold_passes


@dataclass
class Driver:
    """Rows by what they are: passes [T, N, …] as a network answers them, embeddings [N, D]."""

    passes: dict[str, Tensor]
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    output: str = "probabilities"
    chunk_rows: int = 1000
    needs: list[Need] = field(default_factory=list)
    most_held: int = 0

    def choose(self, **asked) -> Ranking:
        counts = {f"num_{name}": passes.shape[1] for name, passes in self.passes.items() if name != "pool"}
        counts |= {f"num_{name}": len(rows) for name, rows in self.embeddings.items() if name != "pool"}
        choice = choose(RankOptions(self.output, self._count("pool"), **counts, **asked))
        try:
            need = next(choice)
            while True:
                need = choice.send(self._answer(need))
        except StopIteration as ended:
            return ended.value

    def _count(self, name: str) -> int:
        return self.passes[name].shape[1] if name in self.passes else len(self.embeddings[name])

    def _answer(self, need: Need):
        self.needs.append(need)
        rows = torch.arange(self._count(need.of)) if need.rows is None else need.rows
        assert torch.equal(rows, rows.unique()), "ascending, each once"
        kept = concatenate_chunks([need.kept(self._arrays(need, some)) for some in rows.split(self.chunk_rows)])
        assert all(len(values) == len(rows) for values in kept.values())
        if need.of == "pool" and len(rows) == self._count("pool"):
            self.most_held = max(self.most_held, *(values[0].numel() for values in kept.values()))
        return kept

    def _arrays(self, need: Need, rows: Tensor):
        arrays = {}
        if need.estimates:
            passes = self.passes[need.of][: need.passes, rows]
            estimate = fold_passes([Chunk(0, passes)], self.output, len(passes), 0, "captured", keep_draws=True)
            arrays = {name: estimate.measure(name) for name in need.measures}
            arrays |= {SAMPLES: estimate.samples.movedim(0, 1)} if need.samples else {}
        return arrays | ({EMBEDDINGS: self.embeddings[need.of][rows]} if need.embeddings else {})
