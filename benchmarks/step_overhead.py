"""Measures what a training step takes beside generation and passes, against the way of one token at a time.

Everything is made up, in the shape of a step of Qwen3-4B: responses of about 3,000 tokens, a vocabulary of its size,
every signal that SDPG records. Processor seconds count, of all threads, so that other work on the machine does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
import math
from pathlib import Path
import random
import statistics
import tempfile
import time
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from benchmarks import plain_records
from benchmarks.figures import Figure, Target, show
from sdpg.models.columns import TokenColumn, cut_columns, join_columns
from sdpg.models.experience import Experience, Rollouts
from sdpg.models.ranks import Ranks
from sdpg.objective.outcomes import OUTCOMES
from sdpg.params import MethodParams, load_params
from sdpg.params.watch import WatchParams
from sdpg.problems.prompts import PreparedRow
from sdpg.problems.token_pieces import TokenPieces
from sdpg.records.schemas import ROLLOUT_SCHEMA, read_rollouts, write_rollouts
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.rollouts.protocol import Completion
from sdpg.rollouts.shared import exchanged
from sdpg.training.leakage import leak_shares, mentions
from sdpg.training.metrics import step_metrics
from sdpg.training.rollout_rows import rollout_rows, token_columns
from sdpg.training.steps import Sampled, Step, Update

RESPONSES, SIBLINGS, TOKENS, VOCABULARY = 64, 8, 3_000, 151_643
RANKS, DIAGNOSED, REPEATS = 8, 16, 3
EMOJI_SHARE = 0.2
"""The share of responses that hold characters whose bytes are spread over several tokens."""
STEP_SECONDS = 33.0
"""Assumption: seconds of a step for each million response tokens, at the fast end of `sdpg plan --profile qwen3-4b` on
eight H100: 2.8 h of passes and 3.4 h of rollouts in 400 steps of 1,678 thousand tokens. A slower step has a smaller
share of overhead."""
WAITED = ("texts", "exchange", "columns", "metrics", "leaks")
"""The parts that a step waits for; records are built and written beside the next step."""
SOLUTION_WORDS, COPIED = 300, 30
"""The tokens of a solution, and the words in a row that count as copied: those of the profile."""

OVERHEAD = Target("step_overhead", "the former way, one token at a time, in the same run", "<= 0.1")
WAITING = Target("step_overhead_waited", f"a step of {STEP_SECONDS:.0f} s for each million response tokens", "<= 0.05")


class AllRanks(Ranks):
    """One process in place of eight: whoever exchanges with it finds what the others would have sent."""

    def tensors(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Returns the tensor of this rank, as if the others had equal ones."""
        return list(tensor.clone().chunk(RANKS))


@dataclass(frozen=True)
class Made:
    """A made-up step before anything is done with it."""

    tokenizer: Any
    pieces: TokenPieces
    completions: list[Completion]
    problems: list[PreparedRow]
    values: dict[str, torch.Tensor]
    method: MethodParams
    watch: WatchParams

    @property
    def tokens(self) -> int:
        """Returns the number of response tokens."""
        return sum(len(one.ids) for one in self.completions)


