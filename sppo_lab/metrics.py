"""Every logged number with its one line of explanation, the only place where they are explained; and how those
that follow from a batch alone are computed."""

from torch import Tensor, corrcoef, stack, zeros

from sppo_lab.loss import sequence_mean_weights
from sppo_lab.rollout import Rollouts
from sppo_lab.selection import groups_with_signal

METRICS = {
    "step": "training step, counted from 1",
    "reward": "share of the sampled responses that the verifier accepts",
    "reward_std": "standard deviation of the rewards over the batch; sqrt(p(1-p)) for rewards of 0 and 1",
    "frac_prompts_rewarded": "share of prompts with at least one right response; at 0 nothing says what to do more of",
    "frac_reward_zero_std": "share of prompts whose responses all got the same reward; only with several per prompt",
    "frac_responses_used": "share of the sampled responses that the update uses; only where some are left out",
    "greedy_reward": "share of the prompts whose greedy response is right; only for remax",
    "completions/mean_length": "mean response length in tokens, the end-of-sequence token included",
    "completions/max_length": "longest response of the batch, in tokens",
    "completions/clipped_ratio": "share of responses cut at max_new_tokens before they ended",
    "entropy": "mean entropy of the next-token distribution over response tokens, in nats; it falls as the policy "
    "commits itself, and near 0 it no longer explores",
    "value/mean": "mean of V(s_p) over the batch, before the critic's update; it should follow the reward",
    "value/std": "standard deviation of V(s_p) over prompts; 0 means that the critic cannot tell prompts apart",
    "value/loss": "binary cross-entropy of V against R in nats, mean over the batch; 0.693 is a coin, and it cannot "
    "stay below the mean entropy of the prompts' own solve rates",
    "value/correlation": "Pearson correlation of V with R over the batch; well below 1 even for a perfect critic, "
    "since R is 0 or 1",
    "value/brier": "Brier score of V: mean of (V(s_p) - R)^2 over the batch, before the critic's update; 0.25 is a "
    "coin, and E[p(1-p)] what no critic stays below",
    "value/grad_norm": "length of the critic's gradient before clipping, mean over its updates",
    "value/skipped_updates": "updates of the critic left out of the step because their gradient was not finite",
    "advantage/mean": "mean advantage; near 0 when the baseline matches the solve rate",
    "advantage/variance": "variance of the advantage before any scaling; every response counts the same, its tokens "
    "share its weight",
    "advantage/second_moment": "mean of the squared advantage: E[p(1-p)] that no baseline removes, plus "
    "E[(p-V)^2], the critic's error",
    "policy/loss": "the clipped loss, mean over the updates: about minus the mean advantage over tokens, so it stays "
    "small whatever is learnt, and a rising loss is not a fault",
    "policy/grad_norm": "length of the policy's gradient before clipping, mean over the updates; this, not the "
    "loss, shows that there is something to learn from",
    "policy/skipped_updates": "updates of the policy left out of the step because their gradient was not finite",
    "policy/approx_kl": "mean of r - 1 - log r over response tokens: how far the updates moved from the policy "
    "that sampled, in nats",
    "kl": "mean estimate, over response tokens, of the KL divergence to the policy without its adapter, in nats; only "
    "with kl_coef",
    "clip_ratio/region_mean": "share of response tokens that clipping leaves without gradient",
    "clip_ratio/low_mean": "the part of it at the lower bound: ratio below 1 - epsilon where A < 0",
    "clip_ratio/high_mean": "the part of it at the upper bound: ratio above 1 + epsilon where A > 0",
    "num_rollouts": "responses sampled since the start of the run",
    "num_tokens": "response tokens sampled since the start of the run",
    "step_time": "seconds the step took",
    "time/sample": "seconds of it spent sampling",
    "time/update": "seconds of it spent on the critic's and the policy's updates",
}

TIMING = ("step_time", "time/sample", "time/update")  # the only numbers that differ when a run is repeated


def markdown_table() -> str:
    """The metric table as markdown, for the notebooks and the README."""
    rows = [f"| `{name}` | {text} |" for name, text in METRICS.items()]
    return "\n".join(["| metric | what it says |", "|---|---|", *rows])


def batch_metrics(rollouts: Rollouts, group_size: int) -> dict[str, float]:
    """What can be said of the sampled responses before any update."""
    rewards, lengths, values = rollouts.rewards, rollouts.lengths.float(), rollouts.prompt_values
    advantages, share = rollouts.raw_advantages, sequence_mean_weights(rollouts.response_mask)
    mean = (advantages * share).sum()
    metrics = {
        "reward": rewards.mean(),
        "reward_std": rewards.std(correction=0),
        "frac_prompts_rewarded": rewards.view(-1, group_size).amax(1).gt(0).float().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/max_length": lengths.max(),
        "completions/clipped_ratio": rollouts.truncated.float().mean(),
        "advantage/mean": mean,
        "advantage/variance": ((advantages - mean).square() * share).sum(),
        "advantage/second_moment": (advantages.square() * share).sum(),
    }
    if group_size > 1:
        metrics["frac_reward_zero_std"] = 1 - groups_with_signal(rewards, group_size).float().mean()
    if rollouts.greedy_rewards is not None:
        metrics["greedy_reward"] = rollouts.greedy_rewards.mean()
    if values is not None:
        metrics |= {
            "value/mean": values.mean(),
            "value/std": values.std(correction=0),
            "value/correlation": correlation(values, rewards),
            "value/brier": (values - rewards).square().mean(),
        }
    return {name: float(number) for name, number in metrics.items()}


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of two (B,) tensors; 0 where one of them is constant."""
    if a.std(correction=0) == 0 or b.std(correction=0) == 0:
        return zeros(())
    return corrcoef(stack([a, b]))[0, 1]
