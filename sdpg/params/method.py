"""A method's values, ``methods.<name>.*`` in params.yaml: its terms, its teacher, its schedules."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdpg.params.reward import LengthReward
from sdpg.params.section import Fraction, Imported, Name, Positive, Section
from sdpg.params.train import TrainOverrides, TrainParams

GateName = Literal["positive", "all", "negative", "correct", "wrong", "difficulty"]
TokenGateName = Literal["sigmoid", "certainty", "divergence_quantile", "teacher_entropy_quantile"]
SAMPLED = ("sampled_k2", "sampled_k3", "sampled_gain")
"""The values of ``distillation`` that read the log-prob of the sampled token alone."""

CONTRASTED = ("cepo", "rlcsd", "sipo")
"""The values of ``token_weighting`` that read the log-probs under a wrong hint."""
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


class EntropySwitchParams(Section):
    """AntiSD's gate: the evidence is switched off while the teacher's entropy, its median over a batch, is low."""

    warmup: Annotated[float, Field(gt=0, le=1)] = 0.025
    """The steps, as a fraction of all, in which the evidence is off and the entropy's start is measured."""
    off: Annotated[float, Field(gt=0, le=1)] = 0.93
    """The fraction of its start below which the entropy switches the evidence off, until it has reached its start."""


class MethodParams(Section):
    """A method as data: its terms, its teacher, its schedules. A key that the method does not use is an error."""

    title: str
    outcome: Literal["none", "reinforce", "ppo_clip", "clipped_weight", "gspo", "cispo"]
    """L_out: section 3.2; PPO's clipped surrogate; sg[ℓ_clip]·log π, the paper's A.3; GSPO; or CISPO."""
    outcome_rows: Literal["all", "undistilled"] = "all"
    """The rollouts that the outcome term counts: all, or those with a closed gate alone (SRPO's routing)."""
    clip_low: Annotated[float, Field(ge=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(ge=0)] = 0.2
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """The bound c of A.3 for negative advantages; None is no bound."""
    token_weighting: Literal["none", "rlsd", "cepo", "rlcsd", "sipo", "antisd", "sampled_opsd"] = "none"
    """How the teacher's evidence changes the advantage of each token; see :mod:`sdpg.objective.token_credit`."""
    rlsd_lambda: Fraction = 0.5
    """λ, the strength of the evidence."""
    rlsd_decay: Fraction = 0.125
    """T of λ(k) = λ·max(0, 1 - k/T), as a fraction of the steps; 0 keeps λ constant."""
    rlsd_warmup: Fraction = 0.0
    """The window in which λ rises, as a fraction of the steps; 0 turns it off. RLSD has no such window."""
    rlsd_shape: Literal["linear", "cosine"] = "linear"
    """The shape of λ in both windows."""
    rlsd_clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """ε_w, the bound of the evidence: on the factor's distance from 1, or for sipo on the evidence itself."""
    switch: EntropySwitchParams | None = None
    """Switches the evidence off while the teacher's entropy is low, which costs a teacher pass on all rollouts."""
    evidence_tau: Annotated[float, Field(gt=0)] = 0.02
    """RLCSD's τ: the evidence, in nats, at which tanh(e/τ) has nearly reached its bound."""
    evidence_threshold: Annotated[float, Field(ge=0)] = 0.02
    """RLCSD's δ: tokens with less evidence keep their advantage."""
    evidence_share: Annotated[float, Field(gt=0)] = 1.0
    """RLCSD's η: the weight of the mean over the tokens with evidence."""
    distillation: Literal[
        "none", "kl_student_teacher", "kl_teacher_student", "jsd", "skewed_kl",
        "sampled_k2", "sampled_k3", "sampled_gain",
    ] = "none"  # fmt: skip
    """The divergence. The first four are exact over the vocabulary; the paper's D_KL(p‖sg q) is kl_student_teacher (D7:
    the code calls it forward). The others read the sampled token alone, with Δ = log q - log p: k2 ½Δ², which has the
    gradient of D_KL(p‖q) in expectation, k3 e^Δ - 1 - Δ, and gain Δ, which raises every sampled token and so needs a
    gate of tokens."""
    jsd_beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    skew: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """The teacher's share of the mixture in skewed_kl."""
    top_k: Positive | None = None
    """The number of words over which the divergence is taken, all others being one bucket; None takes all words."""
    top_k_of: Literal["student", "teacher"] = "student"
    """Whose most probable words those are."""
    entry_clip: Annotated[float, Field(gt=0)] | None = None
    """The bound on what one word may add to a token's divergence; OPSD has 0.05."""
    teacher: Literal["current", "reference", "ema", "snapshot", "gated"] = "current"
    """The policy whose weights play the teacher; :mod:`sdpg.models.teachers` defines each at every step."""
    teacher_rate: Fraction = 0.05
    """ema: the share of the student's weights that the teacher takes in after each step; the default is SDPO's."""
    teacher_every: Positive = 20
    """snapshot: the steps after which the student becomes the teacher; the default is that of RLSD's authors."""
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
    contrast_count: Positive = 1
    """The most wrong siblings of a rollout, each of them a pass; q⁻ is the mean of the probabilities under them."""
    gate: GateName | Annotated[list[GateName], Field(min_length=2)] | Imported = "positive"
    """D1: positive distils rollouts with positive advantage only, all distils every rollout; names in a list are
    multiplied. See :data:`sdpg.objective.gates.GATES`; an own rule is a :class:`sdpg.objective.gates.Gate`."""
    token_gate: list[TokenGateName] = Field(default_factory=list)
    """Factors for each token, which are multiplied; see :data:`sdpg.objective.gates.TOKEN_GATES`."""
    gate_kappa: Annotated[float, Field(ge=0)] = 5.0
    """κ of the gates σ(κΔ) and exp(−κ·H(q)), per nat."""
    gate_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The quantile of a response's own tokens, from which a gate by quantiles opens, or up to which it does."""
    exclude_eos: bool = False
    """D21: whether the token that ends a response is left out of the distillation term."""
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
    length: LengthReward | None = None
    """A penalty for long responses in this method's training alone, in place of ``reward.length``: DAPO's."""
    train: TrainOverrides = Field(default_factory=TrainOverrides)
    """Values of the section ``train`` that hold for this method alone, such as its normaliser."""
    terms: dict[Name, OwnTerm] = Field(default_factory=dict)
    """A user's own further terms, by name; see docs/own_parts.md."""

    def reads(self, field: str) -> bool:
        """Says whether the method's terms read a field at all."""
        clipped = self.outcome not in ("none", "reinforce")
        distils = self.distillation != "none"
        weighting = self.token_weighting
        exact, product = distils and self.distillation not in SAMPLED, weighting in ("rlsd", "cepo")
        taught = distils or weighting != "none" or any(term.reads_teacher for term in self.terms.values())
        own_teacher = any(term.reads_teacher for term in self.terms.values())
        contrasted = weighting in CONTRASTED or own_teacher or (distils and isinstance(self.gate, Imported))
        gates = {self.gate} if isinstance(self.gate, str) else self.gate
        by_advantage = isinstance(gates, Imported) or bool({"positive", "negative"} & set(gates))
        from_group = self.hint in ("sibling", "wrong_sibling") or (contrasted and self.contrast_hint != "none")
        conditions = {
            "clip_low": clipped, "clip_high": clipped, "dual_clip": clipped,
            "outcome_rows": self.outcome != "none" and distils,
            **dict.fromkeys(("rlsd_lambda", "rlsd_decay", "rlsd_warmup", "rlsd_shape"), weighting != "none"),
            "switch": weighting != "none",
            # Other gates look at whether the answer is right, and not at its reward.
            "length": self.outcome != "none" or bool(self.terms) or (distils and by_advantage),
            "rlsd_clip": product or weighting == "sipo",
            **dict.fromkeys(("evidence_tau", "evidence_threshold", "evidence_share"), weighting == "rlcsd"),
            "jsd_beta": self.distillation == "jsd", "skew": self.distillation == "skewed_kl",
            "top_k": exact, "top_k_of": exact and self.top_k is not None, "entry_clip": exact,
            "teacher": taught, "teacher_rate": taught and self.teacher == "ema",
            "teacher_every": taught and self.teacher == "snapshot",
            "hint": taught, "hint_choice": taught and from_group, "hint_missing": taught and self.hint != "prompts",
            "contrast_hint": contrasted, "contrast_count": contrasted and self.contrast_hint != "none",
            "gate": distils, "token_gate": distils, "exclude_eos": distils,
            "gate_kappa": distils and bool({"sigmoid", "certainty"} & set(self.token_gate)),
            "gate_quantile": distils and any(name.endswith("quantile") for name in self.token_gate),
            "beta": distils, "beta_warmup": distils, "beta_decay": distils, "beta_shape": distils,
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
                f"teacher={self.teacher}, reference={self.reference}, hint={self.hint}: remove, or switch on the term "
                "that reads it"
            )
        if self.token_weighting in CONTRASTED and self.contrast_hint == "none":
            raise ValueError(
                f"token_weighting is {self.token_weighting}, which compares a right hint with a wrong one, but "
                "contrast_hint is none: use wrong_answer or wrong_sibling"
            )
        own = [name for name, term in self.terms.items() if term.reads_teacher]
        if own and self.hint != "prompts" and self.hint_missing == "skip":
            raise ValueError(
                f"hint_missing is skip, but terms.{own[0]} reads the teacher on every rollout, and hint {self.hint} "
                "does not exist for all: use hint_missing: fall_back"
            )
        if self.outcome == "none" and self.distillation == "none" and not self.terms:
            raise ValueError("outcome and distillation are both none: nothing would be learnt; switch one on")
        if self.token_weighting != "none" and self.outcome == "none":
            raise ValueError(
                f"token_weighting is {self.token_weighting}, which weights the outcome term, but outcome is none"
            )
        if self.distillation == "sampled_gain" and not self.token_gate:
            raise ValueError(
                "distillation is sampled_gain, which raises every sampled token alike: name a token_gate that tells "
                "them apart, such as [sigmoid]"
            )
        for field in ("gate", "token_gate"):
            value = getattr(self, field)
            if isinstance(value, list) and len(set(value)) < len(value):
                raise ValueError(f"{field} holds a value twice: {value}; name each once")
        if self.reference_in == "reward" and self.reference not in ("none", "k1", "k3"):
            raise ValueError(f"reference_in is reward, which takes the estimators k1 and k3, not {self.reference}")
        if self.reference_in == "loss" and self.reference == "k1":
            raise ValueError("reference k1 as a loss has zero expected gradient: use reference_in: reward, or k3")
        return self


def check_training(name: str, method: MethodParams, train: TrainParams, lag: int = 0) -> None:
    """Refuses what a method cannot be trained with; ``train`` holds its own values already, ``lag`` is the rollouts'.

    Raises:
        ValueError: with the field, its value and what to set.
    """
    if train.prompts_per_step % train.updates_per_batch:
        raise ValueError(
            f"updates_per_batch of methods.{name} is {train.updates_per_batch}, which does not divide "
            f"train.prompts_per_step ({train.prompts_per_step}): use a divisor"
        )
    if train.sampler_correction is not None and train.old_logprobs == "rollout":
        raise ValueError(
            f"sampler_correction of methods.{name} is {train.sampler_correction:g}, but with old_logprobs: rollout the "
            "ratio is the sampler's already: set sampler_correction to null, or old_logprobs to trainer"
        )
    if train.advantage_baseline == "batch" and train.advantage_std not in ("batch", "none"):
        raise ValueError(
            f"advantage_baseline of methods.{name} is batch, which has no group's deviation to divide by: set "
            f"advantage_std to batch or none, not to {train.advantage_std}"
        )
    if train.updates_per_batch > 1 and method.outcome == "reinforce":
        raise ValueError(
            f"updates_per_batch of methods.{name} is {train.updates_per_batch} and its outcome is reinforce, whose "
            "gradient is right for the policy that sampled alone: set outcome to clipped_weight (the paper's A.3) or "
            "ppo_clip (the public code's), or updates_per_batch to 1"
        )
    corrected = train.sampler_correction is not None or (
        train.old_logprobs == "rollout" and method.outcome != "reinforce"
    )
    if lag and method.outcome != "none" and not corrected:
        raise ValueError(
            f"rollout.lag is {lag}: methods.{name} learns from what an earlier policy sampled, and its outcome "
            f"{method.outcome} is right for the present one alone: set train.sampler_correction (such as 2.0)"
            + ("" if method.outcome == "reinforce" else ", or train.old_logprobs to rollout")
        )
