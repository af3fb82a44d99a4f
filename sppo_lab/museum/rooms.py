"""The exhibits as data: what people write, what the package says, the number that tells, the test that catches it."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from sppo_lab.advantage import divide_by_group_std, generalized_advantage, group_mean_advantage, sequence_advantage
from sppo_lab.config import Config
from sppo_lab.loss import probability_ratio
from sppo_lab.models import load_policy
from sppo_lab.museum import wrong
from sppo_lab.rollout import sample_together, token_scores
from sppo_lab.trainer import Trainer
from sppo_lab.value import Critic

SMALL = {"prompts_per_step": 16, "mini_batches": 1, "max_new_tokens": 48}  # with one mini-batch the ratio must be 1


@dataclass(frozen=True)
class Bug:
    """One mistake, off until ``switched_on``."""

    name: str
    right: Callable  # the function of the package
    wrong: Callable  # what stands in for it
    right_code: str  # the lines of the one that matter
    wrong_code: str  # and those of the other
    slip: str  # how one comes to write it
    symptom: str
    metric: str  # the number that tells: a logged one, or one of watch.clues
    test: str  # file::test, below tests/
    owner: type | None = None  # the class, where ``right`` is a method
    settings: Mapping[str, Any] = field(default_factory=dict)  # of Config, where the mistake needs them to show

    def config(self, **changes: Any) -> Config:
        """The settings under which it is watched, with some changed."""
        return Config.from_dict(SMALL | dict(self.settings) | changes)

    @contextlib.contextmanager
    def switched_on(self) -> Iterator[None]:
        """The wrong function in place of the right one, wherever it was imported, as if its file had been edited."""
        name = self.right.__name__
        if self.owner is None:
            places = [m for m in list(sys.modules.values()) if getattr(m, "__dict__", {}).get(name) is self.right]
        else:
            places = [self.owner]
        with contextlib.ExitStack() as stack:
            for place in places:
                stack.enter_context(patch.object(place, name, self.wrong))
            yield


RATIO = "policy/approx_kl"
RIGHT_MASK = "response_mask = (torch.arange(width, device=policy.device) < lengths[:, None]).long()"
FASTER, FASTER_CRITIC = {"lr": 1e-3}, {"critic_lr": 1e-3}

BUGS = (
    Bug(
        name="the advantage has the wrong sign",
        right=sequence_advantage,
        wrong=wrong.value_minus_reward,
        right_code="return rewards - values",
        wrong_code="return values - rewards",
        slip="A loss is minimised and a reward maximised: the minus was put in twice, here and in the loss.",
        symptom="Right responses have a lower advantage than wrong ones, and the reward falls.",
        metric="A, right minus wrong",
        test="test_advantage.py::test_sequence_advantage_by_hand",
        settings=FASTER,
    ),
    Bug(
        name="the temperature is forgotten in scoring",
        right=token_scores,
        wrong=wrong.score_without_temperature,
        right_code="scores = torch.log_softmax(logits.float() / temperature, dim=-1)",
        wrong_code="return right_token_scores(logits, ids, 1.0, entropy_gradient)",
        slip="Sampling belongs to the generator and scoring to the trainer; only one of them was told the temperature.",
        symptom="The ratio is off from the start, and by how much follows the log-probability: a bend, not a cloud.",
        metric=RATIO,
        test="test_rollout.py::test_sampling_and_scoring_agree_on_other_architectures_and_temperatures",
        settings={"temperature": 0.6},
    ),
    Bug(
        name="log-probabilities are one place late",
        right=token_scores,
        wrong=wrong.score_one_place_late,
        right_code="logits = logits[:, :-1]  # those at t - 1 score the token at t",
        wrong_code="logits = logits[:, 1:]",
        slip="The logits at a place score the next token. Here they are taken at the token's own place.",
        symptom="Ratios without any order, most of them far below 1: the model is asked about the token after.",
        metric=RATIO,
        test="test_rollout.py::test_sampling_and_scoring_give_the_same_logprobs",
    ),
    Bug(
        name="dropout is left on",
        right=load_policy,
        wrong=wrong.load_policy_for_training,
        right_code="model=add_lora(model, config.lora_rank, config.lora_alpha, config.seed).eval(),",
        wrong_code="policy.model.train()",
        slip="model.train() at the top of a training script is a habit. It is right for supervised learning.",
        symptom="Every ratio is off by chance, on both sides of 1, and differently each time.",
        metric=RATIO,
        test="test_trainer.py::test_the_first_update_starts_at_ratio_one",
    ),
    Bug(
        name="the response mask is one place late",
        right=sample_together,
        wrong=wrong.sample_with_late_mask,
        right_code=RIGHT_MASK,
        wrong_code="rollouts.response_mask = whole[:, rollouts.prompt_mask.shape[1] - 1 : -1]",
        slip="The logits are cut out one place early, which is right, and the mask was cut out with the same slice.",
        symptom="All ratios are 1 but one per response: the padding after its end, which nobody sampled.",
        metric=RATIO,
        test="test_rollout.py::test_masks_come_from_lengths_and_hold_the_end_token",
    ),
    Bug(
        name="the old log-probabilities carry a gradient",
        right=probability_ratio,
        wrong=wrong.ratio_to_itself,
        right_code="return torch.exp(logprobs - old_logprobs)",
        wrong_code="old_logprobs = logprobs",
        slip="The old ones were computed anew in the training pass, without detach(), and cancel the new ones.",
        symptom="The loss looks as usual, and the gradient is 0: the ratio is 1 and stays 1, whatever the weights are.",
        metric="policy/grad_norm",
        test="test_loss.py::test_first_pass_loss_is_near_zero_but_its_gradient_is_not",
        settings=FASTER,
    ),
    Bug(
        name="the end token is outside the loss",
        right=sample_together,
        wrong=wrong.sample_with_mask_from_ids,
        right_code=RIGHT_MASK,
        wrong_code="rollouts.response_mask = rollouts.response_mask * (rollouts.response_ids != end)",
        slip="The tokenizer has no padding token, so the end token pads, and the mask is 1 where the id is another.",
        symptom="Each response counts one token less than it has. The decision to stop is never learnt from.",
        metric="tokens beyond the text",
        test="test_rollout.py::test_a_pad_token_in_the_response_stays_in_the_mask",
        settings=FASTER,
    ),
    Bug(
        name="the critic is read at a padding position",
        right=Critic.prompt_output,
        wrong=wrong.output_at_column_of_length,
        owner=Critic,
        right_code="last = (columns * prompt_mask).argmax(1)",
        wrong_code="last = prompt_mask.sum(1) - 1",
        slip="Length minus one is the last token of a prompt padded on the right. Here prompts are padded on the left.",
        symptom="V of a prompt changes with the padding in front of it, that is, with who else is in the batch.",
        metric="V moved by padding",
        test="test_value.py::test_padding_on_either_side_leaves_the_value",
        settings=FASTER_CRITIC,
    ),
    Bug(
        name="the advantage is formed after the critic's update",
        right=Trainer.run_step,
        wrong=wrong.learn_before_valuing,
        owner=Trainer,
        right_code="self.form_advantages(rollouts)\nmetrics |= self.baseline.update(batch)",
        wrong_code="learnt = self.baseline.update(rollouts)\nself.form_advantages(rollouts)",
        slip="Critic first, policy second, says the textbook; and the advantage was thought to belong to the policy.",
        symptom="V knows rewards that it should be compared with: it correlates with R in the very first batch.",
        metric="value/correlation",
        test="test_trainer.py::test_the_advantage_uses_the_critic_before_its_update",
        settings=FASTER_CRITIC,
    ),
    Bug(
        name="GAE pays the reward at a padding position",
        right=generalized_advantage,
        wrong=wrong.reward_in_the_last_column,
        right_code="last = mask.sum(1) - 1\nreward = rewards * (last == t)",
        wrong_code="token_rewards = pad(rewards[:, None], (mask.shape[1] - 1, 0))",
        slip="The last column is the last token while there is one response; in a batch, for the longest alone.",
        symptom="The reward reaches the longest response alone; right and wrong ones have nearly the same advantage.",
        metric="A, right minus wrong",
        test="test_advantage.py::test_gae_with_gamma_and_lambda_one_is_the_reward_minus_the_value",
        settings={"algorithm": "ppo"} | FASTER_CRITIC,
    ),
    Bug(
        name="a group without variance is divided by its deviation",
        right=divide_by_group_std,
        wrong=wrong.divide_by_bare_std,
        right_code="return advantage / (std + GROUP_STD_EPSILON)",
        wrong_code="return advantage / std",
        slip="The formula in the paper has no constant beside the deviation, and the test batch had mixed groups only.",
        symptom="Groups that are all right or all wrong have the advantage 0 / 0; one of them spoils the whole loss.",
        metric="A that is no number",
        test="test_trainer.py::test_equal_rewards_give_a_group_no_gradient",
        settings={"algorithm": "grpo", "group_size": 4},
    ),
    Bug(
        name="groups mix prompts",
        right=group_mean_advantage,
        wrong=wrong.mean_of_mixed_groups,
        right_code="groups = rewards.view(-1, group_size)",
        wrong_code="groups = rewards.view(group_size, -1)",
        slip="Another sampler returns all prompts once, then all again; view() takes either order without a word.",
        symptom="A group whose responses all got the same reward has advantages other than 0.",
        metric="|A| without signal",
        test="test_advantage.py::test_groups_do_not_mix",
        settings={"algorithm": "dr-grpo", "group_size": 4},
    ),
)
ROOMS = dict(enumerate(BUGS, start=1))

# The detective's: a mistake of the museum under settings that its room did not have.
CASES = {
    "A": (ROOMS[9], {"critic_lr": 5e-4, "algorithm": "sppo-small-critic"}),
    "B": (ROOMS[12], {"algorithm": "rloo"}),
    "C": (ROOMS[2], {"algorithm": "reinforce", "temperature": 1.3}),
}
