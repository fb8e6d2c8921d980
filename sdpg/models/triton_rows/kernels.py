"""Triton kernels of the head's row-wise work; :mod:`sdpg.models.triton_rows.launch` says what they promise.

Importing this module imports Triton. z are a token's raw logits and τ its temperature; p is the student's distribution
and q the teacher's. In every name ``_p`` is of the student and ``_q`` of the teacher.

One row is read lane by lane: lane i of a program sees the words i, i + BLOCK, i + 2·BLOCK …, and keeps the largest of
their logits, ``top``, and sums that are relative to it. Lanes are merged once, behind the loop, so that warps never
wait for each other inside it. d = (z - top) / τ is formed from the difference, so that it is as exact for large logits
as for small ones; a word of logit -inf has d = -inf and probability 0, and its terms are 0.
"""

# pyright: reportMissingImports=false, reportPossiblyUnboundVariable=false, reportOperatorIssue=false
# Triton is there where torch for CUDA is, and reads these branches when it compiles.
import triton
import triton.language as tl

UNSEEN = tl.constexpr(-1e30)
"""The largest logit of a lane that has seen none: finite, so that differences are, and below every finite logit."""


@triton.jit
def _weigh(z, top, inverse):
    """Returns e^d and d relative to the new top, and with what sums of the old top are to be multiplied and shifted."""
    rises = z > top
    apart = (z - top) * inverse
    # Either the word or the sum has weight 1, so that one exponential does for both.
    weight = tl.exp(-tl.abs(apart))
    return (
        tl.where(rises, 1.0, weight),
        tl.where(rises, 0.0, apart),
        tl.where(rises, weight, 1.0),
        tl.where(rises, -apart, 0.0),
    )


@triton.jit
def _log_of_mixture(ratio, beta):
    """Returns log(m/p) - max(r, 0) for r = log(q/p) and m = β q + (1-β) p; small where p and q are close."""
    smaller = tl.exp(-tl.abs(ratio))
    return tl.log(tl.where(ratio > 0, beta + (1 - beta) * smaller, 1 - beta + beta * smaller))


