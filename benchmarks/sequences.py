"""Measures the update's tokens per second as sequences grow at a fixed number of tokens, and attention's share of it.

The model is random and of the tiny profile's size, and the rollouts are fabricated: a quarter of each sequence is the
student's prompt, which four siblings share, the teacher's prompt is twice as long, and half of the gates are open.
"""

from pathlib import Path
import statistics
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.figures import Figure, Target, show
from benchmarks.timing import interleaved
from benchmarks.training import peak_step
from sdpg.models.experience import Experience
from sdpg.models.passes import Policies
from sdpg.objective.coefficients import coefficients
from sdpg.params import Params, load_params
from sdpg.planning.shapes import shape_of
from sdpg.training.update import Task, accumulate_gradients

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
TOKENS = 16_384
SIBLINGS, REPEATS = 4, 5
METHOD = "sdpg-ufkl"

UPDATE = Target("sequences", f"tokens/s of the update at the best length, {TOKENS:,} tokens an update")


def update_by_length() -> Figure:
    """Returns the figure whose ratio is the tokens per second at the longest sequences."""
    params = load_params()
    policies = random_policies(params)
    tasks = {length: make_task(params, policies, length, TOKENS // length) for length in LENGTHS}
    times = interleaved(
        {str(length): lambda task=task: run(task) for length, task in tasks.items()}, REPEATS, "sequences"
    )  # fmt: skip
    rates = {length: TOKENS / statistics.median(times[str(length)]) for length in LENGTHS}
    bar = tqdm(LENGTHS, desc="sequences, attention", leave=False)
    shares = {length: attention_share(tasks[length]) for length in bar}
    best = max(rates, key=lambda length: rates[length])
    bend = next((n for n in LENGTHS if n > best and rates[n] < 0.8 * rates[best]), None)
    half = next((n for n in LENGTHS if shares[n] > 0.5), None)
    show(
        f"Update of {METHOD} by length of sequence, {TOKENS:,} tokens each, {torch.get_num_threads()} thread(s)",
        ["length", "sequences", "seconds", "tokens/s", "of the best", "attention's share"],
        [(length, TOKENS // length, f"{TOKENS / rates[length]:.2f}", f"{rates[length]:,.0f}",
          f"{rates[length] / rates[best]:.2f}", f"{shares[length]:.0%}") for length in LENGTHS],
        f"best at {best}; below 80% of that from {bend or 'nowhere'}; "
        f"attention takes more than half of the time from {half or 'nowhere'}",
    )  # fmt: skip
    return UPDATE.measured(
        rates[LENGTHS[-1]] / rates[best],
        tokens_per_second={str(length): rate for length, rate in rates.items()},
        attention_share={str(length): share for length, share in shares.items()},
        best=best,
        bends_at=bend,
        attention_over_half_at=half,
        repeats=REPEATS,
    )


def random_policies(params: Params, context: int = 2 * LENGTHS[-1]) -> Policies:
    """Returns student and reference of the profile's size, with another context length."""
    size = shape_of(params.base)
    config = Qwen3Config(
        vocab_size=size.vocabulary, hidden_size=size.hidden_size, intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim, max_position_embeddings=context, tie_word_embeddings=size.tied,
        initializer_range=size.hidden_size**-0.5,
    )  # fmt: skip
    models: list[Any] = []
    with torch.random.fork_rng():
        for seed in (0, 1):
            torch.manual_seed(seed)
            models.append(Qwen3ForCausalLM(config))
    student, reference = models
    return Policies(
        student, reference.requires_grad_(False), 0, params.rollout.temperature,
        head_bytes=params.train.head_megabytes << 20,
    )  # fmt: skip


def make_task(params: Params, policies: Policies, length: int, sequences: int) -> Task:
    """Returns a task of fabricated rollouts, whose sequences are all ``length`` tokens long."""
    vocabulary, prompt = policies.student.config.vocab_size, length // 4
    generator = torch.Generator().manual_seed(length)

    def ids(rows: int, count: int) -> list[list[int]]:
        return torch.randint(1, vocabulary, (rows, count), generator=generator).tolist()

    def prompts(count: int) -> list[list[int]]:
        return [prompt for prompt in ids(sequences // SIBLINGS, count) for _ in range(SIBLINGS)]

    advantages = torch.ones(sequences, dtype=torch.float64)
    advantages[1::2] = -1
    experience = Experience(
        problem_ids=[str(index) for index in range(sequences)],
        student_prompts=prompts(prompt),
        teacher_prompts=prompts(2 * prompt),
        responses=ids(sequences, length - prompt),
        rollout_logprobs=[[]] * sequences,
        advantages=advantages,
        gates=(advantages > 0).double(),
    )
    method = params.methods[METHOD]
    return Task(
        policies, experience, method, coefficients(method, peak_step(params), params.train.steps),
        params.train.model_copy(update={"responses_per_prompt": SIBLINGS}), length, Path("not-finite.json"),
    )  # fmt: skip


def run(task: Task) -> None:
    """Computes the gradients of one update."""
    task.policies.student.zero_grad(set_to_none=True)
    accumulate_gradients(task, range(len(task.experience.responses)))


def attention_share(task: Task) -> float:
    """Returns the time in scaled_dot_product_attention, forward and backward, over that of all operations."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(task)
    events = profiler.key_averages()
    attention = sum(event.self_cpu_time_total for event in events if "scaled_dot_product" in event.key)
    return attention / sum(event.self_cpu_time_total for event in events)
