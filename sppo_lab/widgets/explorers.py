"""Dashboards that only draw: the exact variances of the estimators, the clip of the loss, the critic along a run."""

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from sppo_lab.critic_figures import ReliabilityPanels, regression_figure
from sppo_lab.evaluate import critic_quality
from sppo_lab.explorer_figures import VariancePanels, silent_share, squared_error
from sppo_lab.lens import Lens
from sppo_lab.loss_figures import ClipPanels
from sppo_lab.variance_figures import separation_figure
from sppo_lab.widgets.controls import choice, number, switch
from sppo_lab.widgets.view import Explorer


def variance_explorer(measured: pd.DataFrame | None = None) -> Explorer:
    """Solve rate, group size, critic's error, budget and horizon to exact curves; ``measured`` is a study's metrics."""
    controls = {
        "solve_rate": number("solve rate p", 0.4, 0.05, 0.95, 0.05, "Middle of the prompts' solve rates."),
        "spread": number("spread", 0.3, 0.0, 0.45, 0.05, "The prompts lie evenly within p plus and minus this."),
        "group_size": number("group size G", 8, 2, 32, 1, "Responses to one prompt in a group method."),
        "error": number("critic's error", 0.1, 0.0, 0.5, 0.05, "What V(s_p) is off by, up or down, inside 0 to 1."),
        "rollouts": number("rollouts", 64, 32, 512, 32, "Responses for one gradient, the same for everyone."),
        "length": number("tokens T", 16, 1, 40, 1, "Length of a response of which every token must be right."),
    }

    def describe(solve_rate: float, group_size: int, error: float, **_: float) -> str:
        silent = silent_share(solve_rate, group_size)
        coin, wrong = solve_rate * (1 - solve_rate), squared_error(solve_rate, error)
        return (
            f"At p = {solve_rate:g} a group of {group_size} has no signal in {silent:.1%} of the cases; of E[A^2] = "
            f"{coin + wrong:.3f} the critic's error is {wrong / (coin + wrong):.0%}."
        )

    return Explorer("Variance explorer", controls, VariancePanels(measured).show, describe)


def clip_explorer(ratios: Tensor | None = None, advantages: Tensor | None = None) -> Explorer:
    """Epsilon and dual clip to loss, gradient and the region without gradient; with a batch's tokens, both (N,)."""
    controls = {
        "epsilon": number("epsilon", 0.2, 0.01, 0.9, 0.01, "Lower bound of the ratio is 1 - epsilon."),
        "epsilon_high": number("epsilon high", 0.2, 0.01, 2.0, 0.01, "Upper bound of the ratio is 1 + epsilon high."),
        "dual": switch("dual clip", False, "Bound the loss where A < 0, however large the ratio."),
        "dual_clip": number("dual clip at", 3.0, 1.1, 10.0, 0.1, "The bound, in units of |A|."),
    }

    panels = ClipPanels(ratios, advantages)

    def draw(epsilon: float, epsilon_high: float, dual: bool, dual_clip: float) -> Figure:
        return panels.show(epsilon, epsilon_high, dual_clip if dual else None)

    def describe(epsilon: float, epsilon_high: float, dual: bool, dual_clip: float) -> str:
        beyond = f" or above {dual_clip:g}" if dual else ""
        return (
            f"A right response is not pushed beyond ratio {1 + epsilon_high:g}; a wrong one has no gradient below "
            f"{1 - epsilon:g}{beyond}."
        )

    return Explorer("Clip explorer", controls, draw, describe)


def critic_view(lens: Lens) -> Explorer:
    """A recorded critic at the checkpoints of its run: calibration, V against pass rate, and a token critic's tail."""
    steps = [int(step) for step in lens.prompts["step"].unique()]
    views = ["reliability", "V against pass rate"] + (["tail effect"] if lens.separation else [])
    controls = {
        "step": choice("training step", steps, steps[-1], "Checkpoint of the recorded run of sppo."),
        "view": choice("view", views, views[0], "The tail effect is that of the runs of ppo, at their end."),
        "bins": number("bins", 8, 4, 16, 1, "Of the reliability diagram."),
    }

    panels = ReliabilityPanels()

    def at(step: int) -> tuple[pd.Series, pd.Series]:
        rows = lens.prompts[lens.prompts["step"] == step]
        return rows["value"], rows["solved"] / rows["samples"]

    def draw(step: int, view: str, bins: int) -> Figure:
        if view == "tail effect":
            return separation_figure(lens.separation)
        values, rates = at(step)
        return panels.show(values, rates, bins) if view == "reliability" else regression_figure(values, rates)

    def describe(step: int, view: str, bins: int) -> str:
        if view == "tail effect":
            areas = [f"{name} {one.areas[0]:.2f} to {one.areas[-1]:.2f}" for name, one in lens.separation.items()]
            return f"At the end of its run, AUC from the first to the last tenth of a response: {', '.join(areas)}."
        values, rates = at(step)
        found = critic_quality(values.to_numpy(), rates.to_numpy())
        pearson = "none, V is a constant" if found["pearson"] is None else f"{found['pearson']:.2f}"
        return (
            f"Step {step}: mean V {values.mean():.2f}, mean pass rate {rates.mean():.2f}, Pearson {pearson}, "
            f"the critic's squared error, corrected for the samples, {lens.splits[step].error:.3f}."
        )

    return Explorer("Critic view", controls, draw, describe)
