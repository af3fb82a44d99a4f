import copy
from dataclasses import replace

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.lora import SlimLora, folded_adapter
from sppo_lab.models import load_policy, trainable_parameters
from sppo_lab.rollout import encode_prompts, response_logprobs, sample, token_scores
from sppo_lab.samplers.lab import draw

PROMPTS = ["7+5-3=", "1+1=", "9-4+2-1+8-3-3+5=", "3-8="]


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture(scope="module")
def rollouts(policy):
    return sample(policy, PROMPTS, max_new_tokens=30, group_size=8, generator=seeded())


def test_masks_come_from_lengths_and_hold_the_end_token(policy, rollouts):
    for ids, mask, truncated in zip(
        rollouts.response_ids, rollouts.response_mask, rollouts.truncated.tolist(), strict=True
    ):
        length = int(mask.sum())
        assert mask[:length].all() and not mask[length:].any()
        ends = [i for i in range(len(ids)) if ids[i].item() in policy.stop_ids and mask[i]]
        assert ends == ([] if truncated else [length - 1])


def test_a_pad_token_in_the_response_stays_in_the_mask(policy):
    """A mask made from token values would drop it."""
    certain = [policy.pad_id, policy.pad_id, policy.stop_ids[0]]
    with scripted(policy, certain):
        got = sample(policy, ["1+1="], max_new_tokens=10, greedy=True)
    assert got.response_ids.tolist() == [certain]
    assert got.response_mask.tolist() == [[1, 1, 1]]


def test_a_response_cut_at_the_limit_is_marked_truncated(policy):
    with scripted(policy, [policy.tokenizer.encode("7")[0]] * 5):
        got = sample(policy, ["1+1="], max_new_tokens=5, greedy=True)
    assert got.truncated.tolist() == [True] and got.lengths.tolist() == [5] and got.texts == ["77777"]


def test_every_stop_id_ends_a_response(policy):
    other = policy.tokenizer.encode("!")[0]
    two_ends = type(policy)(policy.model, policy.tokenizer, (*policy.stop_ids, other), policy.context, policy.pad_id)
    with scripted(policy, [policy.tokenizer.encode("4")[0], other]):
        got = sample(two_ends, ["1+1="], max_new_tokens=9, greedy=True)
    assert got.lengths.tolist() == [2] and not got.truncated.any()


