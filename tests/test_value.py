import dataclasses

import pytest
import torch

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.models import Policy, load_critic, load_policy, trainable_parameters
from sppo_lab.rollout import encode_prompts, sample
from sppo_lab.value import Critic

PROMPTS = ["7+5-3=", "1+1=", "9-4+2-1+8-3-3+5="]


@pytest.fixture
def critic(policy):
    critic = load_critic(Config(), policy)
    # A fresh head is zero and would hide every difference.
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    return critic


def test_an_untrained_critic_says_one_half(policy):
    fresh = load_critic(Config(), policy)
    assert fresh.prompt_values(*encode_prompts(policy, PROMPTS, 1)).tolist() == [0.5] * 3
    squared = load_critic(Config(algorithm="ppo"), policy)
    assert squared.prompt_values(*encode_prompts(policy, PROMPTS, 1)).tolist() == [0.0] * 3


def test_padding_on_either_side_leaves_the_value(policy, critic):
    ids, mask = encode_prompts(policy, PROMPTS, 1)
    together = critic.prompt_output(ids, mask)
    for row, prompt in enumerate(PROMPTS):
        alone_ids, alone_mask = encode_prompts(policy, [prompt], 1)
        right_ids = torch.cat([alone_ids, torch.full((1, 3), policy.pad_id)], 1)
        right_mask = torch.cat([alone_mask, torch.zeros(1, 3, dtype=torch.long)], 1)
        torch.testing.assert_close(critic.prompt_output(alone_ids, alone_mask)[0], together[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(critic.prompt_output(right_ids, right_mask)[0], together[row], atol=1e-5, rtol=0)


def test_the_value_is_read_at_the_last_prompt_token_alone(policy, critic):
    """Trap 6: the gradient with respect to the hidden states is zero at every other position."""
    ids, mask = encode_prompts(policy, PROMPTS, 1)
    kept = {}

    def keep(module, args, output):
        output.last_hidden_state.retain_grad()
        kept["hidden"] = output.last_hidden_state

    handle = critic.backbone.register_forward_hook(keep)
    critic.prompt_output(ids, mask).sum().backward()
    handle.remove()
    gradient = kept["hidden"].grad.abs().sum(-1)
    assert (gradient[:, -1] > 0).all() and (gradient[:, :-1] == 0).all()


def test_a_response_cannot_reach_the_value(policy, critic):
    """Trap 6: a causal backbone that also saw a response would read the same state at the last prompt token."""
    ids, mask = encode_prompts(policy, ["7+5-3="], 8)
    for response in ("#9", "#1"):
        more = torch.tensor([policy.tokenizer.encode(response)])
        with_response = critic.backbone(input_ids=torch.cat([ids, more], 1)).last_hidden_state[0, ids.shape[1] - 1]
        torch.testing.assert_close(critic.head(with_response)[0], critic.prompt_output(ids, mask)[0], atol=1e-5, rtol=0)


def test_a_critic_of_tokens_reads_what_precedes_each_token(policy):
    """V(s_t) depends on the prompt and the tokens before t alone; the first is V(s_p)."""
    critic = load_critic(Config(algorithm="ppo-bce"), policy)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    batch = sample(policy, PROMPTS, max_new_tokens=12, group_size=2, generator=torch.Generator().manual_seed(0))
    values = critic(batch)
    assert values.shape == batch.response_ids.shape
    prompt_alone = critic.prompt_output(batch.prompt_ids, batch.prompt_mask)
    torch.testing.assert_close(values[:, 0], prompt_alone, atol=1e-5, rtol=0)
    edited = dataclasses.replace(batch, response_ids=batch.response_ids.clone())
    edited.response_ids[:, 3] = policy.tokenizer.encode("7")[0]
    changed = (critic(edited) - values).abs()
    assert (changed[:, :4] < 1e-5).all() and changed[:, 4:].max() > 1e-3
    padded = critic(batch.select(torch.tensor([1])))  # alone, without padding
    torch.testing.assert_close(padded[0], values[1, : padded.shape[1]], atol=1e-5, rtol=0)


def test_the_small_critic_is_smaller_and_reads_the_same_tokens(policy):
    full = load_critic(Config(), policy)
    small = load_critic(Config(algorithm="sppo-small-critic"), policy)
    count = [sum(p.numel() for p in c.parameters()) for c in (small, full)]
    assert count[0] < count[1] / 4
    assert small.prompt_values(*encode_prompts(policy, PROMPTS, 1)).shape == (3,)


def test_a_critic_of_another_vocabulary_is_refused(policy, random_models, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    AutoModelForCausalLM.from_pretrained(random_models["llama"]).save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    with pytest.raises(LabError, match="another vocabulary"):
        load_critic(Config(critic_model=str(tmp_path)), policy)


def test_a_critic_with_lora_trains_the_adapter_and_the_head_only(policy):
    critic = load_critic(Config(critic_lora_rank=4), policy)
    names = list(trainable_parameters(critic))
    assert {"head.weight", "head.bias"} < set(names)
    assert all("lora_" in name or name.startswith("head.") for name in names)


@pytest.fixture
def sharing() -> tuple[Policy, Critic]:
    """A policy whose base also carries the critic's adapter, both away from their zero starts."""
    config = Config(critic="adapter")
    policy = load_policy(config)
    critic = load_critic(config, policy)
    torch.manual_seed(0)
    for weight in [*policy.weights.values(), *trainable_parameters(critic).values()]:
        torch.nn.init.normal_(weight, std=0.1)
    return policy, critic


def test_a_shared_base_gives_the_critic_its_own_adapter_and_nothing_else(sharing):
    policy, critic = sharing
    own, theirs = set(map(id, policy.weights.values())), set(map(id, critic.parameters()))
    assert not own & theirs and own | theirs <= set(map(id, [*policy.model.parameters(), *critic.parameters()]))
    assert {weight.shape for weight in critic.parameters()} == {
        *(weight.shape for weight in policy.weights.values()),
        critic.head.weight.shape,
        critic.head.bias.shape,
    }
    assert len(own) == len(theirs) - 2
    assert all(weight.requires_grad for weight in [*policy.weights.values(), *critic.parameters()])


def test_a_shared_base_serves_policy_and_critic_without_mixing_them(sharing):
    """Each output depends on its own adapter alone, and each gradient reaches its own adapter alone."""
    policy, critic = sharing
    ids, mask = encode_prompts(policy, PROMPTS, 1)

    def logits():
        return policy.model(input_ids=ids, attention_mask=mask).logits

    said, judged = logits(), critic.prompt_output(ids, mask)
    critic.prompt_output(ids, mask).sum().backward()
    assert all(weight.grad is not None for weight in critic.parameters())
    assert all(weight.grad is None for weight in policy.weights.values())
    critic.zero_grad()
    logits().sum().backward()
    assert all(weight.grad is not None for weight in policy.weights.values())
    assert all(weight.grad is None for weight in critic.backbone.parameters())
    with torch.no_grad():
        for weight in critic.backbone.parameters():
            weight.mul_(2)
    torch.testing.assert_close(logits(), said)
    assert not torch.allclose(critic.prompt_output(ids, mask), judged)


def test_a_shared_base_equals_the_base_before_any_update():
    config = Config(critic="adapter")
    policy = load_policy(config)
    shared, own = load_critic(config, policy), load_critic(Config(), policy)
    ids, mask = encode_prompts(policy, PROMPTS, 1)
    torch.testing.assert_close(shared.hidden(ids, mask), own.hidden(ids, mask))


def test_checkpointed_layers_give_a_shared_critic_the_same_gradient():
    """They run again during the backward pass, which must find the critic's adapter still active."""
    found = []
    for checkpointing in (False, True):
        config = Config(critic="adapter", gradient_checkpointing=checkpointing)
        policy = load_policy(config)
        critic = load_critic(config, policy)
        torch.manual_seed(0)
        for weight in [*policy.weights.values(), *critic.parameters()]:
            torch.nn.init.normal_(weight, std=0.1)
        with critic.in_use():
            critic.prompt_output(*encode_prompts(policy, PROMPTS, 1)).sum().backward()
        found.append([weight.grad for weight in critic.parameters()])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("settings", [{"critic_model": "tiny-small"}, {"algorithm": "sppo-small-critic"}])
def test_a_shared_base_excludes_another_backbone(settings, policy):
    with pytest.raises(LabError, match="policy's own base"):
        load_critic(Config(critic="adapter", **settings), policy)
