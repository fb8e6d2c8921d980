"""Tests terms of whole responses and gates per token as a user would add them: one entry each, no further pass."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sdpg.errors import UserError
from sdpg.models.experience import Experience
from sdpg.models.fused_head import TokenValues, fused_head
from sdpg.objective.coefficients import Coefficients, silent_terms
from sdpg.objective.gates import GATES, Gate
from sdpg.objective.methods import TokenInputs
from sdpg.objective.outcomes import OUTCOMES, Outcome, OutcomeInputs, OutcomeTerm
from sdpg.objective.responses import Responses
from sdpg.params import MethodParams
from tests.helpers.plain_update import AT, KL, OFF, assert_close, plain_log_probs, update
from tests.helpers.tiny import (
    SIBLINGS,
    counted_passes,
    gradients,
    tiny_experience,
    tiny_method,
    tiny_policies,
    tiny_train,
)


def gspo(inputs: OutcomeInputs) -> OutcomeTerm:
    """GSPO (arXiv 2507.18071): the ratio is the whole response's, s = (Π ρ)^(1/T), clipped as PPO's."""
    ratio = inputs.responses.spread(inputs.responses.mean(inputs.ratio.log()).exp())
    clipped = ratio.clamp(1 - inputs.clip_low, 1 + inputs.clip_high)
    loss = torch.maximum(-inputs.advantages * ratio, -inputs.advantages * clipped)
    return OutcomeTerm(loss, (loss != -inputs.advantages * ratio).detach())


@pytest.fixture
def sequence_ratio() -> Iterator[MethodParams]:
    OUTCOMES["geometric"] = Outcome(gspo, clips=True, whole_responses=True)
    yield tiny_method(outcome="ppo_clip", clip_low=0.1, clip_high=0.15).model_copy(update={"outcome": "geometric"})
    del OUTCOMES["geometric"]


def test_responses_of_tokens_in_any_order() -> None:
    responses = Responses.of(torch.tensor([2, 1, 3]))
    assert responses.owners.tolist() == [0, 0, 1, 2, 2, 2]
    assert responses.positions.tolist() == [0, 1, 0, 0, 1, 2]
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert responses.sum(values).tolist() == [3.0, 4.0, 56.0]
    order = torch.tensor([5, 0, 3, 2, 1, 4])
    taken = responses.take(order)
    assert taken.positions.tolist() == [2, 0, 0, 0, 1, 1]
    assert taken.mean(values[order]).tolist() == pytest.approx([1.5, 4.0, 56 / 3])
    assert taken.spread(torch.tensor([10.0, 20.0, 30.0])).tolist() == [30.0, 10.0, 30.0, 20.0, 10.0, 30.0]


@pytest.mark.parametrize("memory", [1, 600, 1 << 20], ids=["a token a chunk", "some", "one chunk"])
def test_a_loss_of_whole_responses_is_exact_whatever_the_chunks(memory: int) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((6, 4), (9, 4)))
    ids = torch.randint(0, 9, (6,), generator=draw)
    responses, calls = Responses.of(torch.tensor([2, 4])), []

    def token_loss(tokens: Tensor, values: TokenValues) -> Tensor:
        calls.append(len(tokens))
        mine = responses.take(tokens)
        return mine.spread(mine.mean(values.logprobs).exp()) * values.entropy + mine.positions * values.logprobs

    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    loss, _ = fused_head(*leaves, None, ids, token_loss, memory_bytes=memory, whole_responses=True)
    found = torch.autograd.grad(loss, leaves)
    assert calls == [6]

    log_p = (hidden @ weight.t()).log_softmax(-1)
    logprobs, entropy = log_p[torch.arange(6), ids], -(log_p.exp() * log_p).sum(-1)
    means = torch.stack([logprobs[:2].mean(), logprobs[2:].mean()]).exp()
    expected = (means[[0, 0, 1, 1, 1, 1]] * entropy + torch.tensor([0, 1, 0, 1, 2, 3]) * logprobs).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaves))


def plain_sequence_loss(policies: Any, x: Experience, low: float, high: float) -> Tensor:
    """GSPO response by response; the tokens of a group are averaged, then the groups."""
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, 12, SIBLINGS):
        rows = range(start, start + SIBLINGS)
        tokens = sum(len(x.responses[i]) for i in rows)
        for i in rows:
            log_p = plain_log_probs(policies.student, x.student_prompts[i], x.responses[i], 1.0)
            sampled = torch.stack([log_p[t, token] for t, token in enumerate(x.responses[i])])
            assert x.old_logprobs is not None
            s = torch.exp(torch.mean(sampled - x.old_logprobs[i]))
            a = x.advantages[i]
            loss = -torch.minimum(s * a, torch.clamp(s, 1 - low, 1 + high) * a)
            total = total + len(x.responses[i]) * loss / tokens / 3
    return total


@pytest.mark.parametrize("head_bytes", [1, 2_000, 64 << 20])
def test_a_sequence_ratio_takes_no_further_pass(sequence_ratio: MethodParams, head_bytes: int) -> None:
    policies = replace(tiny_policies(torch.float64), head_bytes=head_bytes)
    near = plain_old(policies, tiny_experience())
    with counted_passes(policies.student) as passes:
        found, gradient = update(policies, near, sequence_ratio, OFF, tiny_train(updates_per_batch=2))
    with counted_passes(policies.student) as usual:
        update(policies, near, tiny_method(outcome="ppo_clip"), OFF, tiny_train(updates_per_batch=2))
    assert len(passes.seen) == len(usual.seen)
    policies.student.zero_grad()
    expected = plain_sequence_loss(policies, near, 0.1, 0.15)
    expected.backward()
    assert_close((found.loss, gradient), (expected.item(), gradients(policies.student)), 1e-9)
    assert 0 < (found.columns["clipped"].mean() or 0) < 1


def plain_old(policies: Any, x: Experience) -> Experience:
    """Rollouts with a π_old that is near enough for some responses to be clipped and others not."""
    old = []
    with torch.no_grad():
        for i, response in enumerate(x.responses):
            log_p = plain_log_probs(policies.student, x.student_prompts[i], response, 1.0)
            sampled = torch.stack([log_p[t, token] for t, token in enumerate(response)])
            old.append(sampled + 0.3 * ((i % 3) - 1))
    return replace(x, old_logprobs=old)


SURE = 3.0
"""Nats of entropy below which the teacher of these tests is sure of itself."""


def surprised(inputs: TokenInputs) -> Tensor:
    """A gate per token of two teacher's values: where the teacher is sure, and finds the token less likely."""
    gain = inputs.teacher_logprobs - inputs.logprobs
    return ((inputs.teacher_entropy < SURE) & (gain < 0)).to(gain.dtype)


