"""SPPO's advantage and critic loss in the lab against what verl says with the plugin, on record_verl.py's batches."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sppo_lab.advantage import broadcast_to_tokens, sequence_advantage
from sppo_lab.loss import bce_value_loss

same = {"atol": 1e-6, "rtol": 0}


@pytest.fixture(params=range(4))
def recorded(request):
    """Name to tensor, of one batch."""
    with safe_open(Path(__file__).with_name("expected.safetensors"), "pt") as file:
        assert file.metadata()["verl"] == "0.9.1"
        names = [name for name in file.keys() if name.startswith(f"{request.param}/")]  # noqa: SIM118
        yield {name.partition("/")[2]: file.get_tensor(name) for name in names}


def at_last_prompt_token(recorded, outputs):
    """The critic's output where the lab reads it: at the last prompt token of each row, (B,)."""
    ends = (recorded["prompts"] + recorded["responses"]).cumsum(0) - recorded["responses"] - 1
    return outputs[ends]


def test_the_advantage(recorded):
    rewards = recorded["rewards"]
    values = torch.sigmoid(at_last_prompt_token(recorded, recorded["outputs"]))
    mask = torch.arange(int(recorded["responses"].max())) < recorded["responses"][:, None]
    expected = broadcast_to_tokens(sequence_advantage(rewards, values), mask)
    torch.testing.assert_close(expected, recorded["advantages"], **same)
    torch.testing.assert_close(broadcast_to_tokens(rewards, mask), recorded["returns"], **same)


def test_the_critics_loss_and_its_gradient(recorded):
    """The gradient is 0 at every token but the last of each prompt."""
    outputs = recorded["outputs"].requires_grad_()
    loss = bce_value_loss(at_last_prompt_token(recorded, outputs), recorded["rewards"]).mean()
    loss.backward()
    torch.testing.assert_close(loss.detach(), recorded["loss"], **same)
    torch.testing.assert_close(outputs.grad, recorded["gradient"], **same)
    assert int((recorded["gradient"] != 0).sum()) == len(recorded["rewards"])
