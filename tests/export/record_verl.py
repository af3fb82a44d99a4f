"""Ask verl, with the plugin in it, for SPPO's advantage and critic loss on random ragged batches; record its answers.

docs/export_verl.md says how to make the environment with verl.  The plugin is the lab's, but what stands around it is
verl's: the cut from the critic's output to the response tokens, the way of the values to the advantage, the padding.

    .venv-verl/bin/python tests/export/record_verl.py

It writes tests/export/expected.safetensors, with the versions and the date in its metadata; test_verl_recorded.py
compares the lab with it.
"""

import datetime
import importlib.metadata
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

BATCHES, ROWS, LONGEST = 4, 12, 9


def inputs(seed: int) -> dict[str, Tensor]:
    """Lengths of prompts and responses, rewards, and the critic's output for every token, the rows end to end."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, LONGEST, (ROWS,), generator=generator)
    responses = torch.randint(1, LONGEST, (ROWS,), generator=generator)
    return {
        "prompts": prompts,
        "responses": responses,
        "rewards": torch.randint(0, 2, (ROWS,), generator=generator).float(),
        "outputs": 2 * torch.randn(int((prompts + responses).sum()), generator=generator),
    }


def ask_verl(batch: dict[str, Tensor], micro_batches: int = 1) -> dict[str, Tensor]:
    """Advantage and returns (B, T), the critic's loss, and its gradient for every element of ``outputs``."""
    import numpy as np
    from tensordict import TensorDict
    from verl.protocol import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import response_from_nested, response_to_nested

    from sppo_lab.export.verl_plugin import prompt_critic_loss

    def nested(flat: Tensor, lengths: Tensor) -> Tensor:
        return torch.nested.as_nested_tensor(list(flat.split(lengths.tolist())), layout=torch.jagged)

    prompts, responses = batch["prompts"], batch["responses"]
    mask = nested(torch.ones(int(responses.sum())), responses)
    padded_mask = mask.to_padded_tensor(0.0)
    rewards = torch.zeros_like(padded_mask)
    rewards[torch.arange(ROWS), responses - 1] = batch["rewards"]
    values = response_from_nested(nested(batch["outputs"], prompts + responses), mask).to_padded_tensor(0.0)
    data = DataProto(
        batch=TensorDict(
            {"token_level_rewards": rewards, "response_mask": padded_mask, "values": values}, batch_size=ROWS
        ),
        non_tensor_batch={"uid": np.array([str(row) for row in range(ROWS)], dtype=object)},
    )
    keys = [f"{row}_0_0" for row in range(ROWS)]
    data = compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator="sppo", config={})
    returns = data.batch["returns"]

    outputs = batch["outputs"].clone().requires_grad_()
    flats, loss = outputs.split((prompts + responses).tolist()), torch.zeros(())
    for rows in torch.arange(ROWS).chunk(micro_batches):
        part = TensorDict(
            {
                "prompts": nested(torch.zeros(int(prompts[rows].sum())), prompts[rows]),
                "responses": nested(torch.zeros(int(responses[rows].sum())), responses[rows]),
                "returns": response_to_nested(
                    returns[rows], nested(torch.ones(int(responses[rows].sum())), responses[rows])
                ),
                "response_mask": nested(torch.ones(int(responses[rows].sum())), responses[rows]),
            },
            batch_size=len(rows),
        )
        tu.assign_non_tensor(part, global_batch_size=ROWS, dp_size=1)
        part_loss, _ = prompt_critic_loss({"values": torch.cat([flats[row] for row in rows.tolist()])}, part)
        loss = loss + part_loss
    loss.backward()
    return {
        "advantages": data.batch["advantages"],
        "returns": returns,
        "loss": loss.detach(),
        "gradient": outputs.grad,
    }


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))  # the lab of this checkout
    recorded = {}
    for seed in range(BATCHES):
        batch = inputs(seed)
        recorded |= {f"{seed}/{name}": tensor.contiguous() for name, tensor in (batch | ask_verl(batch)).items()}
    versions = {name: importlib.metadata.version(name) for name in ("verl", "torch", "transformers")}
    path = Path(__file__).with_name("expected.safetensors")
    save_file(recorded, path, metadata=versions | {"date": datetime.date.today().isoformat()})
    print(f"{len(recorded)} tensors, {path.stat().st_size / 1024:.0f} KB in {path}")


if __name__ == "__main__":
    main()
