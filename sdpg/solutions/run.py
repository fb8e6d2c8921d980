"""From settings to the written result; everything that can be known to be wrong is said before the work starts."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sdpg.params import Params
from sdpg.problems.sources import Problem, load_problems
from sdpg.rewards.own import make_verifier
from sdpg.solutions.candidates import Way
from sdpg.solutions.endpoint import FromEndpoint
from sdpg.solutions.filling import fill
from sdpg.solutions.joining import FromDataset
from sdpg.solutions.result import Result
from sdpg.solutions.settings import Connection, EngineWay, SolutionParams
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
    """Fills what is missing, writes the result, and returns what is to be said about it.

    Args:
        params: of the project; the base's tokenizer is that of its model.
        settings: what is asked.
        connection: how an endpoint is asked.
        folder: of local problem files and of the result.
        name: of the result in it.
        answers: folder of what was paid for.
        replace: write over a result of other settings.

    Raises:
        UserError: for input that cannot be used, and where an endpoint makes going on useless.
    """
    result = Result(name, folder, answers)
    result.check(settings, replace)
    with ExitStack() as stack:
        ways: list[Way] = [FromDataset(way, folder) for way in settings.datasets]
        endpoint = None
        if settings.endpoint is not None or settings.engine is not None:
            store = stack.enter_context(AnswerStore(answers))
            if settings.endpoint is not None:
                template = settings.endpoint.prompt
                endpoint = FromEndpoint(settings.endpoint, connection, settings.samples, store, partial(ask, template))
                endpoint.check()
                ways.append(endpoint)
            if settings.engine is not None:
                ways.append(_engine(settings, settings.engine, store))
        # Importing transformers takes seconds, which what is wrong above need not wait for.
        from sdpg.problems.prepare import base_tokenizer
        from sdpg.solutions.checking import Checker

        data = params.data.model_copy(update={"train": settings.source})
        tokenizer = base_tokenizer(params)
        problems = load_problems(settings.source, "train", data).problems
        problems = problems if settings.source.limit is None else problems[: settings.source.limit]
        verifier = stack.enter_context(make_verifier(settings.reward))
        filled = fill(problems, ways, Checker(verifier, tokenizer, settings.prompts), settings.keep, settings.limit)
        named = (verifier.name, verifier.version)
        result.write(settings, filled, named)
        return result.report(filled, named, None if endpoint is None else endpoint.asked_now)


def ask(template: str, problem: Problem) -> str:
    """What an endpoint is asked."""
    from sdpg.problems.prompts import fill_template

    return fill_template(template, {"problem": problem.problem, "answer": problem.answer})


def _engine(settings: SolutionParams, way: EngineWay, store: AnswerStore) -> Way:
    from sdpg.solutions.sampling import FromEngine, local_engine

    return FromEngine(way, settings.prompts, settings.samples, store, local_engine)