def test_sampling_and_scoring_give_the_same_logprobs(policy, rollouts):
    """The old log-probabilities may come from the sampling pass: the ratio starts at 1 (trap 1)."""
    scored, _ = response_logprobs(policy.model, rollouts, temperature=1.0)
    assert rollouts.old_logprobs.min() < -0.5  # there is something to compare
    torch.testing.assert_close(scored, rollouts.old_logprobs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_logits_normalised_part_by_part_give_the_same_numbers_and_gradient(
    policy, rollouts, monkeypatch, entropy_gradient
):
    def scores_and_gradient() -> tuple[torch.Tensor, ...]:
        logprobs, entropy = response_logprobs(policy.model, rollouts, 0.7, entropy_gradient=entropy_gradient)
        loss = (logprobs * rollouts.response_mask).sum() + (entropy.sum() if entropy_gradient else 0)
        return logprobs, entropy, *torch.autograd.grad(loss, list(policy.weights.values()))

    whole, kept = scores_and_gradient(), []
    monkeypatch.setattr("sppo_lab.rollout.LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(
        "sppo_lab.rollout.token_scores", lambda logits, *rest: kept.append(len(logits)) or token_scores(logits, *rest)
    )
    for got, expected in zip(scores_and_gradient(), whole, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert len(rollouts) > 1 and set(kept) == {1} and len(kept) == 2 * len(rollouts)  # forward, and again backward


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gemma", "gemma3"])
def test_sampling_and_scoring_agree_on_other_architectures_and_temperatures(random_models, architecture):
    other = load_policy(Config(model=random_models[architecture]))
    got = sample(other, PROMPTS, max_new_tokens=12, temperature=0.6, group_size=3, generator=seeded())
    scored, _ = response_logprobs(other.model, got, temperature=0.6)
    torch.testing.assert_close(scored, got.old_logprobs, atol=2e-5, rtol=0)
    unscaled, _ = response_logprobs(other.model, got, temperature=1.0)
    assert (unscaled - got.old_logprobs).abs().max() > 1e-2  # temperature belongs on both sides (trap 4)


@pytest.mark.parametrize("name", ["tiny", "llama", "gpt2", "qwen2", "gemma", "gemma3"])
def test_sampling_folds_a_trained_adapter_in_and_gives_the_base_weights_back(random_models, name):
    other = load_policy(Config(model=random_models.get(name, name)))
    for weight in trainable_parameters(other.model).values():
        torch.nn.init.normal_(weight, std=0.1, generator=seeded(7))
    before = {key: value.clone() for key, value in other.model.state_dict().items()}
    got = sample(other, PROMPTS, max_new_tokens=20, group_size=3, generator=seeded())
    scored, _ = response_logprobs(other.model, got, temperature=1.0)
    torch.testing.assert_close(scored, got.old_logprobs, atol=5e-5, rtol=0)
    with other.model.disable_adapter():
        unadapted, _ = response_logprobs(other.model, got, temperature=1.0)
        switched_off = sample(other, PROMPTS, max_new_tokens=20, group_size=3, generator=seeded())
        rescored, _ = response_logprobs(other.model, switched_off, temperature=1.0)
    assert (unadapted - scored).abs().max() > 0.1  # the adapter matters
    torch.testing.assert_close(rescored, switched_off.old_logprobs, atol=5e-5, rtol=0)
    after = other.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["tiny", "gpt2", "gemma"])
def test_in_half_precision_a_trained_adapter_stays_beside_the_weights(random_models, name):
    other = load_policy(Config(model=random_models.get(name, name), dtype="bfloat16"))
    for weight in trainable_parameters(other.model).values():
        torch.nn.init.normal_(weight, std=0.1, generator=seeded(7))
    before = {key: value.clone() for key, value in other.model.state_dict().items()}
    with folded_adapter(other.model):
        slim = [module for module in other.model.modules() if isinstance(module, SlimLora)]
        assert len(slim) >= 8 and not any(isinstance(module, BaseTunerLayer) for module in other.model.modules())
    got = sample(other, PROMPTS, max_new_tokens=20, group_size=3, generator=seeded())
    with torch.no_grad():
        scored, _ = response_logprobs(other.model, got, temperature=1.0)
        with other.model.disable_adapter():
            unadapted, _ = response_logprobs(other.model, got, temperature=1.0)
    tokens = got.response_mask.bool()
    rounding, effect = ((found - scored)[tokens].abs().mean() for found in (got.old_logprobs, unadapted))
    assert 10 * rounding < effect
    assert all(torch.equal(other.model.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["tiny", "gpt2", "qwen2", "gemma", "gemma3"])
def test_left_padding_changes_nothing(random_models, name):
    """Trap 2: each row alone, without padding, has the log-probabilities that it has in the batch."""
    other, rollouts = padded(random_models.get(name, name))
    for row in range(0, len(rollouts), 2):
        scored, alone = scored_alone(other, rollouts, row)
        torch.testing.assert_close(scored, alone.old_logprobs[0], atol=5e-5, rtol=0)


def test_positions_that_count_padding_would_be_seen(random_models, monkeypatch):
    """A model with a table of positions gives them away; one with rotary positions sees differences alone."""
    for place in ("rollout", "samplers.lab"):
        monkeypatch.setattr(
            f"sppo_lab.{place}.position_ids", lambda mask: torch.arange(mask.shape[1]).expand(len(mask), -1)
        )
    other, rollouts = padded(random_models["gpt2"])
    scored, alone = scored_alone(other, rollouts, 2)
    assert (scored - alone.old_logprobs[0]).abs().max() > 1e-2


def padded(model: str):
    """A policy and responses to prompts of different lengths."""
    other = load_policy(Config(model=model))
    for name, weight in other.model.named_parameters():
        if "wpe" in name:
            torch.nn.init.normal_(weight, generator=seeded())  # positions that matter
    return other, sample(other, PROMPTS, max_new_tokens=12, group_size=2, generator=seeded())


def scored_alone(other, rollouts, row: int):
    """Log-probabilities of a row's response, (T,), from a pass over that row alone; and the row."""
    alone = rollouts.select(torch.tensor([row]))
    assert alone.prompt_mask.all() and alone.response_mask.all()
    return response_logprobs(other.model, alone, 1.0)[0][0], alone


def test_logprobs_are_those_of_the_logits_one_position_earlier(policy):
    """Trap 4, by hand: no padding, no slicing helper, one row."""
    got = sample(policy, ["2+2="], max_new_tokens=20, generator=seeded(3))
    ids = torch.cat([got.prompt_ids, got.response_ids], 1)
    logits = policy.model(input_ids=ids).logits[0]
    start = got.prompt_ids.shape[1]
    by_hand = [logits[t - 1].log_softmax(-1)[ids[0, t]] for t in range(start, ids.shape[1])]
    torch.testing.assert_close(got.old_logprobs[0], torch.stack(by_hand).detach(), atol=2e-5, rtol=0)


def test_a_prompt_is_read_once_and_finished_rows_leave_the_batch(policy):
    rows = []
    handle = policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        got = sample(policy, PROMPTS, max_new_tokens=60, group_size=8, generator=seeded())
    finally:
        handle.remove()
    lengths = got.lengths
    assert rows == [len(PROMPTS)] + [int((lengths > t).sum()) for t in range(1, int(lengths.max()))]


def test_selecting_rows_trims_padding_and_keeps_content(rollouts):
    rows = torch.tensor([9, 1])
    some = rollouts.select(rows)
    assert some.texts == [rollouts.texts[9], rollouts.texts[1]]
    assert some.lengths.tolist() == rollouts.lengths[rows].tolist()
    assert some.prompt_mask.sum(1).max() == some.prompt_ids.shape[1]
    assert some.response_ids.shape[1] == some.lengths.max()


def test_an_empty_prompt_is_refused(policy):
    with pytest.raises(LabError, match="prompt 1 of the batch is empty"):
        sample(policy, ["1+1=", "  "], max_new_tokens=5)


def test_a_chat_template_that_wants_more_than_a_user_is_named(policy):
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('the first turn must be the system') }}"
    chatty = type(policy)(policy.model, tokenizer, policy.stop_ids, policy.context, policy.pad_id)
    with pytest.raises(LabError, match=r"does not take a single user's turn \(the first turn must be the system\)"):
        encode_prompts(chatty, ["1+1="], 1)


