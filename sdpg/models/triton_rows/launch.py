"""Decides where Triton does the head's row-wise work, and launches its kernels, :mod:`sdpg.models.triton_rows.kernels`.

The plain PyTorch form, :mod:`sdpg.models.row_kernels`, is the reference: CPUs, float64 and divergences that
:data:`FORMS` does not name use it, and so does everything where Triton does not work, after one warning. The
environment variable SDPG_TRITON=0 turns Triton off.

Bytes of memory per logit of float32 logits and a factor of two bytes (four for float32 products), student + teacher:

- reading: 4 + 4 read; 8 + 8 for a mixture, which needs both sums before its first term. Nothing is written.
- differentiating: 4 + 4 read (the teacher only for a divergence), 2 written.

The plain form reads and writes about 29 times 4 bytes. Beside the logits there are four numbers a token here, no
scratch rows.

Axes: C tokens of a chunk, of which the first S were scored by the teacher, V vocabulary.
"""

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
import importlib
import importlib.util
import os
from typing import Any
import warnings

import torch
from torch import Tensor

from sdpg.models.row_kernels import RowValues, gradient_rows, student_rows, teacher_rows
from sdpg.objective.divergences import Divergence, GeneralisedJSD, StudentTeacherKL, TeacherStudentKL

SWITCH = "SDPG_TRITON"
"""An environment variable; 0 turns Triton off."""
FORMS: dict[type[Divergence], str] = {
    StudentTeacherKL: "student_teacher",
    TeacherStudentKL: "teacher_student",
    GeneralisedJSD: "mixture",
}
"""Class → its branch in the kernels, by which a divergence gets a Triton form; the others keep the plain one.

Subclasses are not looked up, as they may have other formulas.
"""

# Fixed, as tuning would measure for seconds at each start. A thread takes 16 bytes of each side at a time, which is the
# widest load there is; its sums of up to six kinds then stay in registers, and several programs share a multiprocessor,
# so that some wait for memory while others compute.
READ = {"BLOCK": 1024, "num_warps": 8}
# Blocks of a row are independent here, and two bytes a word are stored 16 bytes at a time.
DIFFERENTIATE = {"BLOCK": 2048, "num_warps": 8}
PROBE_TOLERANCE = 1e-5


def usable(device: torch.device, logits: torch.dtype, divergence: Divergence | None) -> bool:
    """Returns whether Triton does the work for logits of that type and that divergence on that device.

    On a CPU it does where Triton interprets its kernels, which is for tests.
    """
    if logits != torch.float32 or os.environ.get(SWITCH) == "0":
        return False
    if divergence is not None and type(divergence) not in FORMS:
        return False
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return False
    return problem(device) is None


@lru_cache
def problem(device: torch.device) -> str | None:
    """Returns why Triton cannot be used on a device, None where it can; tries its kernels once, and warns once.

    Triton compiles at the first call, for which it needs a C compiler and a GPU that it knows.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        found = _probe(device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Whatever stops the compiler: it must not stop the training.
        found = f"{type(error).__name__}: {str(error).strip()[:400]}"
    if found is not None:
        warnings.warn(
            f"Triton's kernels do not work on {device}: {found}. The head uses plain PyTorch, which takes about twice "
            f"the time there; {SWITCH}=0 turns Triton off and silences this.",
            stacklevel=2,
        )
    return found


@contextmanager
def without_triton() -> Any:
    """Turns Triton off inside, for measurements of the plain form."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


@dataclass(frozen=True)
class Scored:
    """What is asked of the teacher's logits: their temperature, the divergence, and whether their entropy."""

    temperature: float
    divergence: Divergence | None
    with_entropy: bool

    @property
    def form(self) -> str:
        """Returns the branch of the kernels."""
        return "none" if self.divergence is None else FORMS[type(self.divergence)]

    @property
    def beta(self) -> float:
        """Returns the weight of the teacher in a mixture."""
        return self.divergence.jsd_beta if isinstance(self.divergence, GeneralisedJSD) else 0.0


