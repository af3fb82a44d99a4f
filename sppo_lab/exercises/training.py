"""Exercises of notebook 05: what a LoRA adapter trains, one step of the loop, accuracies, and prompts after a stop."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sppo_lab.checks import Exercise, named
from sppo_lab.evaluate import pass_at_k


def whole(generator: Generator, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


# 05.1: how many parameters an adapter trains


def some_layers(generator: Generator) -> tuple[list[tuple[int, int]], int]:
    """Three layers as (out, in), and a rank."""
    return [(whole(generator, 20, 60), whole(generator, 70, 90)) for _ in range(3)], whole(generator, 2, 8)


def counted(per_layer: Callable[[int, int, int], int]) -> Callable[[list, int], int]:
    """A count from what each layer adds to it."""
    return lambda shapes, rank: sum(per_layer(out, width, rank) for out, width in shapes)


COUNT = {
    "these are the weights of the layers themselves: they are frozen": counted(lambda out, width, r: out * width),
    "the frozen weights are counted too: only the adapter is trained": (
        counted(lambda out, width, r: r * (out + width) + out * width)
    ),
    "A is counted, B is not: the output side of the layer has a matrix too": counted(lambda out, width, r: r * width),
    "the sizes of A and B are multiplied: two matrices beside each other add up": (
        counted(lambda out, width, r: r * out * r * width)
    ),
    "there is no third matrix between A and B": counted(lambda out, width, r: r * (out + width) + r * r),
}

# 05.2: what an adapter adds to the weight


def some_adapter(generator: Generator) -> tuple[Tensor, Tensor, float]:
    """A (3, 6) and B (6, 3) of a square layer, so that a product turned round keeps its shape; and alpha."""
    return torch.randn(3, 6, generator=generator), torch.randn(6, 3, generator=generator), whole(generator, 4, 20) / 2


def scaled_by(scale: Callable[[float, Tensor], float]) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The product of the two matrices, scaled by a function of alpha and A."""
    return lambda down, up, alpha: scale(alpha, down) * up @ down


lora_update = scaled_by(lambda alpha, down: alpha / len(down))

UPDATE = {
    "the product is right, the scale is missing": scaled_by(lambda alpha, down: 1.0),
    "it is multiplied by alpha, but the rank is not in it": scaled_by(lambda alpha, down: alpha),
    "alpha and the rank are multiplied: a larger rank should not make the update larger": (
        scaled_by(lambda alpha, down: alpha * len(down))
    ),
    "it is divided by the width of the layer: the rank is how many rows A has": (
        scaled_by(lambda alpha, down: alpha / down.shape[1])
    ),
    "the rank is under a root: that is a variant, rank-stabilised LoRA, and not what this adapter does": (
        scaled_by(lambda alpha, down: alpha / len(down) ** 0.5)
    ),
    "this is the update turned round, (in, out): which of the two matrices meets the input first?": (
        lambda down, up, alpha: lora_update(down, up, alpha).T
    ),
}

# 05.3: one step of the loop


