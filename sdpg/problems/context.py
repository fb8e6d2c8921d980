"""Checks whether prompts and responses fit the model."""

import json
from pathlib import Path
from typing import Any

from sdpg.errors import UserError
from sdpg.params import BaseParams, HubModel, Params, ScratchModel


def model_context(base: BaseParams) -> int | None:
    """Returns the tokens of the longest sequence of the initial policy; ``None`` if its configuration does not say.

    Raises:
        UserError: if a model's configuration cannot be read.
    """
    if isinstance(base.model, ScratchModel):
        return base.model.context
    if (folder := base.local_folder) is not None:
        # Transformers, which takes seconds to import, is needed only where the file leaves the length to its defaults.
        try:
            stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            stated = None
        if type(stated) is int:
            return stated
    return getattr(model_config(base).get_text_config(), "max_position_embeddings", None)


def model_config(base: BaseParams) -> Any:
    """Returns transformers' configuration of a model that is not made from scratch.

    Raises:
        UserError: if it cannot be read.
    """
    if (folder := base.local_folder) is not None:
        place, revision = str(folder), None
        if not (folder / "config.json").is_file():
            raise UserError(f"{place} has no config.json: put the model folder there, or correct base.model.path")
    else:
        assert isinstance(base.model, HubModel), "a local model has a folder"
        place, revision = base.model.id, base.model.revision
    # Importing transformers takes seconds, which a model from scratch does not need.
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            place, trust_remote_code=False, **({} if revision is None else {"revision": revision})
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"the configuration of {place} does not load: check base.model in params.yaml and the network, or put the "
            f"model's files into {Path(base.folder) / place}. {error}"
        ) from None


def check_context(params: Params) -> None:
    """Refuses limits under which a prompt and its response could outgrow the model.

    Raises:
        UserError: if they could; the message names the parameters and their values.
    """
    context = model_context(params.base)
    if context is None:
        return
    prompts = params.prompts
    for prompt, tokens, response, more in (
        ("max_student_tokens", prompts.max_student_tokens, "rollout.max_tokens", params.rollout.max_tokens),
        ("max_student_tokens", prompts.max_student_tokens, "evaluation.max_tokens", params.evaluation.max_tokens),
        ("max_teacher_tokens", prompts.max_teacher_tokens, "rollout.max_tokens", params.rollout.max_tokens),
        ("max_teacher_tokens", prompts.max_teacher_tokens, "evaluation.max_tokens", params.evaluation.max_tokens),
    ):
        if tokens + more > context:
            raise UserError(
                f"prompts.{prompt} ({tokens}) + {response} ({more}) = {tokens + more} tokens, but the model's context "
                f"is {context}: lower one of the two, or use a model with a longer context"
            )
