"""One of several processes with shards of one model and a vLLM each; `tests/rollouts/test_vllm_ranks.py` launches
them."""

import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sdpg.errors import UserError
from sdpg.rollouts import vllm_in_process
from sdpg.rollouts.model_weights import named_weights
from sdpg.rollouts.vllm_in_process import InProcessVllm
from tests.helpers.vllm_tiny import PROMPTS, Tokenizer, assert_same_greedy, embedded, moved, qwen3, sampling, settings


def main(tied: bool) -> None:
    """Syncs sharded weights twice, generates different numbers of responses, and loses a weight once."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    # Both ranks make the same models; the whole one says what is right.
    whole, model = qwen3(seed=1, tied=tied), qwen3(seed=1, tied=tied)
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    if not tied:
        fully_shard(model.lm_head, mesh=mesh)
    fully_shard(model, mesh=mesh)
    engine = InProcessVllm(model, Tokenizer(), settings(), torch.float32, 120, 16)
    for seed in (0, 1):
        moved(whole, seed)
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), whole.parameters(), strict=True):
                parameter.copy_(torch.distributed.tensor.distribute_tensor(value.detach(), mesh, parameter.placements))
        engine.sync_weights()
        assert engine.difference < 1e-4, engine.difference
        if rank == 0:
            assert_same_greedy(whole, engine)
        else:
            prompts = PROMPTS[:2]
            found = engine.generate(prompts, sampling(temperature=0.0))
            assert [one.ids for one in found] == [
                one.ids for one in embedded(whole).generate(prompts, sampling(temperature=0.0))
            ]
            assert engine.generate([], sampling()) == []
        distributed.barrier()
    moved(whole, 2)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), whole.parameters(), strict=True):
            parameter.copy_(torch.distributed.tensor.distribute_tensor(value.detach(), mesh, parameter.placements))
    vllm_in_process.named_weights = lambda model: (pair for pair in named_weights(model) if pair[0] != "lm_head.weight")
    try:
        engine.sync_weights()
    except UserError as error:
        assert "does not sample from the policy that is trained" in str(error)
        print(f"rank {rank} of {distributed.get_world_size()} is right", flush=True)
    # The ranks still reach each other, and end together.
    total = torch.ones(1)
    distributed.all_reduce(total)
    assert total.item() == distributed.get_world_size()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(tied=sys.argv[1] == "tied")
