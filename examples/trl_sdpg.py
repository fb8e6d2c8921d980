"""SDPG in TRL's GRPOTrainer. Rows hold `prompt` and `hinted`, the same prompt with the answer and a worked solution.

`GRPOConfig.beta` is α of the reference term, `distillation_beta` is β_base. Each process takes whole groups.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOTrainer

from sdpg import objective
from sdpg.models.fused_head import Teacher, fused_head


class SDPGTrainer(GRPOTrainer):
    """TRL's rollouts and advantages with the loss of Eq. 3.1, arXiv 2606.04036; off-policy as in A.3. Text alone."""

    distillation_beta = 1.0

    def _generate_and_score_completions(self, inputs):
        out = super()._generate_and_score_completions(inputs)
        ids = [torch.tensor(ids) for ids in self._tokenize_prompts([row["hinted"] for row in inputs])[0]]
        out["hinted_ids"] = pad_sequence(ids, True, self._tokenizer.pad_token_id, "left").to(out["prompt_ids"])
        out["hinted_mask"] = pad_sequence([torch.ones_like(x) for x in ids], True, 0, "left").to(out["prompt_ids"])
        # Rollouts are shuffled and dealt to micro-batches after this, so their weights are fixed here.
        group = self.num_generations if self.model.training else self.num_generations_eval
        out["weights"] = objective.normaliser_weights(out["completion_mask"].sum(1), "group", group, 0)
        return out

    def _states(self, model, inputs, prompt):
        ids, mask = (torch.cat([inputs[f"{prompt}_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        out = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, output_hidden_states=True).hidden_states[-1]
        return out[:, -inputs["completion_ids"].shape[1] - 1 : -1][inputs["completion_mask"].bool()]  # (N, D)

    def _compute_loss(self, model, inputs):
        mask, metrics = inputs["completion_mask"].bool(), self._metrics["train" if self.model.training else "eval"]
        advantages, weights = (inputs[x][mask.nonzero()[:, 0]] for x in ("advantages", "weights"))  # (N,) of tokens
        scored = {x.split("_")[0]: inputs[x][mask] for x in inputs if x.endswith("per_token_logps")}  # by old and ref
        step, total = self.state.global_step + 1, self.state.max_steps
        warmup, decay = (objective.window(fraction, total) for fraction in (0.125, 0.875))
        beta = objective.beta(step, total, self.distillation_beta, warmup, decay)

        def token_loss(tokens, values):
            logprobs, of_row = values.logprobs, advantages[tokens].to(values.logprobs)
            old = scored["old"][tokens] if "old" in scored else logprobs.detach()
            ratio = objective.importance_ratio(logprobs, old)
            surrogate = objective.clipped_surrogate(ratio, of_row, self.epsilon_low, self.epsilon_high)
            ref = scored["ref"][tokens] if "ref" in scored else logprobs  # without it, self.beta is 0
            others = beta * values.divergence + self.beta * objective.reference_term(logprobs, ref, "ufkl")
            loss = objective.clipped_weight(logprobs, surrogate) + ratio.detach() * others
            return loss * weights[tokens].to(loss)

        states, distilled = self._states(model, inputs, "prompt"), (advantages > 0).nonzero().squeeze(1)
        with torch.no_grad():
            teacher = Teacher(distilled, self._states(model, inputs, "hinted")[distilled], temperature=self.temperature)
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        given = states, head.weight, head.bias, inputs["completion_ids"][mask], token_loss
        loss, values = fused_head(*given, memory_bytes=2**28, temperature=self.temperature, teacher=teacher)
        metrics["kl_to_teacher"].append(values.divergence[distilled].mean().item())
        steps = self.args.steps_per_generation / self.current_gradient_accumulation_steps
        return loss * steps if self.model.training else loss
