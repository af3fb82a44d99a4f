import numpy as np
import pandas as pd
import pytest

from sppo_lab.errors import LabError
from sppo_lab.statistics import (
    Estimate,
    bootstrap_mean,
    cost_to_reach,
    paired_difference,
    report_table,
    settle,
    verdict,
)

ABOVE, BELOW, OPEN = Estimate(0.1, 0.05, 0.15), Estimate(-0.1, -0.15, -0.05), Estimate(0.1, -0.1, 0.3)


def seeds(*values: float) -> pd.Series:
    return pd.Series(values, index=range(len(values)))


def test_a_paired_difference_is_students_t():
    from scipy import stats

    first, second = seeds(0.8, 0.82, 0.79, 0.85), seeds(0.7, 0.75, 0.74, 0.72)
    found, effect = paired_difference(first, second)
    low, high = stats.ttest_rel(first, second).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    d = first - second
    assert effect == pytest.approx(d.mean() / d.std(ddof=1))


def test_only_common_seeds_are_paired():
    found, effect = paired_difference(pd.Series([1.0, 2.0], index=[0, 1]), pd.Series([0.5, 9.0], index=[1, 2]))
    assert found == Estimate(1.5, None, None) and effect is None
    with pytest.raises(LabError, match="no seed in common"):
        paired_difference(seeds(1.0), pd.Series([1.0], index=[5]))


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [bootstrap_mean(rng.normal(size=30)) for _ in range(200)]
    assert 0.88 <= np.mean([e.low <= 0 <= e.high for e in found]) <= 0.99
    assert bootstrap_mean(np.array([0.3])) == Estimate(0.3, None, None)
    assert str(Estimate(0.5, 0.4, 0.6)) == "0.500 [0.400, 0.600]"


@pytest.mark.parametrize(
    ("variance", "accuracies", "found"),
    [
        (ABOVE, {"grpo": BELOW, "rloo": BELOW}, "refuted"),
        (ABOVE, {"grpo": BELOW, "rloo": OPEN}, "undecided"),
        (ABOVE, {"grpo": BELOW, "rloo": ABOVE}, "survives"),
        (BELOW, {"grpo": BELOW}, "survives"),
        (OPEN, {"grpo": BELOW}, "undecided"),
        (Estimate(0.1, None, None), {"grpo": BELOW}, "undecided"),  # one seed decides nothing
        (ABOVE, {}, "undecided"),
    ],
)
def test_the_verdict_goes_by_intervals(variance, accuracies, found):
    assert settle(variance, accuracies) == found


def run(rewards: list[float], size: int = 100) -> pd.DataFrame:
    count = np.arange(1, len(rewards) + 1)
    return pd.DataFrame({"reward": rewards, "num_rollouts": count * size, "step_time": 2.0})


def test_the_cost_of_a_target_counts_whole_windows_of_responses():
    steps = run([0.1, 0.9, 0.1, 0.8, 0.8, 0.8])
    assert cost_to_reach(steps, 0.75, window=100) == {"rollouts": 200.0, "seconds": 4.0}
    assert cost_to_reach(steps, 0.75, window=200) == {"rollouts": 500.0, "seconds": 10.0}
    assert cost_to_reach(steps, 0.75, window=300) == {"rollouts": 600.0, "seconds": 12.0}
    assert cost_to_reach(steps, 0.95, window=100) is None
    assert cost_to_reach(steps, 0.1, window=10_000) is None  # never a whole window


def test_a_window_weighs_steps_by_their_responses():
    steps = pd.DataFrame({"reward": [0.0, 1.0], "num_rollouts": [300, 400], "step_time": 1.0})
    assert cost_to_reach(steps, 0.25, window=400) == {"rollouts": 400.0, "seconds": 2.0}
    assert cost_to_reach(steps, 0.26, window=400) is None


def test_the_table_and_verdict_of_a_study():
    rows, metrics = [], []
    for algorithm, accuracy, variance in (("sppo", 0.8, 0.1), ("ppo", 0.7, 0.2), ("grpo", 0.75, 0.15)):
        for seed in range(4):
            rows.append(
                {
                    "algorithm": algorithm,
                    "seed": seed,
                    "lr": 2e-4,
                    "accuracy": accuracy + 0.001 * seed * (1 + (algorithm == "sppo")),
                    "advantage_variance": variance + 0.001 * seed * (1 + (algorithm == "sppo")),
                }
            )
            metrics.append(run([accuracy] * 10).assign(algorithm=algorithm, seed=seed, lr=2e-4))
    summary = pd.DataFrame(rows)
    found, difference, accuracies = verdict(summary)
    assert found == "survives" and difference.high < 0 and accuracies["grpo"].low > 0
    table = report_table(summary, pd.concat(metrics), target=0.72).set_index("algorithm")
    assert table.loc["sppo", "reached 0.72"] == "4 of 4" and table.loc["ppo", "reached 0.72"] == "0 of 4"
    assert table.loc["sppo", "rollouts"] == "700" and table.loc["sppo", "minus sppo"] == ""
    assert table.loc["grpo", "minus sppo"].startswith("-0.0")
    assert verdict(summary[summary["algorithm"] != "ppo"])[0] is None
