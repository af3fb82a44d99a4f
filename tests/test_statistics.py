import numpy as np
import pandas as pd
import pytest

from sppo_lab.errors import LabError
from sppo_lab.statistics import (
    Estimate,
    best_rates,
    bootstrap_mean,
    cost_ratio,
    cost_to_reach,
    costs_to_reach,
    paired_difference,
    report_table,
    settle,
    verdict,
)
from sppo_lab.study_figures import study_figure

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


def test_a_cost_ratio_is_a_geometric_mean_over_common_seeds():
    first, second = seeds(600.0, 500.0, np.nan, 800.0), seeds(100.0, 125.0, 90.0, 100.0)
    found = cost_ratio(first, second)
    ratios = np.array([6.0, 4.0, 8.0])
    assert found.mean == pytest.approx(np.exp(np.log(ratios).mean()))
    assert found.low < 4.5 and found.high > 7.5
    swapped = cost_ratio(second, first)
    assert swapped.mean == pytest.approx(1 / found.mean) and swapped.low == pytest.approx(1 / found.high)
    assert cost_ratio(seeds(np.nan), seeds(1.0)) is None
    assert cost_ratio(seeds(2.0), seeds(1.0)) == Estimate(2.0, None, None)


def test_a_run_that_never_gets_there_has_no_cost():
    metrics = pd.concat([run([0.9] * 7).assign(seed=0), run([0.1] * 7).assign(seed=1)])
    costs = costs_to_reach(metrics, 0.5)
    assert costs.loc[0, "rollouts"] == 700 and costs.loc[1].isna().all()


def test_the_best_rate_is_the_highest_mean_over_seeds_and_of_equals_the_lowest():
    rows = [("sppo", 1e-4, 0.7), ("sppo", 1e-4, 0.8), ("sppo", 2e-4, 0.79), ("sppo", 2e-4, 0.73)]
    rows += [("ppo", 4e-4, 0.6), ("ppo", 2e-4, 0.6), ("ppo", 1e-4, 0.1)]
    assert best_rates(pd.DataFrame(rows, columns=["algorithm", "lr", "accuracy"])) == {"sppo": 2e-4, "ppo": 2e-4}


def made_up_study() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three algorithms, four seeds; grpo with a learning rate of its own."""
    rows, metrics = [], []
    for algorithm, rate, accuracy, variance in (
        ("sppo", 2e-4, 0.8, 0.1),
        ("ppo", 2e-4, 0.7, 0.2),
        ("grpo", 4e-4, 0.75, 0.15),
    ):
        for seed in range(4):
            more = 0.001 * seed * (1 + (algorithm == "sppo"))
            rows.append(
                {
                    "algorithm": algorithm,
                    "seed": seed,
                    "lr": rate,
                    "accuracy": accuracy + more,
                    "advantage_variance": variance + more,
                    "peak_memory_mb": 500.0 + seed,
                    "gradient_variance": 2.0,
                    "rollouts_without_signal": 0.25,
                }
            )
            metrics.append(run([accuracy] * 10).assign(algorithm=algorithm, seed=seed, lr=rate))
    steps = pd.concat(metrics, ignore_index=True)
    return pd.DataFrame(rows), steps.assign(step=steps.groupby(["algorithm", "seed"]).cumcount() + 1)


def test_the_table_and_verdict_of_a_study():
    summary, metrics = made_up_study()
    found, difference, accuracies = verdict(summary)
    assert found == "survives" and difference.high < 0 and accuracies["grpo"].low > 0
    table = report_table(summary, metrics, target=0.72).set_index("algorithm")
    assert table.loc["sppo", "reached 0.72"] == "4 of 4" and table.loc["ppo", "reached 0.72"] == "0 of 4"
    assert table.loc["sppo", "rollouts to 0.72"] == "700" and table.loc["sppo", "minus sppo"] == ""
    assert table.loc["grpo", "minus sppo"].startswith("-0.0")  # though its learning rate is another
    assert table.loc["grpo", "rollouts, times sppo's"].startswith("1.000")
    assert table.loc["ppo", "rollouts to 0.72"] == "" == table.loc["ppo", "seconds, times sppo's"]
    assert set(table["peak memory, MiB"]) == {"503"} and set(table["gradient variance"]) == {"2"}
    assert verdict(summary[summary["algorithm"] != "ppo"])[0] is None


def test_the_table_says_how_good_a_critic_is_at_the_end():
    summary, metrics = made_up_study()
    metrics["value/brier"] = (0.25 - 0.01 * metrics["step"]).where(metrics["algorithm"] != "grpo")
    table = report_table(summary, metrics, target=0.72).set_index("algorithm")["V against R, Brier"]
    assert table["sppo"] == "0.160 [0.160, 0.160]"  # the mean of steps 8, 9 and 10
    assert table["grpo"] == ""


def test_a_search_has_no_verdict_and_no_differences():
    summary, metrics = made_up_study()
    search = pd.concat([summary, summary.assign(lr=1e-3)])
    table = report_table(search, pd.concat([metrics, metrics.assign(lr=1e-3)]), target=0.72)
    assert len(table) == 6 and "minus sppo" not in table
    assert verdict(search) == (None, None, {})
    (ax,) = study_figure(search, metrics).axes
    assert [line.get_label() for line in ax.get_lines()[::2]] == ["sppo", "ppo", "grpo"]
    best = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in ax.get_lines()[1::2]]
    assert best[1] == (2e-4, pytest.approx(0.7015))


def test_the_figure_of_a_study_draws_every_algorithm_and_seed():
    summary, metrics = made_up_study()
    curves, accuracy, variance = study_figure(summary, metrics).axes
    assert [text.get_text() for text in curves.get_legend().get_texts()] == ["sppo", "ppo", "grpo"]
    assert [len(line.get_xdata()) for line in accuracy.get_lines()[:2]] == [4, 1]
    assert list(variance.get_lines()[0].get_xdata()) == pytest.approx([0.1, 0.102, 0.104, 0.106])
    assert [tick.get_text() for tick in accuracy.get_yticklabels()] == ["sppo", "ppo", "grpo"]
