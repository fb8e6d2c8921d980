"""Tests the engine source: a real tiny model that has learnt one answer, and engines that answer as they are told."""

from collections.abc import Callable, Sequence
import json
from pathlib import Path
import sys
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipelines import solutions as stage
from sdpg.errors import UserError
from sdpg.params import PromptParams, parse_params
from sdpg.problems.prompts import chat_prompt, prompt_ids, render_student
from sdpg.problems.sources import Problem
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.rollouts import Completion, RolloutEngine, Sampling
from sdpg.solutions.sampling import EngineSource
from sdpg.solutions.settings import Decoding, EngineSettings
from sdpg.solutions.store import AnswerStore
from tests.helpers.solutions_project import make_project, params_tree, questions, read_lines

LEARNT = "The sum is \\boxed{7}."


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{n}", f"What is {n}+{n + 1}?", str(2 * n + 1), "", "hand") for n in range(count)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model answers everything with :data:`LEARNT`, which is right for one question in six."""
    folder = make_project(tmp_path_factory.mktemp("project"), questions(6))
    model_folder = folder / "inputs/models/m"
    tokenizer: Any = load_tokenizer(model_folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=1000, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        initializer_range=0.125,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    prompts = parse_params(params_tree()).prompts
    texts = [chat_prompt(tokenizer, render_student(prompts, problem), prompts) for problem in problems(6)]
    answer = [*prompt_ids(tokenizer, LEARNT), tokenizer.eos_token_id]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [[*prompt_ids(tokenizer, text), *answer] for text in texts]
    for step in range(120):
        ids = torch.tensor([rows[step % len(rows)]])
        labels = ids.clone()
        labels[:, : -len(answer)] = -100
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(model_folder)
    return folder


def run(*arguments: str) -> None:
    before = sys.argv
    sys.argv = ["solutions", *arguments]
    try:
        stage.main()
    finally:
        sys.argv = before


def test_a_real_model_fills_what_it_gets_right(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    arguments = ("--engine", "inputs/models/m", "--samples", "3", "--max-tokens", "40", "--temperature", "0.2")
    run(*arguments)
    found = read_lines(project / "inputs/problems/solved.jsonl")
    assert [row["solution"] for row in found] == [None, None, None, LEARNT, None, None]
    assert found[3]["solution_way"] == "engine" and found[3]["solution_from"].startswith("models/m (")
    summary = json.loads((project / "inputs/solutions/solved.json").read_text())
    assert summary["filled"] == {"engine": 1} and summary["missing"] == 5
    assert sum(summary["rejected"]["engine"].values()) == 5 * 3
    assert summary["used"]["engine"]["answers"] == 6 + 5 + 5
    # Again, without the model.
    monkeypatch.setattr("sdpg.models.loading.load_model", lambda folder: pytest.fail("not needed"))
    before = (project / "inputs/problems/solved.jsonl").read_bytes()
    run(*arguments)
    assert (project / "inputs/problems/solved.jsonl").read_bytes() == before


class Told(RolloutEngine):
    """Says what ``text`` makes of the seed and the place in the batch, and remembers what it was asked."""

    def __init__(self, tokenizer: Any, text: Callable[[int, int], str], stop_after: int = 10**9) -> None:
        self.tokenizer, self.text, self.stop_after = tokenizer, text, stop_after
        self.asked: list[tuple[list[list[int]], Sampling]] = []

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Callable[[int], object] = lambda finished: None,
    ) -> list[Completion]:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(([list(prompt) for prompt in prompts], sampling))
        ids = [prompt_ids(self.tokenizer, self.text(sampling.seed, at)) for at in range(len(prompts))]
        return [Completion(one, [0.0] * len(one), len(one) > 60) for one in ids]

    def sync_weights(self) -> None: ...

    def rest(self) -> None: ...


def way(project: Path, store: AnswerStore, engine: Any, batch: int = 4, **changes: Any) -> EngineSource:
    tree = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 60} | changes
    settings = EngineSettings(
        model=str(project / "inputs/models/m"), engine="transformers", decoding=Decoding(**tree), seed=1, batch=batch
    )
    return EngineSource(settings, prompts(), 3, store, lambda way, tokenizer, prompt_tokens: engine)


def prompts() -> PromptParams:
    return parse_params(params_tree()).prompts


def test_batches_prompts_and_decoding(project: Path, tmp_path: Path) -> None:
    tokenizer: Any = load_tokenizer(project / "inputs/models/m")
    engine = Told(tokenizer, lambda seed, at: "long " * 40 if at == 1 else f"{seed} {at}")
    with AnswerStore(tmp_path) as store:
        found = way(project, store, engine).find_candidates(problems(6), 0)
        seeds = [sampling.seed for _, sampling in engine.asked]
        assert [one.text for [one] in found[4:]] == [f"{seeds[1]} 0", "long " * 40]
        assert [one.truncated for [one] in found] == [False, True, False, False, False, True]
        assert len({one.request for [one] in found}) == 6
        texts = [chat_prompt(tokenizer, render_student(prompts(), p), prompts()) for p in problems(6)]
        assert [ids for batch, _ in engine.asked for ids in batch] == [prompt_ids(tokenizer, text) for text in texts]
        assert {(s.temperature, s.top_p, s.max_tokens) for _, s in engine.asked} == {(0.7, 0.9, 60)}
        # Another round, other decoding: other random numbers.
        way(project, store, engine).find_candidates(problems(6), 1)
        way(project, store, engine, top_p=0.8).find_candidates(problems(6), 0)
        assert len({sampling.seed for _, sampling in engine.asked}) == len(engine.asked) == 6


def test_interrupted_it_goes_on_and_draws_what_it_would_have_drawn(project: Path, tmp_path: Path) -> None:
    tokenizer: Any = load_tokenizer(project / "inputs/models/m")

    def text(seed: int, at: int) -> str:
        return f"{seed} {at}"

    with AnswerStore(tmp_path / "whole") as store:
        whole = way(project, store, Told(tokenizer, text), batch=2).find_candidates(problems(7), 0)
    with AnswerStore(tmp_path / "parts") as store, pytest.raises(KeyboardInterrupt):
        way(project, store, Told(tokenizer, text, stop_after=2), batch=2).find_candidates(problems(7), 0)
    with AnswerStore(tmp_path / "parts") as store:
        engine = Told(tokenizer, text)
        assert way(project, store, engine, batch=2).find_candidates(problems(7), 0) == whole
        assert len(engine.asked) == 2


def test_what_does_not_fit_the_model_is_said_first(project: Path, tmp_path: Path) -> None:
    with AnswerStore(tmp_path) as store:
        with pytest.raises(UserError, match=r"300.* \+ --max-tokens .701. = 1001 tokens, but the context .* is 1000"):
            way(project, store, None, max_tokens=701)
        way(project, store, None, max_tokens=700)