@pytest.fixture
def token_gate() -> Iterator[MethodParams]:
    GATES["surprised"] = Gate("m = …", lambda row: float(row.advantage > 0), surprised, reads_teacher_entropy=True)
    yield tiny_method(outcome="none", **KL).model_copy(update={"gate": "surprised"})
    del GATES["surprised"]


@pytest.mark.parametrize("head_bytes", [1, 64 << 20])
def test_a_gate_per_token_reads_the_teacher(token_gate: MethodParams, head_bytes: int) -> None:
    policies, x = replace(tiny_policies(torch.float64), head_bytes=head_bytes), tiny_experience()
    with counted_passes(policies.student) as passes:
        found, gradient = update(policies, x, token_gate, AT, tiny_train())
    with counted_passes(policies.student) as usual:
        update(policies, x, tiny_method(outcome="none", **KL), AT, tiny_train())
    assert len(passes.seen) == len(usual.seen)
    policies.student.zero_grad()
    total, opened = torch.zeros((), dtype=torch.float64), []
    for i in (0, 2, 11):
        group = x.responses[i // SIBLINGS * SIBLINGS : (i // SIBLINGS + 1) * SIBLINGS]
        log_p = plain_log_probs(policies.student, x.student_prompts[i], x.responses[i], 1.0)
        with torch.no_grad():
            log_q = plain_log_probs(policies.student, x.teacher_prompts[i], x.responses[i], 1.0)
        for t, token in enumerate(x.responses[i]):
            sure = -(log_q[t].exp() * log_q[t]).sum() < SURE
            opened.append(bool(sure and log_q[t, token] < log_p[t, token]))
            kl = (log_p[t].exp() * (log_p[t] - log_q[t])).sum()
            total = total + AT.beta * opened[-1] * kl / sum(map(len, group)) / 3
    assert any(opened) and not all(opened)
    total.backward()
    assert_close((found.loss, gradient), (total.item(), gradients(policies.student)), 1e-9)


# --- parts of a user's own, by import path


@pytest.fixture
def own_module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, text: (tmp_path / f"{name}.py").write_text(text) and None


def test_an_own_term_is_added_with_its_coefficient(own_module: Callable[[str, str], None]) -> None:
    own_module("own_terms_a", (
        "def confidence(inputs, power=1):\n"
        "    return inputs.responses.spread(inputs.responses.mean(inputs.entropy)) ** power\n"
    ))  # fmt: skip
    term = {"kind": "import", "path": "own_terms_a:confidence", "coefficient": 0.3, "whole_responses": True}
    method = tiny_method(outcome="none", terms={"confidence": term | {"options": {"power": 2}}})
    policies, x = tiny_policies(torch.float64), tiny_experience()
    found, gradient = update(policies, x, method, OFF, tiny_train(normaliser="batch"))
    # Every rollout has the term, those of uniform groups too.
    assert found.columns["logprob"].rows == list(range(12))
    policies.student.zero_grad()
    total, tokens = torch.zeros((), dtype=torch.float64), sum(map(len, x.responses))
    for i, response in enumerate(x.responses):
        log_p = plain_log_probs(policies.student, x.student_prompts[i], response, 1.0)
        total = total + 0.3 * len(response) * (-(log_p.exp() * log_p).sum(-1)).mean() ** 2 / tokens
    total.backward()
    assert_close((found.loss, gradient), (total.item(), gradients(policies.student)), 1e-9)


def test_an_own_term_that_is_not_one_value_per_token_is_refused(own_module: Callable[[str, str], None]) -> None:
    own_module("own_terms_b", "def total(inputs):\n    return inputs.logprobs.sum()\n")
    term = {"kind": "import", "path": "own_terms_b:total", "coefficient": 1.0}
    with pytest.raises(UserError, match=r"terms.total.path is 'own_terms_b:total', which returns \(\) for \d+ tokens"):
        update(tiny_policies(), tiny_experience(), tiny_method(terms={"total": term}), OFF, tiny_train())


def test_an_own_gate_decides_rollouts_and_tokens(own_module: Callable[[str, str], None]) -> None:
    own_module("own_gates_a", (
        "from sdpg.objective.gates import Gate\n\n\n"
        "def early(tokens):\n"
        "    return Gate('t < n', row=lambda row: float(row.advantage < 0),\n"
        "                token=lambda inputs: (inputs.responses.positions < tokens).to(inputs.logprobs.dtype))\n"
    ))  # fmt: skip
    gate = {"kind": "import", "path": "own_gates_a:early", "options": {"tokens": 2}}
    method = tiny_method(outcome="none", distillation="kl_student_teacher", gate=gate)
    x = tiny_experience(gate_kind=method.gate)
    assert x.gates.tolist() == (x.advantages < 0).double().tolist()
    found, _ = update(tiny_policies(torch.float64), x, method, AT, tiny_train())
    for row, values in found.columns["kl_gated"].lists().items():
        assert x.advantages[row] < 0
        assert all((value > 0) == (place < 2) for place, value in enumerate(values))
    assert silent_terms(method, Coefficients(0.0, 0.5, 0.0), -1.0, 0.0)


def test_an_own_gate_that_is_none_is_refused(own_module: Callable[[str, str], None]) -> None:
    own_module("own_gates_b", "def gate():\n    return 1\n")
    gate = {"kind": "import", "path": "own_gates_b:gate"}
    with pytest.raises(UserError, match=r"gate.path is 'own_gates_b:gate', which returns int"):
        tiny_experience(gate_kind=tiny_method(distillation="kl_student_teacher", gate=gate).gate)
