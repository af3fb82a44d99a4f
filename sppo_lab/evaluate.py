"""How well a policy solves held-out problems: greedy, avg@k and pass@k, each with a 95 % interval."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from tqdm.auto import tqdm

from sppo_lab.models import Policy
from sppo_lab.parallel import judge
from sppo_lab.rollout import encode_prompts, sample_within_memory
from sppo_lab.tasks import Problem, RewardFunction
from sppo_lab.value import Critic

Interval = tuple[float, float]
EVALUATION_SEED = 20_000  # apart from the training seeds, and the same for every run, so that runs compare


@dataclass(frozen=True)
class Evaluation:
    """What was counted; everything that is reported follows from it."""

    samples: int  # k, responses per prompt
    solved: list[int]  # per prompt, how many of its k responses are right
    greedy: list[int]  # per prompt, 1 if the greedy response is right
    mean_length: float  # tokens per sampled response
    truncated: float  # share of sampled responses cut at the length limit
    values: list[float] | None = None  # V(s_p) per prompt, where there is a critic

    @property
    def pass_rates(self) -> np.ndarray:
        """Share of right responses per prompt, (N,)."""
        return np.array(self.solved) / self.samples

    @property
    def accuracy(self) -> float:
        """avg@k: the mean pass rate."""
        return float(self.pass_rates.mean())

    @property
    def accuracy_interval(self) -> Interval:
        """95 % interval of avg@k over prompts."""
        return mean_interval(self.pass_rates)

    def report(self) -> dict[str, Any]:
        """The numbers that are printed and saved, intervals as pairs."""
        k = self.samples
        powers = [2**i for i in range(int(math.log2(k)) + 1)]
        report: dict[str, Any] = {
            "prompts": len(self.solved),
            "samples": k,
            f"avg@{k}": self.accuracy,
            f"avg@{k}_interval": self.accuracy_interval,
            "greedy": float(np.mean(self.greedy)),
            "greedy_interval": mean_interval(np.array(self.greedy, dtype=float)),
            "mean_length": self.mean_length,
            "truncated": self.truncated,
        }
        for power in powers:
            chances = np.array([pass_at_k(k, right, power) for right in self.solved])
            report[f"pass@{power}"] = float(chances.mean())
            report[f"pass@{power}_interval"] = mean_interval(chances)
        if self.values is not None:
            report["critic"] = critic_quality(np.array(self.values), self.pass_rates)
        return report

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    policy: Policy,
    problems: list[Problem],
    rewards: RewardFunction,
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    critic: Critic | None = None,
    batch_size: int = 1024,
    progress: Callable[..., Any] = tqdm,
    label: str = "evaluating",
) -> Evaluation:
    """Sample ``samples`` responses to each problem, and one greedily, and judge them all.

    The sampling has a generator of its own, so that evaluating changes nothing in a training run.
    ``batch_size`` bounds the responses written at once; it is halved where the memory does not suffice.
    """
    generator = torch.Generator(policy.device).manual_seed(seed)
    per_batch = max(1, batch_size // samples)
    solved: list[int] = []
    greedy: list[int] = []
    values: list[float] = []
    lengths, truncated = 0, 0
    with progress(total=len(problems), desc=label, unit="prompt") as bar:
        for start in range(0, len(problems), per_batch):
            batch = problems[start : start + per_batch]
            prompts = [problem.prompt for problem in batch]
            drawn, batch_size = sample_within_memory(
                policy,
                prompts,
                batch_size=batch_size,
                generator=generator,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                group_size=samples,
            )
            answers = [problem.answer for problem in batch for _ in range(samples)]
            right = np.array(judge(rewards, drawn.texts, answers)).reshape(len(batch), samples)
            solved += (right > 0.5).sum(1).tolist()
            best, batch_size = sample_within_memory(
                policy,
                prompts,
                batch_size=batch_size,
                generator=generator,
                max_new_tokens=max_new_tokens,
                greedy=True,
            )
            greedy += [int(r > 0.5) for r in judge(rewards, best.texts, [problem.answer for problem in batch])]
            lengths += int(drawn.lengths.sum())
            truncated += int(drawn.truncated.sum())
            if critic is not None:
                values += critic.prompt_values(*encode_prompts(policy, prompts, max_new_tokens)).tolist()
            bar.update(len(batch))
    count = len(problems) * samples
    return Evaluation(samples, solved, greedy, lengths / count, truncated / count, values or None)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that at least one of k responses is right, estimated without bias from ``right`` of n.

    ``1 - C(n - right, k) / C(n, k)``.  Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1.
    """
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def mean_interval(per_prompt: np.ndarray, confidence: float = 0.95) -> Interval:
    """Bootstrap interval of the mean over prompts (responses to one prompt are not independent).

    Where every prompt has the same number the bootstrap would have no width; for all 0 or all 1 the Wilson
    interval of that many prompts is given instead, otherwise the number itself.
    """
    first = float(per_prompt[0])
    if (per_prompt == first).all():
        if first not in (0.0, 1.0):
            return first, first
        count = len(per_prompt)
        wilson = stats.binomtest(int(first * count), count).proportion_ci(confidence, method="wilson")
        return float(wilson.low), float(wilson.high)
    found = stats.bootstrap(
        (per_prompt,), np.mean, confidence_level=confidence, method="percentile", n_resamples=2000, rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


def critic_quality(values: np.ndarray, pass_rates: np.ndarray) -> dict[str, float | None]:
    """How well V(s_p) matches the pass rates: correlations, None where one side is constant, and mean squared error."""
    constant = np.ptp(values) == 0 or np.ptp(pass_rates) == 0
    return {
        "pearson": None if constant else float(stats.pearsonr(values, pass_rates).statistic),
        "spearman": None if constant else float(stats.spearmanr(values, pass_rates).statistic),
        "squared_error": float(np.mean((values - pass_rates) ** 2)),
    }
