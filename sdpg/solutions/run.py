"""Goes from settings to the written result; every error that can be known is reported before the work starts."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sdpg.params import Params
from sdpg.problems.sources import Problem, load_problems
from sdpg.rewards.own import make_verifier
from sdpg.solutions.candidates import SolutionSource
from sdpg.solutions.endpoint import EndpointSource
from sdpg.solutions.filling import fill
from sdpg.solutions.joining import DatasetSource
from sdpg.solutions.result import Result
from sdpg.solutions.settings import Connection, EngineSettings, SolutionParams
from sdpg.solutions.store import AnswerStore


def run(
    params: Params,
    settings: SolutionParams,
    connection: Connection,
    folder: Path,
    name: str,
    answers: Path,
    replace: bool,
) -> str:
    """Fills in missing solutions, writes the result, and returns a report of it.

    Args:
        params: the project's parameters; the base model's tokenizer is used.
        settings: which problems, sources, prompts and verifier are used.
        connection: how an endpoint is reached.
        folder: the folder of local problem files and of the result.
        name: the result's file name in ``folder``.
        answers: the folder of paid answers.
        replace: whether to write over a result of other settings.

    Raises:
        UserError: if the input cannot be used, or an endpoint makes going on useless.
    """
    result = Result(name, folder, answers)
    result.check(settings, replace)
    with ExitStack() as stack:
        sources: list[SolutionSource] = [DatasetSource(dataset, folder) for dataset in settings.datasets]
        endpoint = None
        if settings.endpoint is not None or settings.engine is not None:
            store = stack.enter_context(AnswerStore(answers))
            if settings.endpoint is not None:
                render = partial(render_message, settings.endpoint.prompt)
                endpoint = EndpointSource(settings.endpoint, connection, settings.samples, store, render)
                endpoint.check()
                sources.append(endpoint)
            if settings.engine is not None:
                sources.append(_engine_source(settings, settings.engine, store))
        # Importing transformers takes seconds; the errors above are reported before.
        from sdpg.problems.prepare import base_tokenizer
        from sdpg.solutions.checking import Checker

        data = params.data.model_copy(update={"train": settings.source})
        tokenizer = base_tokenizer(params)
        problems = load_problems(settings.source, "train", data).problems
        problems = problems if settings.source.limit is None else problems[: settings.source.limit]
        verifier = stack.enter_context(make_verifier(settings.reward))
        filled = fill(problems, sources, Checker(verifier, tokenizer, settings.prompts), settings.keep, settings.limit)
        named = (verifier.name, verifier.version)
        result.write(settings, filled, named)
        return result.report(filled, named, None if endpoint is None else endpoint.bought)


def render_message(template: str, problem: Problem) -> str:
    """Returns the message for an endpoint: a template with the problem filled in."""
    from sdpg.problems.prompts import fill_template

    return fill_template(template, {"problem": problem.problem, "answer": problem.answer})


def _engine_source(settings: SolutionParams, engine: EngineSettings, store: AnswerStore) -> SolutionSource:
    from sdpg.solutions.sampling import EngineSource, local_engine

    return EngineSource(engine, settings.prompts, settings.samples, store, local_engine)
