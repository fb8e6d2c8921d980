"""Tests of the parts for use in another trainer: what they need, docs/library.md, and the loss in a plain loop."""

import ast
import importlib
import inspect
from pathlib import Path
import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from examples import plain_loop
from sdpg import objective
from sdpg.models import fused_head
from sdpg.objective.coefficients import Coefficients
from tests.helpers.plain_update import AT, METHODS, OFF, assert_close, run
from tests.helpers.tiny import SIBLINGS, gradients, tiny_experience, tiny_policies, tiny_train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
HEAD = ("fused_head", "Teacher", "TokenValues", "chunk_tokens")
ALONE = """
from importlib.machinery import PathFinder
from importlib.metadata import requires
import re, runpy, sys

allowed, waiting = set(sys.stdlib_module_names) | {"sdpg", "torchgen", "functorch"}, ["torch", "numpy"]
while waiting:
    if (name := waiting.pop().replace("-", "_")) not in allowed:
        allowed.add(name)
        waiting += [re.match(r"[\\w-]+", line)[0] for line in requires(name) or [] if "extra ==" not in line]

class Installed:
    # Finds what a fresh environment with torch and numpy has, and nothing else that is installed here.
    def find_spec(self, name, path=None, target=None):
        if path is not None or name in allowed or name.startswith("_"):
            return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Installed() if finder is PathFinder else finder for finder in sys.meta_path]
import sdpg.objective
from sdpg.objective import *
runpy.run_path("examples/plain_loop.py", run_name="__main__")
assert not {"pydantic", "transformers", "ruamel"} & sys.modules.keys()
"""


class Wrapped:
    """A policy of the workbench in the form that the example reads."""

    def __init__(self, policy: torch.nn.Module) -> None:
        self.policy, self.head = policy, policy.lm_head

    def __call__(self, ids: Tensor) -> Tensor:
        return self.policy.model(input_ids=ids).last_hidden_state


def test_the_example_needs_torch_and_numpy_alone_and_learns() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    (reward, kl), (reward_after, kl_after) = [
        tuple(map(float, re.findall(r"\d+\.\d+", line))) for line in ran.stdout.splitlines()
    ]
    assert reward < 0.4 and reward_after > 0.8
    assert kl > 1 and kl_after < 0.6 * kl


@pytest.mark.parametrize("at", [AT, OFF], ids=["SDPG", "REINFORCE"])
def test_its_loss_and_gradient_are_those_of_the_workbench(at: Coefficients) -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    expected = run(policies, experience, METHODS["sdpg-ufkl"], at, tiny_train())
    policies.student.zero_grad(set_to_none=True)
    rewards = torch.tensor([[1.0, -1.0, 1.0, -1.0], [1.0] * SIBLINGS, [-1.0, -1.0, -1.0, 1.0]])
    rollouts = plain_loop.Rollouts(
        experience.student_prompts, experience.teacher_prompts, experience.responses, rewards
    )
    student, reference = Wrapped(policies.student), Wrapped(policies.reference)
    loss, values = plain_loop.sdpg_loss(student, reference, rollouts, at.alpha, at.beta)
    loss.backward()
    assert_close((loss.item(), gradients(policies.student)), expected, 1e-9)
    # Two groups have rollouts with positive advantage, the uniform one has none.
    distilled = [i for i, advantage in enumerate(experience.advantages) if advantage > 0]
    lengths = [len(response) for response in experience.responses]
    counts = [int(part.count_nonzero()) for part in values.divergence.split(lengths)]
    assert len(distilled) == 3 and counts == [length * (i in distilled) for i, length in enumerate(lengths)]


def documented() -> dict[str, str]:
    """The names of docs/library.md, each with the parameters in its heading."""
    return dict(re.findall(r"^#### `(\w+)(?:\((.*)\))?`$", PAGE, flags=re.MULTILINE))


def test_every_public_name_is_documented_with_its_parameters() -> None:
    public = {name: getattr(objective, name) for name in objective.__all__} | {
        name: getattr(fused_head, name) for name in HEAD
    }
    assert documented().keys() == public.keys()
    for name, written in documented().items():
        if callable(public[name]) and name != "Divergence":
            (function,) = ast.parse(f"def {name}({written}): pass").body
            names = [node.arg for node in ast.walk(function) if isinstance(node, ast.arg)]
            assert sorted(names) == sorted(inspect.signature(public[name]).parameters), name


def test_type_checkers_see_what_is_exported() -> None:
    tree = ast.parse(Path(str(objective.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(objective.__all__)
    with pytest.raises(AttributeError, match="no attribute 'los'"):
        _ = objective.los  # pyright: ignore[reportAttributeAccessIssue]
    assert inspect.ismodule(importlib.import_module("sdpg.objective.losses"))


def test_the_page_shows_the_examples_as_they_are() -> None:
    shown = re.findall(r"<!-- (examples/\w+\.py) (\w+) -->\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert {name for _, name, _ in shown} >= {"states_of", "sdpg_loss", "train"}
    for file, name, text in shown:
        source = (ROOT / file).read_text(encoding="utf-8")
        node = next(node for node in ast.parse(source).body if getattr(node, "name", None) == name)
        assert text == f"{ast.get_source_segment(source, node)}\n", name


def test_a_value_that_is_not_allowed_is_refused() -> None:
    values = torch.ones(2)
    with pytest.raises(ValueError, match="kind is 'k2'; allowed: ufkl, urkl, fkl, rkl, k1, k3"):
        objective.reference_term(values, values, "k2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind is 'token'; allowed: group, batch, sequence, constant"):
        objective.normaliser_weights(values, "token", 2, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="std is 'unbiased'; allowed: population, sample, none, batch"):
        objective.group_advantages(values[None], "unbiased", 0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="baseline is 'mean'; allowed: group, leave_one_out, batch"):
        objective.group_advantages(values[None], "none", 0.0, baseline="mean")  # type: ignore[arg-type]