def test_a_context_that_the_tokenizer_cuts_short_is_said_to_be_that(policy):
    cut = replace(policy, context=20)
    with pytest.raises(LabError, match=r"of 20 tokens \(model_max_length in its tokenizer_config.json, which can be"):
        encode_prompts(cut, ["1+1=" * 10], 1)


def test_a_prompt_longer_than_the_context_is_refused(policy):
    with pytest.raises(LabError, match=r"do not fit the model's context of 128 tokens\. Lower"):
        sample(policy, ["1+" * 60 + "1="], max_new_tokens=30)


class scripted:
    """While active, the policy's next token is the given one, with certainty, whatever the input."""

    def __init__(self, policy, tokens):
        self.policy, self.tokens = policy, iter(tokens)

    def __enter__(self):
        def force(module, args, output):
            output.logits[:, -1] = -1e9
            output.logits[:, -1, next(self.tokens)] = 0.0
            return output

        self.handle = self.policy.model.base_model.model.register_forward_hook(force)

    def __exit__(self, *_):
        self.handle.remove()


def test_a_token_is_drawn_where_the_cumulative_probability_passes_the_noise():
    scores = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.0]).log()
    noise = torch.tensor([0.0, 0.2499, 0.25, 0.74, 0.76, 0.9999999])
    assert draw(scores.expand(6, 5), noise).tolist() == [0, 0, 2, 2, 3, 3]


def test_drawn_tokens_follow_the_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    tokens = draw(probabilities.log().expand(40_000, 4), noise)
    found = torch.bincount(tokens, minlength=4) / 40_000
    assert torch.allclose(found, probabilities, atol=0.01)


@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_a_response_is_the_same_whatever_is_written_beside_it(policy, batch_size):
    settings = {"max_new_tokens": 30, "group_size": 4}
    together = sample(policy, PROMPTS, **settings, generator=seeded())
    apart = sample(policy, PROMPTS, **settings, generator=seeded(), batch_size=batch_size)
    assert apart.texts == together.texts
    assert torch.equal(apart.group, together.group)
    assert torch.allclose(apart.old_logprobs, together.old_logprobs, atol=1e-4)
