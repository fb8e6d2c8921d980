"""Tests of the Triton kernels under Triton's interpreter, on a CPU; tests/models/test_triton_rows.py runs them.

They need a process of their own: TRITON_INTERPRET=1 must be set before anything imports Triton.
"""

from dataclasses import dataclass, replace
import itertools
import math
import os
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from torch import Tensor

from sdpg.models.fused_head import Teacher, TokenValues
from sdpg.models.row_kernels import RowValues
from sdpg.models.triton_rows import launch
from sdpg.models.triton_rows.launch import READ, Scored
from sdpg.objective.divergences import Divergence, StudentTeacherKL
from tests.helpers.direct_head import (
    KERNELS,
    Inputs,
    direct,
    direct_values,
    divergence_named,
    example,
    fused,
    mixed,
    results,
)

pytestmark = pytest.mark.filterwarnings("ignore:invalid value", "ignore:Conversion of an array")
BLOCK = READ["BLOCK"]
KINDS = [None, *KERNELS]
CPU = torch.device("cpu")


# --- the kernels by themselves


@dataclass(frozen=True)
class Rows:
    """Logits of C tokens, the first S of them scored, and what is asked."""

    student: Tensor
    teacher: Tensor
    ids: Tensor
    kind: str | None
    temperature: float = 0.7
    teacher_temperature: float = 1.3

    def asked(self) -> Scored:
        return Scored(self.teacher_temperature, divergence_named(self.kind), True)


def rows_of(kind: str | None, count: int = 3, scored: int = 2, words: int = 2 * BLOCK + 77, seed: int = 0) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    student = 3 * torch.randn(count, words, generator=draw)
    teacher = student[:scored] + torch.randn(scored, words, generator=draw)
    # Rows differ in where their logits lie, which must not matter.
    student += 40 * torch.randn(count, 1, generator=draw)
    return Rows(student, teacher, torch.randint(0, words, (count,), generator=draw), kind)


def computed(rows: Rows, factors: list[Tensor | None], out_type: torch.dtype) -> dict[str, Tensor]:
    """Values and the gradient with respect to the student's logits, by the kernels."""
    student, teacher = rows.student.clone(), rows.teacher.clone()
    values = RowValues.empty(len(student), student)
    asked = rows.asked() if len(teacher) else None
    stats = launch.read(student, teacher, rows.ids, rows.temperature, asked, values)
    assert torch.equal(student, rows.student) and torch.equal(teacher, rows.teacher)
    out = student if out_type == student.dtype else torch.empty_like(student, dtype=out_type)
    scaled = [None if factor is None else factor / rows.temperature for factor in factors]
    launch.differentiate(student, teacher, rows.ids, rows.temperature, asked, values, stats, scaled, out)
    assert torch.equal(teacher, rows.teacher)
    return vars(TokenValues.of(values)) | {"gradient": out}


def exact(rows: Rows, factors: list[Tensor | None]) -> dict[str, Tensor]:
    """The same by autograd in float64."""
    student = rows.student.double().requires_grad_()
    scored = len(rows.teacher)
    divergence = divergence_named(rows.kind)
    teacher = Teacher(torch.arange(scored), rows.teacher, divergence=divergence, with_entropy=True)
    values = direct_values(
        student / rows.temperature, rows.teacher.double() / rows.teacher_temperature, rows.ids, teacher
    )
    loss = student.sum() * 0
    for name, factor in zip(("logprobs", "entropy", "divergence"), factors, strict=True):
        if factor is not None:
            loss = loss + (factor.double() * getattr(values, name)).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    return {name: value.detach() for name, value in vars(values).items()} | {"gradient": gradient}


def compare(rows: Rows, factors: list[Tensor | None], out_type: torch.dtype = torch.float32) -> None:
    found, expected = computed(rows, factors, out_type), exact(rows, factors)
    for name, value in expected.items():
        one = found[name].double()
        if name != "gradient":
            torch.testing.assert_close(
                one, value, rtol=3e-6, atol=1e-6, equal_nan=True, msg=lambda m, n=name: f"{n} {m}"
            )
            continue
        assert found[name].dtype == out_type
        # Of each row's own size, and each number's where the type of the products rounds.
        rounding = 0 if out_type == torch.float32 else torch.finfo(out_type).eps / 2
        if out_type == torch.bfloat16:
            # The interpreter cuts digits off; a GPU rounds to the nearest number.
            rounding *= 2
        floor = torch.finfo(out_type).smallest_normal
        allowed = 2e-6 * value.abs().amax(1, keepdim=True) + 1.01 * rounding * value.abs() + floor
        assert ((one - value).abs() <= allowed).all(), (name, (one - value).abs().max())


