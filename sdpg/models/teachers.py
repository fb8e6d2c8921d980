"""Keeps the weights of a teacher that is neither the student nor the reference.

θ(k) are the student's weights after step k, and θ(0) are the base's. Step k reads the teacher θ_T(k-1); only when all
of its optimiser updates and its evaluation are done does θ_T(k-1) become θ_T(k):

- current: θ_T(k) = θ(k). With several updates per batch, each of them reads the weights that the one before it made.
- reference: θ_T(k) = θ(0).
- ema: θ_T(k) = (1-r)·θ_T(k-1) + r·θ(k), where r is ``teacher_rate``.
- snapshot: θ_T(k) = θ(k) where ``teacher_every`` divides k, and θ_T(k-1) elsewhere.
- gated: θ_T(k) = θ(k) where step k was evaluated and its validation accuracy is above that of the base and of every
  evaluation before it, and θ_T(k-1) elsewhere.

In all of them θ_T(0) = θ(0), and θ_T does not change within a step. With one update per batch, rate 1 and every 1 are
therefore ``current`` to the last bit; rate 0, and every n beyond the last step, are ``reference``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sdpg.models.adapters import OtherAdapter
from sdpg.models.ranks import Ranks
from sdpg.params import MethodParams


class TeacherWeights:
    """θ_T of one run, float32 like the student's weights, and sharded like them.

    Args:
        method: the method, whose ``teacher`` is ema, snapshot or gated.
        student: the student, at the base's weights.
        model: a frozen model of the base's weights, sharded like the student; None where an adapter is trained, of
            which alone a copy is kept.
        base_accuracy: the base's validation accuracy, which the gated teacher has to exceed.

    Attributes:
        model: the model that makes the teacher's passes.
        weights: the values of θ_T by the student's names for them: those of all trained weights.
        refreshed: the last step after which θ_T became θ; 0 for the base.
        best: the best validation accuracy so far.
    """

    def __init__(self, method: MethodParams, student: Any, model: Any | None, base_accuracy: float) -> None:
        self.method = method
        self.student = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
        self.model: Any = OtherAdapter(student) if model is None else model
        self.weights: dict[str, Tensor] = self.model.weights if model is None else dict(model.named_parameters())
        self.refreshed, self.best = 0, base_accuracy

    def advance(self, step: int, accuracy: float | None) -> None:
        """Makes θ_T(k) of θ_T(k-1), after all updates of step k.

        Args:
            step: k.
            accuracy: the validation accuracy of θ(k); None where it was not measured.
        """
        match self.method.teacher:
            case "ema":
                self._approach(self.method.teacher_rate)
            case "snapshot" if step % self.method.teacher_every == 0:
                self._refresh(step)
            case "gated" if accuracy is not None and accuracy > self.best:
                self.best = accuracy
                self._refresh(step)

    def _refresh(self, step: int) -> None:
        self._approach(1.0)
        self.refreshed = step

    @torch.no_grad()
    def _approach(self, rate: float) -> None:
        for name, weight in self.weights.items():
            # At rate 1 this is the student's value to the last bit, and at rate 0 the teacher's.
            _own_part(weight).lerp_(_own_part(self.student[name]), rate)

    @torch.no_grad()
    def metrics(self, step: int, ranks: Ranks) -> dict[str, float | None]:
        """Returns the metrics of the teacher that step k reads, before its updates; all ranks call this."""
        pairs = [(_own_part(weight), _own_part(self.student[name])) for name, weight in self.weights.items()]
        sums = [
            torch.stack([part.square().sum(dtype=torch.float64) for part in parts]).sum().item()
            for parts in ((teacher - student for teacher, student in pairs), (student for _, student in pairs))
        ]
        if any(isinstance(weight, DTensor) for weight in self.weights.values()):
            sums = [ranks.total(part) for part in sums]
        age = None if self.method.teacher == "ema" else float(step - 1 - self.refreshed)
        return {"teacher_distance": (sums[0] / sums[1]) ** 0.5, "teacher_age": age}

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds beside :attr:`weights`, as JSON."""
        return {"refreshed": self.refreshed, "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state` returned."""
        self.refreshed, self.best = state["refreshed"], state["best"]


def _own_part(tensor: Tensor) -> Tensor:
    """Returns this process's part of a tensor that may be sharded."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
