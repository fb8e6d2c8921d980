"""A method's values, ``methods.<name>.*`` in params.yaml: its terms, its teacher, its schedules."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdpg.params.section import Fraction, Imported, Name, Section

CONTRAST_TEMPLATES = {"wrong_sibling": "sibling", "wrong_answer": "answer"}
"""Contrast hint → the template that shows it. It is that of a right hint, so that nothing but rightness differs."""


class OwnTerm(Imported):
    """A user's own loss term: a function of :class:`sdpg.objective.methods.TokenInputs` → (N,) values."""

    coefficient: Annotated[float, Field(gt=0)]
    """The factor by which the term is multiplied before it is added to the loss."""
    whole_responses: bool = False
    """Whether a token's value depends on other tokens of its response."""
    reads_teacher: bool = False
    """Whether the term reads the teacher's log-probs or entropy, which costs a teacher pass on every rollout."""


class MethodParams(Section):
    """A method as data: its terms, its teacher, its schedules. A key that the method does not use is an error."""

    title: str
    outcome: Literal["none", "reinforce", "ppo_clip", "clipped_weight"]
    """L_out: section 3.2; PPO's clipped surrogate; or sg[ℓ_clip]·log π, the paper's A.3."""
    clip_low: Annotated[float, Field(ge=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(ge=0)] = 0.2
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """The bound c of A.3 for negative advantages; None is no bound."""
    token_weighting: Literal["none", "rlsd"] = "none"
    rlsd_lambda: Fraction = 0.5
    rlsd_decay: Fraction = 0.125
    """T of λ(k) = λ·max(0, 1 - k/T), as a fraction of the steps; 0 keeps λ constant."""
    rlsd_warmup: Fraction = 0.0
    """The window in which λ rises, as a fraction of the steps; 0 turns it off. RLSD has no such window."""
    rlsd_shape: Literal["linear", "cosine"] = "linear"
    """The shape of λ in both windows."""
    rlsd_clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    distillation: Literal["none", "kl_student_teacher", "kl_teacher_student", "jsd"] = "none"
    """The divergence, exact over the vocabulary. The paper's D_KL(p‖sg q) is kl_student_teacher (D7: the code calls it
    forward)."""
    jsd_beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    teacher: Literal["current", "reference"] = "current"
    """The policy whose weights play the teacher."""
    hint: Literal["prompts", "answer_and_solution", "answer", "sibling", "wrong_sibling", "feedback"] = "prompts"
    """What the teacher is shown of the answer: what ``prompts.hint`` says, made once for each problem; another such
    text; the response of a sibling that the verifier found correct, or wrong; or what the verdict on the rollout was.
    See docs/methods.md."""
    hint_choice: Literal["shortest", "longest", "random"] = "random"
    """Which of several siblings is shown."""
    hint_missing: Literal["skip", "fall_back"] = "skip"
    """A rollout for which there is no such hint has no teacher and counts as outside the gate, or has the hint of
    ``prompts``."""
    contrast_hint: Literal["none", "wrong_sibling", "wrong_answer"] = "none"
    """The wrong hint of a second pass of the teacher: a wrong sibling's response in the template of a right one's, or
    a wrong sibling's answer in the template ``answer``."""
    gate: Literal["positive", "all"] | Imported = "positive"
    """D1: positive distils rollouts with positive advantage only, all distils every rollout; an own rule is a
    :class:`sdpg.objective.gates.Gate`."""
    beta: Annotated[float, Field(ge=0)] = 1e-3
    beta_warmup: Fraction = 0.125
    beta_decay: Fraction = 0.875
    """D2: the windows of β(k), as fractions of the steps; 0 turns that factor off."""
    beta_shape: Literal["linear", "cosine"] = "linear"
    """The shape of β in both windows: the paper's straight lines, or half a cosine."""
    kl_clamp: Annotated[float, Field(gt=0)] | None = None
    """D1: the bound on each token's KL; the public code has 20."""
    reference: Literal["none", "ufkl", "urkl", "fkl", "rkl", "k1", "k3"] = "none"
    reference_in: Literal["loss", "reward"] = "loss"
    """D4: whether the reference term is part of the loss, or subtracted from the reward before the advantage (as in the
    public GRPO)."""
    alpha: Annotated[float, Field(ge=0)] = 1e-3
    entropy_bonus: Annotated[float, Field(ge=0)] = 0.0
    """η: the loss gets -η·H, where H is the exact entropy of each token's distribution. It is not part of the paper."""
    terms: dict[Name, OwnTerm] = Field(default_factory=dict)
    """A user's own further terms, by name; see docs/own_parts.md."""

    def reads(self, field: str) -> bool:
        """Says whether the method's terms read a field at all."""
        clipped = self.outcome not in ("none", "reinforce")
        distils = self.distillation != "none"
        rlsd = self.token_weighting == "rlsd"
        own_teacher = any(term.reads_teacher for term in self.terms.values())
        taught = distils or rlsd or own_teacher
        # Formulas of a user's own are the ones that can read it.
        contrasted = own_teacher or (distils and isinstance(self.gate, Imported))
        from_group = self.hint in ("sibling", "wrong_sibling") or (contrasted and self.contrast_hint != "none")
        conditions = {
            "clip_low": clipped, "clip_high": clipped, "dual_clip": clipped,
            "rlsd_lambda": rlsd, "rlsd_decay": rlsd, "rlsd_warmup": rlsd, "rlsd_shape": rlsd, "rlsd_clip": rlsd,
            "jsd_beta": self.distillation == "jsd", "teacher": taught,
            "hint": taught, "hint_choice": taught and from_group, "hint_missing": taught and self.hint != "prompts",
            "contrast_hint": contrasted,
            "gate": distils, "beta": distils, "beta_warmup": distils, "beta_decay": distils, "beta_shape": distils,
            "kl_clamp": distils,
            "reference_in": self.reference != "none", "alpha": self.reference != "none",
        }  # fmt: skip
        return conditions.get(field, True)

    @property
    def templates(self) -> list[str]:
        """Returns the templates under ``prompts.teacher`` that the method's hints need, beside that of the prepared
        prompts."""
        return [*({self.hint} - {"prompts"}), *filter(None, [CONTRAST_TEMPLATES.get(self.contrast_hint)])]

    @model_validator(mode="after")
    def _only_what_is_used(self) -> "MethodParams":
        unused = sorted(field for field in self.model_fields_set if not self.reads(field))
        if unused:
            raise ValueError(
                f"{', '.join(unused)} would have no effect with outcome={self.outcome}, "
                f"token_weighting={self.token_weighting}, distillation={self.distillation}, "
                f"reference={self.reference}, hint={self.hint}: remove, or switch on the term that reads it"
            )
        own = [name for name, term in self.terms.items() if term.reads_teacher]
        if own and self.hint != "prompts" and self.hint_missing == "skip":
            raise ValueError(
                f"hint_missing is skip, but terms.{own[0]} reads the teacher on every rollout, and hint {self.hint} "
                "does not exist for all: use hint_missing: fall_back"
            )
        if self.outcome == "none" and self.distillation == "none" and not self.terms:
            raise ValueError("outcome and distillation are both none: nothing would be learnt; switch one on")
        if self.token_weighting == "rlsd" and self.outcome == "none":
            raise ValueError("token_weighting is rlsd, which weights the outcome term, but outcome is none")
        if self.reference_in == "reward" and self.reference not in ("none", "k1", "k3"):
            raise ValueError(f"reference_in is reward, which takes the estimators k1 and k3, not {self.reference}")
        if self.reference_in == "loss" and self.reference == "k1":
            raise ValueError("reference k1 as a loss has zero expected gradient: use reference_in: reward, or k3")
        return self
