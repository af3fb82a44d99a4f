import numpy as np
import pytest
import torch

from sppo_lab.rollout import Rollouts
from sppo_lab.rollout_figures import END, PADDING, PROMPT, RESPONSE, cell_kinds, logprob_figure, mask_figure


@pytest.fixture
def tokenizer(policy):
    return policy.tokenizer


@pytest.fixture
def rollouts(tokenizer):
    """Two responses by hand: ``#2`` and its end token, with an end token's id as padding; and one that was cut."""
    one, chain = tokenizer.encode("1="), tokenizer.encode("7+5=")
    end = tokenizer.eos_token_id
    return Rollouts(
        prompt_ids=torch.tensor([[end, end, *one], chain]),
        prompt_mask=torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        response_ids=torch.tensor([[*tokenizer.encode("#2"), end, end, end], tokenizer.encode("7+5=1")]),
        response_mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        old_logprobs=torch.tensor([[-0.5, -1.0, -4.0, 0.0, 0.0], [-0.1, -0.2, -0.3, -0.4, -0.5]]),
        truncated=torch.tensor([False, True]),
        group=torch.tensor([0, 1]),
        prompts=["1=", "7+5="],
        texts=["#2", "7+5=1"],
    )


def test_a_cell_is_what_the_masks_say_whatever_token_stands_in_it(rollouts):
    wanted = [
        [PADDING, PADDING, PROMPT, PROMPT, RESPONSE, RESPONSE, END, PADDING, PADDING],
        [PROMPT, PROMPT, PROMPT, PROMPT, RESPONSE, RESPONSE, RESPONSE, RESPONSE, RESPONSE],
    ]
    assert cell_kinds(rollouts).tolist() == wanted


def test_the_grid_shows_kinds_tokens_and_what_was_cut(rollouts, tokenizer):
    figure = mask_figure(rollouts, tokenizer)
    ax = figure.axes[0]
    assert np.array_equal(ax.images[0].get_array(), cell_kinds(rollouts).numpy())
    *tokens, cut = [text.get_text() for text in ax.texts]
    assert tokens == [*"1=", *"#2", "end", *"7+5=", *"7+5=1"]
    assert cut == "cut" and ax.texts[-1].xy == (8.5, 1)
    assert ax.lines[0].get_xdata() == [3.5, 3.5]  # between prompt and response
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["padding", "prompt", "response", "end token"]


def test_the_strip_shows_the_numbers_it_was_given_and_nothing_where_masked(rollouts, tokenizer):
    figure = logprob_figure(rollouts, rollouts.old_logprobs, tokenizer)
    ax, bar = figure.axes
    drawn = ax.images[0].get_array()
    assert drawn.mask.tolist() == (rollouts.response_mask == 0).tolist()
    assert np.allclose(drawn.compressed(), rollouts.old_logprobs[rollouts.response_mask.bool()].numpy())
    assert [text.get_text() for text in ax.texts] == [*"#2", "end", *"7+5=1"]
    assert bar.get_ylabel() == "log-probability"