@dataclass(frozen=True)
class ToyLoop:
    """The parts of a step as functions that change nothing, on prompts to which the answer is one bit.

    Policy and critic are logits (N,), one per prompt: of answering 1, and of being right.
    """

    answers: Tensor  # (N,) the right answers, 0 or 1
    luck: Tensor  # (N,) numbers between 0 and 1 that decide what is sampled in this step
    rate: float = 1.0

    def __str__(self) -> str:
        return f"a toy loop of {len(self.answers)} prompts"

    def sample(self, policy: Tensor, prompts: Tensor) -> Tensor:
        """(B,) responses, 0 or 1."""
        return (self.luck[prompts] < policy[prompts].sigmoid()).float()

    def judge(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """(B,) rewards."""
        return (responses == self.answers[prompts]).float()

    def values(self, critic: Tensor, prompts: Tensor) -> Tensor:
        """(B,) V of each prompt."""
        return critic[prompts].sigmoid()

    def learn_values(self, critic: Tensor, prompts: Tensor, rewards: Tensor) -> Tensor:
        """(N,) a critic that has learnt from the rewards: one step on the BCE."""
        return critic.index_add(0, prompts, self.rate * (rewards - self.values(critic, prompts)))

    def learn_policy(self, policy: Tensor, prompts: Tensor, responses: Tensor, advantages: Tensor) -> Tensor:
        """(N,) a policy that has learnt from the advantages: one step along the policy gradient."""
        score = responses - policy[prompts].sigmoid()
        return policy.index_add(0, prompts, self.rate * advantages * score)


def some_step(generator: Generator) -> tuple[ToyLoop, Tensor, Tensor, Tensor]:
    """A loop of 12 prompts, policy and critic, and 8 of the prompts."""
    loop = ToyLoop(torch.randint(0, 2, (12,), generator=generator).float(), torch.rand(12, generator=generator))
    policy, critic = torch.randn(2, 12, generator=generator)
    return loop, policy, critic, torch.randperm(12, generator=generator)[:8]


Step = Callable[[ToyLoop, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def step_with(advantage: Callable, lesson=lambda rewards, advantages: rewards) -> Step:
    """A step, its advantage from rewards and the values before and after, and what its critic is taught."""

    def answer(loop: ToyLoop, policy: Tensor, critic: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        responses = loop.sample(policy, prompts)
        rewards = loop.judge(prompts, responses)
        before = loop.values(critic, prompts)
        taught = loop.learn_values(critic, prompts, lesson(rewards, rewards - before))
        advantages = advantage(rewards, before, loop.values(taught, prompts))
        return loop.learn_policy(policy, prompts, responses, advantages), taught

    return answer


one_step = step_with(lambda rewards, before, after: rewards - before)

STEP = {
    "the critic has seen these rewards before it says V: then V depends on the response it is subtracted from": (
        step_with(lambda rewards, before, after: rewards - after)
    ),
    "the policy learns from the rewards alone: nothing is subtracted": step_with(lambda r, before, after: r),
    "the advantage has the wrong sign: the policy learns to be wrong": step_with(lambda r, before, after: before - r),
    "the critic is taught the advantages: what it is to predict is the reward": (
        step_with(lambda r, before, after: r - before, lesson=lambda rewards, advantages: advantages)
    ),
    "the policy is right, but the critic comes back as it was": (
        lambda loop, policy, critic, prompts: (one_step(loop, policy, critic, prompts)[0], critic)
    ),
}

# 05.4: avg@n and pass@k


def some_counts(generator: Generator) -> tuple[Tensor, int, int]:
    """(7,) right responses of 8 to each prompt, a prompt with none and one with all among them; and k below 8."""
    solved = torch.cat([torch.tensor([0, 8]), torch.randint(1, 8, (5,), generator=generator)])
    return solved, 8, whole(generator, 2, 5)


def accuracies(solved: Tensor, n: int, k: int) -> tuple[float, float]:
    """avg@n and pass@k, means over prompts."""
    return solved.double().mean().item() / n, sum(pass_at_k(n, right, k) for right in solved.tolist()) / len(solved)


def with_pass(estimate: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int, int], tuple[float, float]]:
    """avg@n, and a wrong pass@k from the pass rates (N,) and k."""
    return lambda solved, n, k: (solved.double().mean().item() / n, estimate(solved.double() / n, k).mean().item())


ACCURACIES = {
    "pass@k takes the pass rate for the true solve rate: draw k of the n responses, without putting any back": (
        with_pass(lambda rates, k: 1 - (1 - rates) ** k)
    ),
    "pass@k is computed at the mean pass rate: it is a mean over prompts, and the prompts differ": (
        with_pass(lambda rates, k: 1 - (1 - rates.mean()) ** k)
    ),
    "this is the share of prompts with a right response among all n, not among k of them": (
        with_pass(lambda rates, k: (rates > 0).double())
    ),
    "this is the chance that all k are right: one is enough": (
        lambda solved, n, k: (solved.double().mean().item() / n, 1 - accuracies(n - solved, n, k)[1])
    ),
    "avg@n counts right responses per prompt: divide by how many there were": (
        lambda solved, n, k: (solved.double().mean().item(), accuracies(solved, n, k)[1])
    ),
}

# 05.5: which prompts a step takes


def pass_order(total: int, seed: int, number: int) -> Tensor:
    """(total,) the order in which pass ``number`` (0, 1, ...) goes through the training problems, as in the trainer."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed * 1_000_003 + number))


def some_place(generator: Generator) -> tuple[int, int, int, int]:
    """A step, counted from 0, of 6 prompts out of 10; and a seed."""
    return whole(generator, 1, 9), 6, 10, whole(generator, 0, 99)


def prompts_by(place: Callable[[int, int, int, int], tuple[int, int]]) -> Callable[[int, int, int, int], Tensor]:
    """The prompts of a step from a rule: step, size, total and the place in the batch to pass and place in it."""

    def answer(step: int, size: int, total: int, seed: int) -> Tensor:
        found = [place(step, size, total, i) for i in range(size)]
        return torch.stack([pass_order(total, seed, number)[at] for number, at in found])

    return answer


PROMPTS = {
    "every pass has the same order: it should be shuffled anew": (
        prompts_by(lambda step, size, total, i: (0, (step * size + i) % total))
    ),
    "a batch that runs over the end of a pass takes the rest from the new order": (
        prompts_by(lambda step, size, total, i: (step * size // total, (step * size + i) % total))
    ),
    "every pass begins with a new batch, so the end of the old one is never seen": (
        prompts_by(lambda step, size, total, i: (step // (total // size), step % (total // size) * size + i))
    ),
    "it is one batch late: steps are counted from 0": (
        prompts_by(lambda step, size, total, i: divmod((step - 1) * size + i, total))
    ),
    "the step is not in it: a resumed run would begin again with the first prompts": (
        prompts_by(lambda step, size, total, i: divmod(i, total))
    ),
}

EXERCISES: tuple[Exercise, ...] = (
    Exercise("05.1", counted(lambda out, width, r: r * (out + width)), named(COUNT), some_layers),
    Exercise("05.2", lora_update, named(UPDATE), some_adapter, "the same product as peft's"),
    Exercise("05.3", one_step, named(STEP), some_step, "a step in the order of Trainer.run_step"),
    Exercise("05.4", accuracies, named(ACCURACIES), some_counts, "Evaluation.accuracy and pass_at_k"),
    Exercise(
        "05.5",
        prompts_by(lambda step, size, total, i: divmod(step * size + i, total)),
        named(PROMPTS),
        some_place,
        "the order of Trainer.next_problems",
    ),
)
