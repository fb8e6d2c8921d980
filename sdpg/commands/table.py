"""The subcommands of ``sdpg`` by purpose, each with the module of ``pipelines`` that does it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        module: the module of ``pipelines`` whose ``main`` it calls.
        text: what it does, in half a line.
        anywhere: whether it also works outside a project.
    """

    module: str
    text: str
    anywhere: bool = False


GROUPS = {
    "Run": {
        "new": Command("new_project", "a project of your own problems and model, here or in a new folder", True),
        "repro": Command("repro", "the pipeline: problems, training, evaluation, reports"),
        "study": Command("study", "all methods on several bases and seeds: what holds elsewhere"),
        "configure": Command("configure", "write a profile, methods, seeds … into params.yaml, run nothing"),
    },
    "Look": {
        "app": Command("app", "compare runs and open any rollout down to the token", True),
        "mlflow": Command("mlflow_pages", "MLflow's pages on the project's runs"),
        "compare": Command("compare", "what differs between two runs beside the thing compared", True),
        "audit": Command("audit", "answers on which two verifiers disagree", True),
    },
    "Plan and tune": {
        "plan": Command("plan", "what a run takes in memory, hours and disk, before anything is loaded", True),
        "tune": Command("tune", "an Optuna study of one method on the validation set"),
        "tune-all": Command("tune_all", "all methods with equal budgets; default against tuned"),
        "effects": Command("effects", "what single knobs do, one at a time"),
    },
    "Evaluate and verify answers": {
        "evaluate": Command("benchmarks", "any model folder on any benchmark files", True),
        "score": Command("score", "verdicts on a file of answers", True),
        "rescore": Command("rescore", "stored answers again with another verifier, without a model", True),
        "solutions": Command("solutions", "worked solutions for problems that have none"),
        "coverage": Command("coverage", "how often the intervals hold the truth, by simulation", True),
    },
    "Make again and share": {
        "verify": Command("verify", "runs made again in a clean clone, compared bit by bit"),
        "reproduce": Command("reproduce", "what a run was made with, rebuilt in a new folder"),
        "export": Command("export_archive", "a run as one archive, laid out as the hub's"),
        "import": Command("import_archive", "unpack such an archive", True),
    },
    "This machine": {
        "doctor": Command("doctor", "what is installed and found here, and what stands in a project's way", True),
        "gpu-check": Command("gpu_check", "what this machine's NVIDIA GPU does of all that is asked of it", True),
        "serve": Command("serve", "a vLLM server that runs can use"),
        "rehearse": Command("rehearse", "a Qwen3 profile's whole path with random weights on a CPU"),
        "deliver": Command("deliver", "tell MLflow what waited while it was away"),
    },
}  # fmt: skip
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def overview() -> str:
    """Returns the help of ``sdpg`` itself."""
    lines = ["usage: sdpg COMMAND [options]     sdpg COMMAND --help shows options and an example", ""]
    for purpose, group in GROUPS.items():
        lines += [f"{purpose}:", *(f"  {name:<11}{command.text}" for name, command in group.items())]
    return "\n".join([*lines, "", "Example: sdpg repro --profile micro --jobs 2"])
