"""Tests the profiles of Qwen3: the paper's settings, equal but for the model, and gone with another profile."""

from pathlib import Path

import pytest

from sdpg.params import FileSource, HubModel, HubSource, Params, load_params, read_yaml
from sdpg.params.configure import CATALOGUE, configure, read_overlay
from tests.params.test_overlays import leaves, project

__all__ = ["project"]
ROOT = Path(__file__).parents[2]
QWEN = ("qwen3-1.7b", "qwen3-4b")
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


def written(project: Path, *profiles: str) -> Params:
    for profile in profiles:
        configure(project, profile=profile, preset="paper")
    return load_params(project / "params.yaml")


def test_profiles_differ_in_the_model_and_what_follows_from_its_size() -> None:
    small, large = (leaves(read_overlay("profile", name, ROOT)) for name in QWEN)
    assert small.keys() == large.keys()
    assert {key for key in small if small[key] != large[key]} == {
        "/base/model/id", "/base/model/revision", "/rollout/max_tokens", "/rollout/batch", "/evaluation/max_tokens",
        "/evaluation/batch", "/rollout/vllm/kv_cache_megabytes", "/train/distributed/processes",
        "/train/distributed/strategy", "/train/activation_checkpointing", "/reward/workers",
    }  # fmt: skip


def test_all_profiles_set_the_same_keys() -> None:
    # Otherwise what one leaves alone would be what the last one wrote.
    whole = ("/data/train", "/data/benchmarks", "/base/model", "/prompts/chat_template_kwargs", "/rollout/vllm")
    keys = [
        {key for key in leaves(read_overlay("profile", name, ROOT)) if not key.startswith(whole)} for name in PROFILES
    ]
    assert all(one == keys[0] for one in keys)


@pytest.mark.parametrize("order", [("qwen3-4b", "qwen3-1.7b"), ("micro", "qwen3-4b"), ("qwen3-1.7b", "qwen3-4b")])
def test_the_order_in_which_profiles_were_written_leaves_no_trace(project: Path, order: tuple[str, ...]) -> None:
    before = read_yaml(project / "params.yaml")
    after = written(project, *order)
    configure(project, profile="tiny")
    assert read_yaml(project / "params.yaml") == before
    assert written(project, order[-1]) == after


@pytest.mark.parametrize("profile", QWEN)
def test_the_papers_settings(project: Path, profile: str) -> None:
    # Section 4.1, by hand.
    params = written(project, profile)
    train, evaluation = params.train, params.evaluation
    assert (train.steps, train.prompts_per_step, train.responses_per_prompt, train.updates_per_batch) == (
        400,
        128,
        8,
        1,
    )
    assert (train.lr, train.lr_warmup * train.steps, train.weight_decay, train.betas) == (1e-6, 10, 0.1, (0.9, 0.999))
    assert (train.max_grad_norm, train.dtype, train.advantage_eps, train.normaliser) == (1.0, "bfloat16", 1e-6, "group")
    assert (evaluation.samples, evaluation.temperature, train.eval_every) == (32, 1.0, 10)
    assert (params.rollout.temperature, params.prompts.max_student_tokens) == (1.0, 2048)
    assert params.prompts.chat_template_kwargs == {"enable_thinking": True}
    assert params.rollout.max_tokens == evaluation.max_tokens == (4096 if profile == "qwen3-4b" else 2048)
    assert (params.reward.correct, params.reward.wrong) == (1.0, -1.0)
    for name in ("sdpg-ufkl", "sdpg-urkl"):
        method = params.methods[name]
        assert (method.alpha, method.beta, method.gate, method.outcome) == (1e-3, 1e-3, "positive", "reinforce")
        assert (method.beta_warmup * train.steps, method.beta_decay * train.steps) == (50, 350)
    grpo, rlsd = params.methods["grpo"], params.methods["rlsd"]
    assert (grpo.alpha, grpo.clip_low, grpo.clip_high, rlsd.alpha) == (1e-3, 0.2, 0.2, 1e-3)
    assert (rlsd.rlsd_lambda, rlsd.rlsd_decay * train.steps, rlsd.rlsd_clip) == (0.5, 50, 0.2)


@pytest.mark.parametrize("profile", QWEN)
def test_ids_and_revisions(project: Path, profile: str) -> None:
    params = written(project, profile)
    model, train = params.base.model, params.data.train
    assert isinstance(model, HubModel) and isinstance(train, FileSource) and train.made_from is not None
    assert model.id == {"qwen3-1.7b": "Qwen/Qwen3-1.7B", "qwen3-4b": "Qwen/Qwen3-4B"}[profile]
    assert (train.made_from.id, train.made_from.config) == ("open-r1/DAPO-Math-17k-Processed", "en")
    sources = [row.source for row in params.data.benchmarks.values()]
    revisions = [model.revision, train.made_from.revision, *(s.revision for s in sources if isinstance(s, HubSource))]
    assert len(revisions) == 5
    assert all(len(revision) == 40 and set(revision) <= set("0123456789abcdef") for revision in revisions)


def test_benchmarks_are_the_catalogues_at_a_fixed_revision() -> None:
    catalogue = read_yaml(ROOT / CATALOGUE)
    hard = ["aime24", "aime25", "amc23"]
    for profile, names in ((QWEN[0], hard), (QWEN[1], hard), ("qwen3-0.6b", ["gsm8k"])):
        rows = read_overlay("profile", profile, ROOT)["data"]["benchmarks"]
        assert list(rows) == names
        for name, row in rows.items():
            row["source"]["revision"] = "main"
            assert row | {"licence": catalogue[name]["licence"]} == catalogue[name]
