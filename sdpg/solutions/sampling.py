"""Gets solutions from a local model by rejection sampling: the rollout engine answers, the verifier decides later."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sdpg.devices import device_type
from sdpg.errors import UserError
from sdpg.models.weight_files import check_weights
from sdpg.params import BaseParams, LocalModel, PromptParams, RolloutParams
from sdpg.problems.context import model_context
from sdpg.problems.prompts import chat_prompt, generation_header, prompt_ids, render_student
from sdpg.problems.sources import Problem
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.records.provenance import hash_files
from sdpg.rollouts import RolloutEngine, Sampling
from sdpg.seeds import derive_seed
from sdpg.solutions.candidates import Candidate
from sdpg.solutions.settings import EngineSettings
from sdpg.solutions.store import AnswerStore, request_digest

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


class EngineSource:
    """Solutions from the local engine, as :class:`~sdpg.solutions.candidates.SolutionSource` defines it.

    Problems are sampled ``batch`` at a time, and a batch's answers are kept together: their random numbers belong to
    the batch as a whole, so that a command which goes on after an interruption draws what it would have drawn.

    Args:
        settings: the model, the engine and the decoding.
        prompts: the prompt section; the student's prompt is used.
        samples: rounds, each of which brings one answer per problem.
        store: the store that keeps the answers.
        make: a function that loads the model and makes the engine for prompts of so many tokens, called on first use.

    Raises:
        UserError: if the folder is no model, or prompt and answer do not fit its context.
    """

    name = "engine"

    def __init__(
        self,
        settings: EngineSettings,
        prompts: PromptParams,
        samples: int,
        store: AnswerStore,
        make: Callable[[EngineSettings, Any, int], RolloutEngine],
    ) -> None:
        self.settings, self.prompts, self.rounds, self.store, self._make = settings, prompts, samples, store, make
        folder = Path(settings.model)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"--engine {folder} has no config.json: name a folder with config.json, *.safetensors and a tokenizer, "
                "such as models/base"
            )
        check_weights(folder, "--engine")
        self.tokenizer = load_tokenizer(folder)
        generation_header(self.tokenizer, prompts)
        context = model_context(
            BaseParams(folder=str(folder.parent), model=LocalModel(kind="folder", path=folder.name))
        )
        limit = settings.decoding.max_tokens
        needed = prompts.max_student_tokens + limit
        if context is not None and needed > context:
            raise UserError(
                f"prompts.max_student_tokens ({prompts.max_student_tokens}) + --max-tokens ({limit}) "
                f"= {needed} tokens, but the context of {folder} is {context}: lower one of the two"
            )
        self._digest = hash_files([file for pattern in MODEL_FILES for file in folder.glob(pattern)], folder)
        self._origin = f"{'/'.join(folder.absolute().parts[-2:])} ({self._digest[:12]})"
        self._engine: RolloutEngine | None = None
        self._counts = {"answers": 0, "completion_tokens": 0, "from_store": 0}

    def used(self) -> dict[str, int]:
        """Returns the number of answers behind this command's candidates, and their tokens."""
        return dict(self._counts)

    def find_candidates(self, problems: Sequence[Problem], attempt: int) -> list[list[Candidate]]:
        """Returns one candidate per problem; stored answers are not sampled again."""
        size = self.settings.batch
        batches = [problems[start : start + size] for start in range(0, len(problems), size)]
        label = f"samples, round {attempt + 1} of {self.rounds}"
        candidates: list[list[Candidate]] = []
        with tqdm(total=len(problems), desc=label, unit="answer") as bar:
            for batch in batches:
                candidates += self._ask_batch(batch, attempt)
                bar.update(len(batch))
        return candidates

    def _ask_batch(self, problems: Sequence[Problem], attempt: int) -> list[list[Candidate]]:
        prompts = [
            chat_prompt(self.tokenizer, render_student(self.prompts, problem), self.prompts) for problem in problems
        ]
        settings = self.settings
        digest = request_digest("engine", self._digest, settings.model_dump(exclude={"model"}), attempt, prompts)
        answers = self.store.get(digest)
        if answers is None:
            answers = self._generate(prompts, digest)
            self.store.put(digest, answers)
        else:
            self._counts["from_store"] += len(answers)
        self._counts["answers"] += len(answers)
        self._counts["completion_tokens"] += sum(answer["tokens"] for answer in answers)
        return [
            [Candidate(answer["text"], self._origin, f"{digest}/{at}", answer["truncated"])]
            for at, answer in enumerate(answers)
        ]

    def _generate(self, prompts: Sequence[str], digest: str) -> list[dict[str, Any]]:
        if self._engine is None:
            self._engine = self._make(self.settings, self.tokenizer, self.prompts.max_student_tokens)
        decoding = self.settings.decoding
        sampling = Sampling(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_tokens=decoding.max_tokens,
            seed=derive_seed(self.settings.seed, "solutions", digest),
        )
        completions = self._engine.generate([prompt_ids(self.tokenizer, prompt) for prompt in prompts], sampling)
        return [
            {
                "text": self.tokenizer.decode(completion.ids, skip_special_tokens=True),
                "truncated": completion.truncated,
                "tokens": len(completion.ids),
            }
            for completion in completions
        ]


def local_engine(settings: EngineSettings, tokenizer: Any, prompt_tokens: int) -> RolloutEngine:
    """Returns the engine that ``rollout.engine`` names, with the folder's weights."""
    # Loading torch takes seconds, which is saved where all answers are stored.
    from sdpg.models.loading import load_model
    from sdpg.rollouts.engines import make_engine

    rollout = RolloutParams.model_validate({"engine": settings.engine, "vllm": settings.vllm})
    longest = prompt_tokens + settings.decoding.max_tokens
    model = load_model(Path(settings.model), device_type(settings.device))
    return make_engine(rollout, model, tokenizer, settings.batch, longest)