# Where these lie in memory changes with the chunk, and must not make Triton compile another kernel.
@triton.jit(
    do_not_specialize=["stats_stride"],
    do_not_specialize_on_alignment=[
        "ids", "logprobs", "entropies", "divergences", "teacher_logprobs", "teacher_entropies", "of_p", "stats",
    ],
)  # fmt: skip
def read_row(
    student, teacher, ids, logprobs, entropies, divergences, teacher_logprobs, teacher_entropies, of_p, stats,
    vocabulary, student_stride, teacher_stride, stats_stride, inverse_p, inverse_q, beta,
    TAUGHT: tl.constexpr, FORM: tl.constexpr, TEACHER_ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turns one row of logits into its values and into ``stats``: top and Σ e^d of the student, then of the teacher."""
    row = tl.program_id(0).to(tl.int64)
    z_row, u_row = student + row * student_stride, teacher + row * teacher_stride
    lanes = tl.arange(0, BLOCK)
    top_p = tl.full([BLOCK], UNSEEN, tl.float32)
    # Σ e^d, Σ e^d d, and Σ e^d (d of one side - d of the other), which gives the divergence.
    sum_p = tl.zeros([BLOCK], tl.float32)
    moment_p = tl.zeros([BLOCK], tl.float32)
    top_q, sum_q, moment_q, cross = top_p, sum_p, sum_p, sum_p
    for start in range(0, vocabulary, BLOCK):
        words = start + lanes
        z = tl.load(z_row + words, mask=words < vocabulary, other=-float("inf"))
        p, d_p, keep_p, shift_p = _weigh(z, top_p, inverse_p)
        if TAUGHT:
            u = tl.load(u_row + words, mask=words < vocabulary, other=-float("inf"))
            q, d_q, keep_q, shift_q = _weigh(u, top_q, inverse_q)
            if FORM == "student_teacher":
                term = tl.where(p > 0, p * (d_p - d_q), 0.0)
                cross = keep_p * (cross + sum_p * (shift_p - shift_q)) + term
            if FORM == "teacher_student":
                term = tl.where(q > 0, q * (d_q - d_p), 0.0)
                cross = keep_q * (cross + sum_q * (shift_q - shift_p)) + term
            if TEACHER_ENTROPY:
                moment_q = keep_q * (moment_q + sum_q * shift_q) + tl.where(q > 0, q * d_q, 0.0)
            sum_q = keep_q * sum_q + q
            top_q = tl.maximum(top_q, u)
        moment_p = keep_p * (moment_p + sum_p * shift_p) + tl.where(p > 0, p * d_p, 0.0)
        sum_p = keep_p * sum_p + p
        top_p = tl.maximum(top_p, z)

    best_p = tl.max(top_p, 0)
    shift_p = (top_p - best_p) * inverse_p
    keep_p = tl.exp(shift_p)
    total_p = tl.sum(keep_p * sum_p, 0)
    log_p = tl.log(total_p)
    word = tl.load(ids + row)
    tl.store(logprobs + row, (tl.load(z_row + word) - best_p) * inverse_p - log_p)
    tl.store(entropies + row, log_p - tl.sum(keep_p * (moment_p + sum_p * shift_p), 0) / total_p)
    tl.store(stats + row, best_p)
    tl.store(stats + stats_stride + row, total_p)
    if TAUGHT:
        best_q = tl.max(top_q, 0)
        shift_q = (top_q - best_q) * inverse_q
        keep_q = tl.exp(shift_q)
        total_q = tl.sum(keep_q * sum_q, 0)
        log_q = tl.log(total_q)
        tl.store(teacher_logprobs + row, (tl.load(u_row + word) - best_q) * inverse_q - log_q)
        if TEACHER_ENTROPY:
            moment = tl.sum(keep_q * (moment_q + sum_q * shift_q), 0) / total_q
            tl.store(teacher_entropies + row, log_q - moment)
        tl.store(stats + 2 * stats_stride + row, best_q)
        tl.store(stats + 3 * stats_stride + row, total_q)
        # The logarithm of the ratio, as the difference of two rounded logarithms could make the divergence negative.
        log_ratio = tl.log(total_p / total_q)
        if FORM == "student_teacher":
            divergence = tl.sum(keep_p * (cross + sum_p * (shift_p - shift_q)), 0) / total_p - log_ratio
            tl.store(divergences + row, divergence)
            tl.store(of_p + row, -divergence)
        if FORM == "teacher_student":
            divergence = tl.sum(keep_q * (cross + sum_q * (shift_q - shift_p)), 0) / total_q + log_ratio
            tl.store(divergences + row, divergence)
            tl.store(of_p + row, 1.0)
        if FORM == "mixture":
            to_student = tl.zeros([BLOCK], tl.float32)
            to_teacher = tl.zeros([BLOCK], tl.float32)
            for start in range(0, vocabulary, BLOCK):
                words = start + lanes
                z = tl.load(z_row + words, mask=words < vocabulary, other=-float("inf"))
                u = tl.load(u_row + words, mask=words < vocabulary, other=-float("inf"))
                d_p, d_q = (z - best_p) * inverse_p, (u - best_q) * inverse_q
                p, q = tl.exp(d_p), tl.exp(d_q)
                ratio = d_q - d_p + log_ratio
                of_mixture = _log_of_mixture(ratio, beta)
                # log(p/m) and log(q/m).
                to_student += tl.where(p > 0, p * (-tl.maximum(ratio, 0.0) - of_mixture), 0.0)
                to_teacher += tl.where(q > 0, q * (tl.minimum(ratio, 0.0) - of_mixture), 0.0)
            from_student = (1 - beta) * tl.sum(to_student, 0) / total_p
            tl.store(divergences + row, from_student + beta * tl.sum(to_teacher, 0) / total_q)
            tl.store(of_p + row, -from_student)


@triton.jit(
    do_not_specialize=["stats_stride"],
    do_not_specialize_on_alignment=[
        "ids", "entropies", "of_p", "stats", "by_logprob", "by_entropy", "by_divergence",
    ],
)  # fmt: skip
def differentiate_row(
    student, teacher, factor, ids, entropies, of_p, stats, by_logprob, by_entropy, by_divergence,
    vocabulary, student_stride, teacher_stride, factor_stride, stats_stride, inverse_p, inverse_q, beta,
    FORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes a block of a row of ∂L/∂z to ``factor``, which may be ``student``.

    With p outside the bracket: p·[-∂logprob - ∂entropy·(log p + H) + ∂divergence·(a + b·log(p/·))], and e_y·∂logprob.
    """
    row = tl.program_id(0).to(tl.int64)
    words = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = words < vocabulary
    z = tl.load(student + row * student_stride + words, mask=inside, other=-float("inf"))
    total_p = tl.load(stats + stats_stride + row)
    d_p = (z - tl.load(stats + row)) * inverse_p
    p = tl.exp(d_p) * (1 / total_p)
    of_logprob, of_entropy = tl.load(by_logprob + row), tl.load(by_entropy + row)
    slope = -of_logprob - of_entropy * (d_p - tl.log(total_p) + tl.load(entropies + row))
    if FORM != "none":
        u = tl.load(teacher + row * teacher_stride + words, mask=inside, other=-float("inf"))
        total_q = tl.load(stats + 3 * stats_stride + row)
        d_q = (u - tl.load(stats + 2 * stats_stride + row)) * inverse_q
        of_divergence, a = tl.load(by_divergence + row), tl.load(of_p + row)
        ratio = d_q - d_p + tl.log(total_p / total_q)
        if FORM == "student_teacher":
            slope += of_divergence * (a - ratio)
        if FORM == "teacher_student":
            slope += of_divergence * a
        if FORM == "mixture":
            over_mixture = -tl.maximum(ratio, 0.0) - _log_of_mixture(ratio, beta)
            slope += of_divergence * (a + (1 - beta) * over_mixture)
    gradient = tl.where(p > 0, p * slope, 0.0)
    if FORM == "teacher_student":
        gradient -= of_divergence * (tl.exp(d_q) * (1 / total_q))
    gradient += tl.where(words == tl.load(ids + row), of_logprob, 0.0)
    tl.store(factor + row * factor_stride + words, gradient.to(factor.dtype.element_ty), mask=inside)
