"""What several seeds say: intervals, paired differences, effect sizes, and a verdict that goes by intervals alone."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from sppo_lab.errors import LabError

Verdict = Literal["survives", "refuted", "undecided"]
GROUP_METHODS = ("grpo", "rloo", "dr-grpo", "dapo")
CRITIC_COLUMNS = {"value/correlation": "V with R, Pearson", "value/brier": "V against R, Brier"}  # at the end of a run


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval; None where there are too few seeds for one."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.low is None else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(values: np.ndarray) -> Estimate:
    """Mean over seeds with a percentile bootstrap interval."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    if np.ptp(values) == 0:
        return Estimate(mean, mean, mean)
    found = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=0).confidence_interval
    return Estimate(mean, float(found.low), float(found.high))


def paired_difference(first: pd.Series, second: pd.Series) -> tuple[Estimate, float | None]:
    """Mean of ``first - second`` over the seeds that both have, with Student's 95 % interval, and Cohen's d_z.

    Student's interval, because a bootstrap of five differences is too narrow.  Both series are indexed by seed.
    """
    differences = (first - second).dropna().to_numpy(dtype=float)
    if len(differences) == 0:
        raise LabError("the two algorithms have no seed in common, so they cannot be compared pair by pair.")
    mean = float(differences.mean())
    if len(differences) < 2:
        return Estimate(mean, None, None), None
    spread = float(differences.std(ddof=1))
    if spread == 0:
        return Estimate(mean, mean, mean), None
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * spread / len(differences) ** 0.5
    return Estimate(mean, mean - half, mean + half), mean / spread


def cost_to_reach(steps: pd.DataFrame, target: float, window: int = 640) -> dict[str, float] | None:
    """Rollouts and seconds until the mean reward of the last ``window`` responses reaches the target; None if never.

    ``steps`` are the metrics of one run.  A step's reward is the mean over the responses it sampled.
    """
    rollouts = steps["num_rollouts"].to_numpy()
    sampled = np.diff(rollouts, prepend=0)
    right = np.cumsum(steps["reward"].to_numpy() * sampled)
    seconds = np.cumsum(steps["step_time"].to_numpy())
    for i, total in enumerate(rollouts):
        if total < window:
            continue
        start = int(np.searchsorted(rollouts, total - window, side="right"))  # the first step inside the window
        before = start - 1
        count = total - (rollouts[before] if before >= 0 else 0)
        share = (right[i] - (right[before] if before >= 0 else 0.0)) / count
        if share >= target:
            return {"rollouts": float(total), "seconds": float(seconds[i])}
    return None


def cost_ratio(first: pd.Series, second: pd.Series) -> Estimate | None:
    """How many times ``second`` the first costs: geometric mean over the seeds that both have, with its 95 % interval.

    Student's interval of the differences of logarithms.  None where no seed has both costs.
    """
    both = pd.concat([first, second], axis=1).dropna()
    if both.empty:
        return None
    found, _ = paired_difference(np.log(both.iloc[:, 0]), np.log(both.iloc[:, 1]))
    ends = (None, None) if found.low is None else (math.exp(found.low), math.exp(found.high))
    return Estimate(math.exp(found.mean), *ends)


def costs_to_reach(metrics: pd.DataFrame, target: float) -> pd.DataFrame:
    """``cost_to_reach`` of each run: a row per seed with NaN where the target was never reached.  One algorithm's."""
    found = {seed: cost_to_reach(steps, target) for seed, steps in metrics.groupby("seed")}
    return pd.DataFrame.from_dict(
        {seed: cost or {"rollouts": np.nan, "seconds": np.nan} for seed, cost in found.items()}, orient="index"
    )


def best_rates(summary: pd.DataFrame) -> dict[str, float]:
    """Algorithm to the learning rate with the highest accuracy, mean over seeds; of equal ones the lowest."""
    means = summary.groupby(["algorithm", "lr"], sort=True)["accuracy"].mean()
    return {name: float(means[name].idxmax()) for name in summary["algorithm"].unique()}


def sign(difference: Estimate) -> int:
    """1 or -1 if the whole interval lies on that side of 0, else 0: not decided."""
    if difference.low is None or difference.low <= 0 <= difference.high:
        return 0
    return 1 if difference.mean > 0 else -1


def settle(variance: Estimate, accuracies: dict[str, Estimate]) -> Verdict:
    """The experiment that would settle SPPO's claim.

    ``variance`` is SPPO's advantage variance minus PPO's; ``accuracies`` its final accuracy minus that of each group
    method.  The claim is refuted if the variance is higher *and* the accuracy lower than every group method's; it
    survives if either is certainly not so; otherwise the seeds do not decide.
    """
    if not accuracies:
        return "undecided"
    lower = [sign(difference) for difference in accuracies.values()]
    if sign(variance) == 1 and all(s == -1 for s in lower):
        return "refuted"
    if sign(variance) == -1 or any(s == 1 for s in lower):
        return "survives"
    return "undecided"


