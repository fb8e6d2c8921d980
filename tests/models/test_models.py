"""Tests how a model's head is replaced and restored, and which models may share lines."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, Qwen3Config

from sdpg.errors import UserError
from sdpg.models.batches import token_batch
from sdpg.models.loading import can_share_lines, load_model, response_hidden, response_logits, with_head
from tests.helpers.tiny import tiny_model


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_a_model_that_changes_its_logits_after_the_head_is_refused(name: str, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    load_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: 1.0}))
    load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {name: 30.0}))
    with pytest.raises(UserError, match=rf"{name}.*30.0.*use a model without"):
        load_model(tmp_path)


def test_the_head_is_given_response_positions_only_and_is_itself_again_afterwards() -> None:
    model, batch = tiny_model(5), token_batch([[5, 6, 7], [8]], [[9, 1], [2, 3, 1]], 0)
    seen: list[torch.Size] = []

    def sums(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(hidden.shape)
        assert bias is None
        assert weight is model.get_output_embeddings().weight
        return hidden.sum()

    total = with_head(model, batch, sums)
    assert seen == [(5, 32)]
    assert total == response_hidden(model, batch).sum()
    whole = model(input_ids=batch.input_ids).logits
    torch.testing.assert_close(response_logits(model, batch), whole[batch.rows, batch.positions])


def test_a_forward_of_the_heads_own_is_put_back() -> None:
    model, batch = tiny_model(5), token_batch([[5, 6]], [[7, 1]], 0)
    head = model.get_output_embeddings()
    own = head.forward
    head.forward = own
    response_hidden(model, batch)
    assert vars(head)["forward"] is own


def test_siblings_share_lines_only_under_full_attention_by_sdpa() -> None:
    model = tiny_model(0)
    assert model.config._attn_implementation == "sdpa"
    assert can_share_lines(model)
    model.config._attn_implementation = "eager"
    assert not can_share_lines(model)
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    for config, shared in (
        (Qwen3Config(**sizes, use_sliding_window=True, sliding_window=4, max_window_layers=1), False),
        (MistralConfig(**sizes, sliding_window=4), False),
        (MistralConfig(**sizes, sliding_window=None), True),
    ):
        assert can_share_lines(AutoModelForCausalLM.from_config(config)) == shared
