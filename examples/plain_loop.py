"""Trains a small model by SDPG in a plain PyTorch loop: `python examples/plain_loop.py`; needs torch and numpy alone.

The problem is to add two digits modulo 5. The model has learnt to copy an answer that its prompt holds and to guess
where it holds none, and is now trained on prompts without one. The same weights, shown the answer, are its teacher.

Axes: B rollouts, P prompts, G rollouts per prompt, N response tokens of all rollouts joined, D hidden size.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sdpg.models.fused_head import Teacher, TokenValues, fused_head
from sdpg.objective import beta, group_advantages, normaliser_weights, reference_term, reinforce

BLANK, EOS, WORDS = 5, 6, 7
"""The digits are the words 0 to 4."""
PROBLEMS = [(a, b) for a in range(5) for b in range(5)]
G = 8


class Model(nn.Module):
    """A causal language model: hidden states (B, T, D) of words (B, T), and an output embedding."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, size)
        self.body = nn.GRU(size, size, batch_first=True)
        self.head = nn.Linear(size, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.words(ids))[0]


@dataclass
class Rollouts:
    """B = P·G rollouts, the G of a prompt side by side; ``hinted`` are the teacher's prompts, rewards are (P, G)."""

    prompts: list[list[int]]
    hinted: list[list[int]]
    responses: list[list[int]]
    rewards: Tensor


def states_of(model: Any, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
    """Returns the hidden states that predict each token of the responses, (N, D)."""
    rows = [torch.tensor(prompt + response) for prompt, response in zip(prompts, responses, strict=True)]
    # Padding stands on the right, where a causal model does not see it.
    states = model(pad_sequence(rows, batch_first=True))
    ends = zip(states, prompts, rows, strict=True)
    return torch.cat([row[len(prompt) - 1 : len(ids) - 1] for row, prompt, ids in ends])


def sdpg_loss(model: Any, reference: Any, rollouts: Rollouts, alpha: float, beta: float) -> tuple[Tensor, TokenValues]:
    """Returns L = L_out + β·L⁺_OPD + α·L_K, Eq. 3.1 of arXiv 2606.04036, and the values of the N tokens."""
    advantages = group_advantages(rollouts.rewards, std="population", eps=1e-6).flatten()  # (B,)
    lengths = torch.tensor([len(response) for response in rollouts.responses])
    weights = normaliser_weights(lengths, "group", rollouts.rewards.shape[1], max_tokens=0)  # (B,)
    row = torch.arange(len(lengths)).repeat_interleave(lengths)  # (N,) the rollout of each token
    ids = torch.tensor([token for response in rollouts.responses for token in response])

    states = states_of(model, rollouts.prompts, rollouts.responses)  # (N, D) with gradient
    distilled = (advantages > 0)[row].nonzero().squeeze(1)  # tokens of rollouts with positive advantage
    with torch.no_grad():
        hinted = states_of(model, rollouts.hinted, rollouts.responses)[distilled]
        ref_states = states_of(reference, rollouts.prompts, rollouts.responses)
        ref = fused_head(ref_states, reference.head.weight, reference.head.bias, ids, None, memory_bytes=1 << 24)[1]

    def token_loss(tokens: Tensor, values: TokenValues) -> Tensor:
        loss = reinforce(values.logprobs, advantages[row[tokens]].to(values.logprobs))
        loss = loss + beta * values.divergence  # 0 where the teacher scored nothing
        loss = loss + alpha * reference_term(values.logprobs, ref.logprobs[tokens], "ufkl")
        return loss * weights[row[tokens]].to(loss)

    teacher = Teacher(distilled, hinted)  # of the student's head, by D_KL(student‖teacher) over the whole vocabulary
    head = model.head
    return fused_head(states, head.weight, head.bias, ids, token_loss, memory_bytes=1 << 24, teacher=teacher)


def learn_to_copy(model: Model, steps: int = 40) -> None:
    """Trains the model to repeat the answer that its prompt holds, whatever the problem is, and else to guess."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        a, b, answers = torch.randint(5, (3, 64))
        ids = torch.stack([a, b, answers.where(torch.rand(64) < 0.5, BLANK), answers], 1)
        logits = model.head(model(ids)[:, 2:])
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), torch.stack([answers, answers * 0 + EOS], 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def sample(model: Model, problems: list[tuple[int, int]]) -> Rollouts:
    """Samples G responses of at most two words per problem; the reward is 1 for the sum's last digit, else 0."""
    problems = [problem for problem in problems for _ in range(G)]
    prompts, answers = [[a, b, BLANK] for a, b in problems], [(a + b) % 5 for a, b in problems]
    ids = torch.tensor(prompts)
    for _ in range(2):
        ids = torch.cat([ids, model.head(model(ids)[:, -1]).softmax(-1).multinomial(1)], 1)
    responses = [words[:1] if words[0] == EOS else words for words in ids[:, 3:].tolist()]
    rewards = [float(words == [answer, EOS]) for words, answer in zip(responses, answers, strict=True)]
    hinted = [[a, b, answer] for (a, b), answer in zip(problems, answers, strict=True)]
    return Rollouts(prompts, hinted, responses, torch.tensor(rewards).view(-1, G))


@torch.no_grad()
def measure(model: Model) -> tuple[float, float]:
    """Returns mean reward over all problems, and D_KL(student‖teacher) per token of their right answers, in nats."""
    rollouts = sample(model, PROBLEMS)
    prompts, hinted = rollouts.prompts[::G], rollouts.hinted[::G]
    responses = [[prompt[-1], EOS] for prompt in hinted]
    ids = torch.tensor(responses).flatten()
    teacher = Teacher(torch.arange(len(ids)), states_of(model, hinted, responses))
    states = states_of(model, prompts, responses)
    _, values = fused_head(states, model.head.weight, None, ids, None, memory_bytes=1 << 24, teacher=teacher)
    return float(rollouts.rewards.mean()), float(values.divergence.mean())


def train(steps: int = 120, base: float = 1.0, seed: int = 1) -> list[tuple[float, float]]:
    """Trains from the copying model with β_base = ``base``; returns what :func:`measure` finds before and after."""
    torch.manual_seed(seed)
    model = Model()
    learn_to_copy(model)
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    found = [measure(model)]
    for step in range(1, steps + 1):
        picked = [PROBLEMS[i] for i in torch.randint(len(PROBLEMS), (16,)).tolist()]
        now = beta(step, steps, base, warmup=steps // 8, decay=steps * 7 // 8)  # the paper's windows
        loss, _ = sdpg_loss(model, reference, sample(model, picked), alpha=1e-3, beta=now)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*found, measure(model)]


if __name__ == "__main__":
    for name, (reward, kl) in zip(("before", "after"), train(), strict=True):
        print(f"{name}: mean reward {reward:.2f}, KL to the teacher {kl:.3f} nats per token")