def vocabulary(size: int) -> Any:
    """Returns a byte-level BPE tokenizer with so many made-up words, and a token that ends a text."""
    source, written = random.Random(0), bytes_to_unicode()
    names = dict.fromkeys(written[byte] for byte in range(256))
    while len(names) < size:
        letters = "".join(source.choices("etaoinshrdlu0123456789", k=source.randrange(1, 9)))
        names[("Ġ" if source.random() < 0.6 else "") + letters] = None
    backend = Tokenizer(models.BPE({name: token for token, name in enumerate(names)}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", clean_up_tokenization_spaces=False)


def make_step(responses: int, tokens: int, size: int = VOCABULARY) -> Made:
    """Makes up completions and the values per token that the passes leave."""
    tokenizer, rng = vocabulary(size), np.random.default_rng(0)
    emoji = [tokenizer.convert_tokens_to_ids(bytes_to_unicode()[byte]) for byte in "🙂".encode()]
    completions = []
    for _ in range(responses):
        length = int(rng.integers(tokens * 2 // 3, tokens * 4 // 3))
        ids = (256 + np.minimum(rng.zipf(1.2, length), size - 257)).tolist()
        if rng.random() < EMOJI_SHARE:
            place = int(rng.integers(0, length - len(emoji)))
            ids[place : place + len(emoji)] = emoji
        logprobs = (-rng.exponential(0.4, length)).astype(np.float32).tolist()
        completions.append(Completion([*ids[:-1], tokenizer.eos_token_id], logprobs, False))
    words = TokenPieces(tokenizer)
    problems = []
    for number in range(responses // SIBLINGS):
        solution = words.text((256 + np.minimum(rng.zipf(1.2, SOLUTION_WORDS), size - 257)).tolist())
        problems.append(
            PreparedRow(
                id=f"problem-{number}", problem="", answer="12", solution=solution, source="made up",
                student_prompt="Solve the following problem step by step. " * 8,
                teacher_prompt=f"Hint: {solution}", student_tokens=80, teacher_tokens=400,
            )
        )  # fmt: skip
    count = sum(len(one.ids) for one in completions)
    names = ("logprob", "entropy", "weight", "loss", "ratio", "clipped", "ref_logprob", "kl_gated")
    values = {name: torch.from_numpy(rng.normal(0, 0.4, count).astype(np.float32)) for name in names}
    values |= {"weight": torch.ones(count), "clipped": (torch.rand(count) < 0.01).float()}
    method = load_params().methods["sdpg-ufkl"].model_copy(update={"outcome": "ppo_clip", "clip_high": 0.28})
    assert OUTCOMES[method.outcome].clips
    watch = load_params().watch.model_copy(update={"span_words": COPIED})
    return Made(tokenizer, words, completions, problems, values, method, watch)


class Way:
    """One way of making the parts of a step; each part's result is what the next one reads."""

    def __init__(self, made: Made, folder: Path, plain: bool) -> None:
        self.made, self.plain, self.name = made, plain, "former" if plain else "ours"
        self.path = folder / f"{self.name}.parquet"
        self.identity = {"run": "r-0", "method": "r", "seed": 0, "step": 1, "verifier": "v", "verifier_version": "1"}
        self.parts: dict[str, Callable[[], None]] = {
            "texts": self.texts, "exchange": self.exchange, "columns": self.columns, "metrics": self.metrics,
            "leaks": self.leaks, "pieces and rows": self.rows, "Parquet": self.write,
        }  # fmt: skip

    def texts(self) -> None:
        """Decodes the responses."""
        made = self.made
        self.decoded = [
            made.tokenizer.decode(one.ids, skip_special_tokens=True) if self.plain else made.pieces.text(one.ids)
            for one in made.completions
        ]

    def exchange(self) -> None:
        """Packs this rank's completions and unpacks those of all, without the network."""
        own = self.made.completions
        if self.plain:
            ranks = [range(rank, len(own), RANKS) for rank in range(RANKS)]
            ids = plain_records.merged([{row: list(map(float, own[row].ids)) for row in rank} for rank in ranks])
            logprobs = plain_records.merged([{row: own[row].rollout_logprobs for row in rank} for rank in ranks])
            rows = range(len(own))
            self.completions = [Completion([int(one) for one in ids[row]], logprobs[row], False) for row in rows]
        else:
            self.completions = exchanged(own, range(len(own)), AllRanks(0, RANKS))

    def columns(self) -> None:
        """Cuts the passes' values by rollout and joins those of all ranks."""
        lengths = [len(one.ids) for one in self.completions]
        order = list(range(len(lengths)))
        random.Random(1).shuffle(order)
        passes, place = [], 0
        for start in range(0, len(order), 2):
            rows = order[start : start + 2]
            end = place + sum(lengths[row] for row in rows)
            values = {name: tensor[place:end] for name, tensor in self.made.values.items()}
            passes.append(cut_columns(rows, [lengths[row] for row in rows], values))
            place = end
        updated = join_columns(passes)
        if self.plain:
            # As columns of Python lists went from rank to rank.
            updated = {
                name: TokenColumn.of(plain_records.merged([column.only(range(rank, len(order), RANKS)).lists()
                                                           for rank in range(RANKS)]))
                for name, column in updated.items()
            }  # fmt: skip
        some = {name: updated[name].only(range(DIAGNOSED)) for name in ("logprob", "entropy", "ref_logprob")}
        some |= {"teacher_logprob": some["logprob"], "kl_to_teacher": some["entropy"]}
        self.step = self._step(updated, some)

    def _step(self, updated: dict[str, TokenColumn], diagnosed: dict[str, TokenColumn]) -> Step:
        made, count = self.made, len(self.completions)
        rollouts = Rollouts(
            [made.problems[row // SIBLINGS].id for row in range(count)], [[1]] * count, [[1]] * count,
            [one.ids for one in self.completions], [one.rollout_logprobs for one in self.completions],
        )  # fmt: skip
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(count // 2)
        experience = Experience(**vars(rollouts), advantages=signs, gates=signs.clamp(min=0))
        sampled = Sampled(made.problems, rollouts, self.decoded, [False] * count)
        verdicts = [Verdict(Status.CORRECT if sign > 0 else Status.WRONG, "12", sign) for sign in signs.tolist()]
        return Step(sampled, verdicts, experience, Update(0.1, 1.0, 1e-6, updated), diagnosed)

    def metrics(self) -> None:
        """Computes the step's metrics."""
        if self.plain:
            self.measured = plain_records.token_metrics(self.step)
        else:
            self.measured = step_metrics(self.step, self.made.method)

    def leaks(self) -> None:
        """Looks for copies of the solutions."""
        watch, texts, problems = self.made.watch, self.decoded, self.made.problems
        if not self.plain:
            self.leaked = leak_shares(texts, problems, watch)
            return
        assert watch.span_words is not None
        copies = [
            copied
            for place, problem in enumerate(problems)
            for copied in plain_records.repeats(texts[place * SIBLINGS :][:SIBLINGS], problem, watch.span_words)
        ]
        said = mentions(texts, watch.mentions)
        self.leaked = {"leak_mentions": sum(said) / len(said), "leak_spans": sum(copies) / len(copies)}

    def rows(self) -> None:
        """Builds the records."""
        if self.plain:
            self.table = (plain_records.rows_with_tokens(self.step, self.identity, self.made.tokenizer), {})
        else:
            self.table = (rollout_rows(self.step, self.identity), token_columns(self.step, self.made.pieces))

    def write(self) -> None:
        """Writes the records."""
        rows, columns = self.table
        if self.plain:
            plain_records.write(self.path, rows)
        else:
            write_rollouts(self.path, rows, columns)


def measure(made: Made, folder: Path, repeats: int) -> tuple[dict[str, dict[str, float]], list[Way]]:
    """Returns way → part → median processor seconds per million response tokens, and the ways, which have run."""
    ways = {way.name: way for way in (Way(made, folder, True), Way(made, folder, False))}
    taken: dict[str, dict[str, list[float]]] = {name: {part: [] for part in way.parts} for name, way in ways.items()}
    for _ in tqdm(range(repeats), desc="steps", unit="pair", leave=False):
        for name, way in ways.items():
            for part, work in way.parts.items():
                start = time.process_time()
                work()
                taken[name][part].append((time.process_time() - start) / made.tokens * 1e6)
    medians = {
        name: {part: statistics.median(values) for part, values in parts.items()} for name, parts in taken.items()
    }
    return medians, list(ways.values())


def _close(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-12)


def differences(former: Way, ours: Way) -> list[str]:
    """Returns what differs between the two ways: nothing may."""
    measured, others = ({**way.measured, **way.leaked} for way in (former, ours))
    # The last bit of an exponential is a matter of the library.
    found = [name for name, value in measured.items() if not _close(value, others[name])]
    tables = [read_rollouts(way.path) for way in (former, ours)]
    return found + [name for name in ROLLOUT_SCHEMA.names if not tables[0][name].equals(tables[1][name])]


@dataclass(frozen=True)
class Measured:
    """The seconds of both ways.

    Attributes:
        seconds: way → part → median processor seconds per million response tokens.
        sizes: way → bytes of a token on disk.
        tokens: the response tokens of the step.
    """

    seconds: dict[str, dict[str, float]]
    sizes: dict[str, float]
    tokens: int

    def total(self, way: str, parts: Sequence[str] | None = None) -> float:
        """Returns the seconds of some parts of a way, by default of all."""
        return sum(self.seconds[way][part] for part in parts or self.seconds[way])

    def extra(self) -> dict[str, Any]:
        """Returns the further keys of the JSON lines."""
        return {"seconds_per_million_tokens": self.seconds, "bytes_per_token": self.sizes, "tokens": self.tokens,
                "repeats": REPEATS}  # fmt: skip


@cache
def measured(responses: int = RESPONSES, tokens: int = TOKENS, size: int = VOCABULARY) -> Measured:
    """Measures all parts of both ways in turns, once for both figures.

    Raises:
        AssertionError: if the results of the two ways differ.
    """
    made = make_step(responses, tokens, size)
    with tempfile.TemporaryDirectory() as folder:
        seconds, (former, ours) = measure(made, Path(folder), REPEATS)
        if different := differences(former, ours):
            raise AssertionError(f"the two ways differ in {', '.join(different)}")
        sizes = {way.name: way.path.stat().st_size / made.tokens for way in (former, ours)}
    return Measured(seconds, sizes, made.tokens)


def overhead() -> Figure:
    """Shows all parts beside the former way's."""
    found = measured()
    before, now = found.seconds["former"], found.seconds["ours"]
    rows = [
        (part, f"{before[part]:.3f}", f"{now[part]:.3f}", f"{before[part] / now[part]:.0f}×",
         "waits" if part in WAITED else "")
        for part in now
    ]  # fmt: skip
    former, ours = found.total("former"), found.total("ours")
    show(
        f"Processor seconds per million response tokens ({RESPONSES} responses, {found.tokens:,} tokens, "
        f"{VOCABULARY:,} words)",
        ["part", "former", "ours", "faster", "the step"],
        [*rows, ("together", f"{former:.3f}", f"{ours:.3f}", f"{former / ours:.0f}×", "")],
        f"bytes of a token on disk: {found.sizes['former']:.1f} before, {found.sizes['ours']:.1f} now",
    )
    return OVERHEAD.measured(ours / former, **found.extra())


def waited() -> Figure:
    """Shows what a simulated step of Qwen3-4B waits for."""
    found = measured()
    shares = {way: found.total(way, None if way == "former" else WAITED) / STEP_SECONDS for way in found.seconds}
    show(
        "What is waited for beside generation and passes, of a simulated step of Qwen3-4B", ["way", "of a step"],
        [(way, f"{share:.1%}") for way, share in shares.items()],
        f"a step is taken to last {STEP_SECONDS:.0f} s for each million response tokens; "
        "the former way waited for all parts",
    )  # fmt: skip
    return WAITING.measured(shares["ours"], former=shares["former"], step_seconds=STEP_SECONDS, **found.extra())