def drawn(count: int) -> list[Tensor | None]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(count, generator=draw) for _ in range(3)]


@pytest.mark.parametrize("words", [2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_autograd_in_float64(kind: str | None, words: int) -> None:
    compare(rows_of(kind, words=words), drawn(3))


@pytest.mark.parametrize("out_type", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_factor_is_rounded_once_to_the_type_of_the_products(kind: str | None, out_type: torch.dtype) -> None:
    compare(rows_of(kind), drawn(3), out_type)


@pytest.mark.parametrize("kept", list(itertools.product([False, True], repeat=3)))
def test_each_gradient_alone(kept: tuple[bool, ...]) -> None:
    factors = [factor if keep else None for factor, keep in zip(drawn(3), kept, strict=True)]
    for kind in KERNELS:
        compare(rows_of(kind, words=200), factors)


@pytest.mark.parametrize(("count", "scored"), [(1, 0), (1, 1), (4, 0), (4, 4), (5, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_share_of_the_tokens_may_be_scored(kind: str | None, count: int, scored: int) -> None:
    compare(rows_of(kind, count, scored, words=300), drawn(count))


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.5, 2.0), (1.7, 0.6)])
@pytest.mark.parametrize("kind", KERNELS)
def test_temperatures(kind: str, temperatures: tuple[float, float]) -> None:
    rows = rows_of(kind, words=BLOCK + 50)
    compare(replace(rows, temperature=temperatures[0], teacher_temperature=temperatures[1]), drawn(3))


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("order", ["rising", "falling"])
def test_maxima_that_move_from_block_to_block(kind: str, order: str) -> None:
    rows = rows_of(kind, words=3 * BLOCK)
    slope = torch.linspace(0, 30, 3 * BLOCK) * (1 if order == "rising" else -1)
    # The teacher's move the other way in its second row.
    signs = torch.tensor([[1.0], [-1.0]])
    compare(replace(rows, student=rows.student + slope, teacher=rows.teacher + signs * slope), drawn(3))


@pytest.mark.parametrize("kind", KERNELS)
def test_probabilities_that_underflow(kind: str) -> None:
    rows = rows_of(kind, words=BLOCK + 50)
    student, teacher = rows.student.clone(), rows.teacher.clone()
    student[:, 5:900] -= 500
    teacher[:, 100:950] -= 500
    compare(replace(rows, student=student, teacher=teacher), drawn(3))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_words_take_no_part(kind: str | None) -> None:
    words = 2 * BLOCK + 40
    rows = rows_of(kind, words=words)
    masked = torch.zeros(words, dtype=torch.bool)
    # All of a block, all of a lane, and single words.
    masked[:BLOCK], masked[3::BLOCK], masked[-7:-2] = True, True, True
    left = (~masked).nonzero().squeeze(1)
    less = replace(rows, student=rows.student[:, left], teacher=rows.teacher[:, left], ids=torch.tensor([0, 5, 9]))
    whole = replace(
        rows, student=rows.student.masked_fill(masked, -math.inf), teacher=rows.teacher.masked_fill(masked, -math.inf),
        ids=left[less.ids],
    )  # fmt: skip
    factors = drawn(3)
    found, expected = computed(whole, factors, torch.float32), exact(less, factors)
    assert not found["gradient"][:, masked].any()
    found["gradient"] = found["gradient"][:, left]
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("kind", "finite"), [("kl_student_teacher", True), ("kl_teacher_student", False), ("jsd", True)]
)
def test_words_that_only_the_student_excludes(kind: str, finite: bool) -> None:
    rows = rows_of(kind, words=300)
    rows = replace(
        rows, student=rows.student.index_fill(1, torch.tensor([4, 200]), -math.inf), ids=torch.tensor([1, 2, 3])
    )
    found = computed(rows, drawn(3), torch.float32)
    assert found["divergence"][:2].isfinite().all() == finite
    assert all(found[name].isfinite().all() for name in ("logprobs", "entropy", "gradient"))
    if finite:
        expected = exact(replace(rows, student=rows.student.clamp_min(-1e4)), drawn(3))
        torch.testing.assert_close(found["divergence"].double(), expected["divergence"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("kind", KERNELS)
def test_a_divergence_of_nearly_equal_distributions_is_not_negative(kind: str, apart: float) -> None:
    draw = torch.Generator().manual_seed(3)
    student = 3 * torch.randn(6, 2 * BLOCK, generator=draw) + torch.tensor([0, 10, 30, 100, -100, 300.0]).unsqueeze(1)
    teacher = student + apart * torch.randn(student.shape, generator=draw)
    # As far apart as logits come that are off by a constant.
    teacher[::2] += 7
    rows = Rows(student, teacher, torch.zeros(6, dtype=torch.int64), kind, 1.0, 1.0)
    found = computed(rows, [None, None, torch.ones(6)], torch.float32)
    assert found["divergence"].min() >= -1e-6
    torch.testing.assert_close(found["divergence"].double(), exact(rows, drawn(6))["divergence"], rtol=1e-5, atol=1e-6)
    if apart == 0:
        assert found["divergence"][1::2].abs().max() <= 2e-7
        assert found["gradient"].abs().max() <= 1e-6


# --- as the fused head uses them


@pytest.mark.parametrize("memory_bytes", [1, 200, 1 << 20])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_head_with_them_equals_full_logits(kind: str | None, memory_bytes: int, reads: list[int]) -> None:
    inputs = example(kind=kind)
    assert inputs.teacher is not None
    inputs = replace(inputs, teacher=replace(inputs.teacher, with_entropy=True))
    found = results(inputs.to(torch.float32), lambda inputs: fused(inputs, mixed, memory_bytes))
    expected = results(inputs.to(torch.float64), lambda inputs: direct(inputs, mixed))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-5)
    assert sum(reads) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_whole_responses_read_each_chunk_twice(kind: str | None, reads: list[int]) -> None:
    from sdpg.models.fused_head import fused_head

    def whole(order: Tensor, values: TokenValues) -> Tensor:
        return mixed(order, values) * values.logprobs.sum() / 10

    def run(inputs: Inputs) -> Any:
        return fused_head(
            *inputs.leaves, inputs.ids, whole,
            memory_bytes=200, temperature=inputs.temperature, teacher=inputs.teacher, whole_responses=True,
        )  # fmt: skip

    inputs = example(kind=kind)
    found = results(inputs.to(torch.float32), run)
    expected = results(inputs.to(torch.float64), lambda inputs: direct(inputs, whole))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-5)
    assert sum(reads) == 12


@dataclass(frozen=True)
class Doubled(StudentTeacherKL):
    """A divergence of its own, whose base class has a Triton form."""

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return 2 * super().entries(log_p, log_q)

    rows = Divergence.rows


def test_what_has_no_triton_form_takes_the_plain_one(reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = example(dtype=torch.float32)
    assert inputs.teacher is not None
    doubled = replace(inputs, teacher=replace(inputs.teacher, divergence=Doubled()))
    once, twice = fused(inputs, None)[1].divergence, fused(doubled, None)[1].divergence
    torch.testing.assert_close(twice, 2 * once)
    assert sum(reads) == 6
    fused(example(dtype=torch.float64), None)
    with launch.without_triton():
        fused(inputs, None)
    monkeypatch.setenv(launch.SWITCH, "0")
    fused(inputs, None)
    assert sum(reads) == 6


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each call of :func:`sdpg.models.triton_rows.launch.read` was given."""
    assert launch.problem(CPU) is None
    found, read = [], launch.read

    def counted(student: Tensor, *arguments: Any) -> Tensor:
        found.append(len(student))
        return read(student, *arguments)

    monkeypatch.setattr(launch, "read", counted)
    return found


def test_kernels_that_fail_or_are_wrong_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = example(dtype=torch.float32)
    expected = fused(inputs, None)[1].logprobs

    def broken(*arguments: Any) -> Tensor:
        raise RuntimeError("Failed to find C compiler")

    def wrong(*arguments: Any) -> Tensor:
        return torch.ones(4, 3)

    for reader, text in ((broken, "RuntimeError: Failed to find C compiler"), (wrong, "logprobs, .* differ from")):
        launch.problem.cache_clear()
        with monkeypatch.context() as patched:
            patched.setattr(launch, "read", reader)
            with pytest.warns(UserWarning, match=text) as caught:
                for _ in range(2):
                    torch.testing.assert_close(fused(inputs, None)[1].logprobs, expected)
            assert sum("Triton's kernels" in str(each.message) for each in caught) == 1
    launch.problem.cache_clear()