def by_seed(summary: pd.DataFrame, algorithm: str, column: str) -> pd.Series:
    """One number per seed of an algorithm."""
    return summary[summary["algorithm"] == algorithm].set_index("seed")[column]


def verdict(summary: pd.DataFrame) -> tuple[Verdict | None, Estimate | None, dict[str, Estimate]]:
    """The verdict of a study, with the differences it rests on.

    None without sppo, ppo and a group method, and for a search, where an algorithm has several learning rates.
    """
    there = set(summary["algorithm"])
    if len(summary[["algorithm", "lr"]].drop_duplicates()) > len(there):
        return None, None, {}
    groups = [name for name in GROUP_METHODS if name in there]
    if not {"sppo", "ppo"} <= there or not groups:
        return None, None, {}
    variance, _ = paired_difference(
        by_seed(summary, "sppo", "advantage_variance"), by_seed(summary, "ppo", "advantage_variance")
    )
    accuracy = by_seed(summary, "sppo", "accuracy")
    accuracies = {name: paired_difference(accuracy, by_seed(summary, name, "accuracy"))[0] for name in groups}
    return settle(variance, accuracies), variance, accuracies


def report_table(summary: pd.DataFrame, metrics: pd.DataFrame, target: float) -> pd.DataFrame:
    """A row per algorithm and learning rate, as texts.

    Means over seeds with their 95 % intervals; differences and ratios to SPPO are paired by seed, and left out where
    SPPO has several learning rates, or is not there.
    """
    cells = {key: cell.set_index("seed") for key, cell in summary.groupby(["algorithm", "lr"], sort=False)}
    costs = {
        key: costs_to_reach(metrics[(metrics["algorithm"] == key[0]) & (metrics["lr"] == key[1])], target)
        for key in cells
    }
    references = [key for key in cells if key[0] == "sppo"]
    sppo = references[0] if len(references) == 1 else None
    rows = []
    for key, cell in cells.items():
        cost = costs[key]
        row: dict[str, Any] = {
            "algorithm": key[0],
            "lr": f"{key[1]:g}",
            "seeds": len(cell),
            "accuracy": bootstrap_mean(cell["accuracy"]),
            "accuracy sd": f"{cell['accuracy'].std(ddof=1):.3f}" if len(cell) > 1 else None,
        }
        if sppo and key != sppo:
            difference, effect = paired_difference(cell["accuracy"], cells[sppo]["accuracy"])
            row |= {"minus sppo": difference, "effect size": None if effect is None else f"{effect:+.2f}"}
        row[f"reached {target:g}"] = f"{int(cost['rollouts'].notna().sum())} of {len(cost)}"
        for unit in ("rollouts", "seconds"):
            reached = cost[unit].dropna()
            row[f"{unit} to {target:g}"] = f"{reached.mean():.0f}" if len(reached) else None
            if sppo and key != sppo:
                row[f"{unit}, times sppo's"] = cost_ratio(cost[unit], costs[sppo][unit])
        row |= {
            "peak memory, MiB": f"{cell['peak_memory_mb'].max():.0f}",
            "advantage variance": bootstrap_mean(cell["advantage_variance"]),
        }
        mine = metrics[(metrics["algorithm"] == key[0]) & (metrics["lr"] == key[1])]
        for name, label in CRITIC_COLUMNS.items():
            late = at_the_end(mine, name)
            if len(late):
                row[label] = bootstrap_mean(late)
        if cell["gradient_variance"].notna().all():
            row |= {
                "gradient variance": f"{cell['gradient_variance'].mean():.3g}",
                "rollouts without signal": bootstrap_mean(cell["rollouts_without_signal"]),
            }
        rows.append({name: "" if value is None else str(value) for name, value in row.items()})
    # The row of sppo has no difference to sppo, that of grpo no critic: the longest rows say the order of the columns.
    columns = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    return pd.DataFrame(rows, columns=list(columns)).fillna("")


def at_the_end(steps: pd.DataFrame, name: str) -> np.ndarray:
    """The mean of a metric over the last quarter of each run, one per seed; empty where it was not measured."""
    if name not in steps:
        return np.array([])
    late = steps[steps["step"] > 0.75 * steps["step"].max()]
    return late.groupby("seed")[name].mean().dropna().to_numpy()