def read(
    student: Tensor, teacher: Tensor, ids: Tensor, temperature: float, scored: Scored | None, values: RowValues
) -> Tensor:
    """Fills the values of raw logits (C, V), and (S, V) of the teacher, and leaves the logits as they are.

    ``ids`` is (C,). Returns (4, C) numbers that :func:`differentiate` wants.
    """
    count, vocabulary = student.shape
    stats = torch.empty(4, count, dtype=torch.float32, device=student.device)
    for rows, taught in _parts(count, teacher, scored):
        part = values[rows]
        with _on(student.device):
            _kernels().read_row[(rows.stop - rows.start,)](
                student[rows], teacher if taught else student, ids[rows], part.logprobs, part.entropy, part.divergence,
                part.teacher_logprobs, part.teacher_entropy, part.of_p, stats[:, rows],
                vocabulary, student.stride(0), teacher.stride(0), count, 1 / temperature,
                1 / taught.temperature if taught else 1.0, taught.beta if taught else 0.0,
                TAUGHT=taught is not None, FORM=taught.form if taught else "none",
                TEACHER_ENTROPY=taught is not None and taught.with_entropy, **READ,
            )  # fmt: skip
    return stats


def differentiate(
    student: Tensor,
    teacher: Tensor,
    ids: Tensor,
    temperature: float,
    scored: Scored | None,
    values: RowValues,
    stats: Tensor,
    gradients: list[Tensor | None],
    out: Tensor,
) -> None:
    """Writes ∂L/∂z (C, V) to ``out``, in its type; it may be ``student``.

    ``gradients`` are ∂L/∂logprobs, ∂L/∂entropy and ∂L/∂divergence, (C,) each or None, already divided by the
    temperature.
    """
    count, vocabulary = student.shape
    given = [torch.zeros_like(values.logprobs) if part is None else part.contiguous() for part in gradients]
    for rows, taught in _parts(count, teacher, scored):
        part = values[rows]
        form = "none" if taught is None or gradients[2] is None else taught.form
        grid = (rows.stop - rows.start, -(-vocabulary // DIFFERENTIATE["BLOCK"]))
        with _on(student.device):
            _kernels().differentiate_row[grid](
                student[rows], teacher if taught else student, out[rows], ids[rows], part.entropy, part.of_p,
                stats[:, rows], *(gradient[rows] for gradient in given),
                vocabulary, student.stride(0), teacher.stride(0), out.stride(0), count, 1 / temperature,
                1 / taught.temperature if taught else 1.0, taught.beta if taught else 0.0,
                FORM=form, **DIFFERENTIATE,
            )  # fmt: skip


def _kernels() -> Any:
    """Returns the module of the kernels, which imports Triton."""
    return importlib.import_module("sdpg.models.triton_rows.kernels")


def _parts(count: int, teacher: Tensor, scored: Scored | None) -> list[tuple[slice, Scored | None]]:
    """Returns the slices of rows that the teacher scored and did not score, those that are not empty."""
    both = [(slice(0, len(teacher)), scored), (slice(len(teacher), count), None)]
    return [(rows, taught) for rows, taught in both if rows.stop > rows.start]


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _probe(device: torch.device) -> str | None:
    """Compares both forms on three tokens, two of them scored; returns what differs."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(size, 2100, generator=draw).mul_(3).to(device) for size in (3, 2))
    ids = torch.tensor([0, 7, 2099], device=device)
    scored = Scored(1.3, StudentTeacherKL(), True)
    weights = [torch.tensor([1.0, -2.0, 0.5], device=device) for _ in range(3)]

    found, factor = RowValues.empty(3, student), torch.empty_like(student)
    stats = read(student, teacher, ids, 0.7, scored, found)
    differentiate(student, teacher, ids, 0.7, scored, found, stats, [*weights], factor)

    exact, p, scratch = RowValues.empty(3, student), torch.empty_like(student), torch.empty_like(student)
    student_rows(student, ids.unsqueeze(1), p, scratch, 0.7, exact)
    teacher_rows(student[:2], p[:2], teacher, ids[:2].unsqueeze(1), scratch[:2], 1.3, scored.divergence, True,
                 exact[slice(0, 2)])  # fmt: skip
    gradient_rows(p, teacher, ids.unsqueeze(1), scratch, exact, *weights)
    pairs = {"gradient": (factor, p)} | {
        name: (getattr(found, name), getattr(exact, name))
        for name in ("logprobs", "entropy", "divergence", "teacher_logprobs", "teacher_entropy")
    }
    wrong = [
        name
        for name, (one, other) in pairs.items()
        if not torch.allclose(one, other, PROBE_TOLERANCE, PROBE_TOLERANCE, equal_nan=True)
    ]
    return f"{', '.join(wrong)} differ from plain PyTorch's" if wrong else None
