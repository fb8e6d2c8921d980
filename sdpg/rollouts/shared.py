"""Shares generation and verification among all ranks: each does its part, and every rank gets all results.

Callers see one engine and one verifier; all ranks call them with the same arguments, in the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import chain, groupby

import numpy as np
import torch

from sdpg.models.ranks import Ranks
from sdpg.rewards.verifiers import Scorer, Status, Verdict
from sdpg.rollouts.protocol import Completion, RolloutEngine, Sampling
from sdpg.seeds import derive_seed


def shares(prompts: Sequence[Sequence[int]], ranks: int) -> list[list[int]]:
    """Returns the prompts that each rank answers: equal neighbours stay together, so that they are read once.

    Each group of siblings goes to the rank that has the fewest prompts by then; equal groups are dealt in turn.
    """
    shares_by_rank: list[list[int]] = [[] for _ in range(ranks)]
    for _, members in groupby(range(len(prompts)), lambda index: tuple(prompts[index])):
        min(shares_by_rank, key=len).extend(members)
    return shares_by_rank


class SharedEngine:
    """One engine per rank, used as one; see :class:`~sdpg.rollouts.protocol.RolloutEngine`.

    Responses depend on the number of ranks, because each draws from a random source of its own.
    """

    def __init__(self, engine: RolloutEngine, ranks: Ranks) -> None:
        self.engine, self.ranks = engine, ranks

    def sync_weights(self) -> None:
        """Hands the weights over to every rank's engine."""
        self.engine.sync_weights()

    def rest(self) -> None:
        """Gives every rank's memory back."""
        self.engine.rest()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Callable[[int], object] = lambda finished: None,
    ) -> list[Completion]:
        """Returns all responses on every rank; ``progress`` is called as if all ranks were as far as this one."""
        ranks = self.ranks
        if ranks.size == 1:
            return self.engine.generate(prompts, sampling, progress)
        dealt = shares(prompts, ranks.size)
        seed = derive_seed(sampling.seed, "rank", ranks.rank, ranks.size)
        mine = dealt[ranks.rank]
        done = 0

        def advance(finished: int) -> None:
            nonlocal done
            before, done = done, done + finished
            progress(done * len(prompts) // len(mine) - before * len(prompts) // len(mine))

        own = self.engine.generate([prompts[i] for i in mine], replace(sampling, seed=seed), advance) if mine else []
        return exchanged(own, mine, ranks)


def exchanged(own: Sequence[Completion], mine: Sequence[int], ranks: Ranks) -> list[Completion]:
    """Returns the completions of all ranks on each of them.

    Args:
        own: this rank's completions.
        mine: the place of each among all.
        ranks: the processes.
    """
    lengths = [len(one.ids) for one in own]
    ids = np.fromiter(chain.from_iterable(one.ids for one in own), np.int32)
    logprobs = np.fromiter(chain.from_iterable(one.rollout_logprobs for one in own), np.float32)
    cut = torch.tensor([one.truncated for one in own], dtype=torch.uint8)
    all_ids, all_logprobs, all_cut = (
        {row: part.numpy() for row, part in ranks.rows(mine, sizes, values).items()}
        for sizes, values in (
            (lengths, torch.from_numpy(ids)), (lengths, torch.from_numpy(logprobs)), ([1] * len(own), cut),
        )
    )  # fmt: skip
    return [Completion(all_ids[i].tolist(), all_logprobs[i].tolist(), bool(all_cut[i])) for i in range(len(all_ids))]


class SharedVerifier:
    """One verifier per rank, used as one."""

    def __init__(self, verifier: Scorer, ranks: Ranks) -> None:
        self.verifier, self.ranks = verifier, ranks
        self.name, self.version = verifier.name, verifier.version

    def score(self, completions: Sequence[str], golds: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        """Returns all verdicts on every rank; see :meth:`sdpg.rewards.verifiers.Verifier.score`."""
        mine = range(self.ranks.rank, len(completions), self.ranks.size)
        own: list[Verdict] = []
        if mine:
            own = self.verifier.score(
                [completions[i] for i in mine], [golds[i] for i in mine], [truncated[i] for i in mine]
            )
        if self.ranks.size == 1:
            return own
        # Rank r scores every size-th row, starting with row r.
        parts = [iter(part) for part in self.ranks.values([asdict(verdict) for verdict in own])]
        rows = [next(parts[i % self.ranks.size]) for i in range(len(completions))]
        return [Verdict(**(values | {"status": Status(values["status"])})) for values in rows]
