"""Each mistake shows while its switch is on and not else, the test it names fails, and nothing is left behind."""

import ast
import inspect
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from sppo_lab.config import Config
from sppo_lab.museum import CASES, ROOMS, first_batch, scored_tokens, watch
from sppo_lab.museum_figures import card, cases_figure, curves_figure, groups_figure, portraits_figure

TESTS = Path(__file__).parent

# Room to the range of its number in the first step, off and on.
SHOWS = {
    1: ((0.99, 1.01), (-1.01, -0.99)),
    2: ((-1e-6, 1e-6), (2e-3, 0.1)),
    3: ((-1e-6, 1e-6), (3.0, 30.0)),
    4: ((-1e-6, 1e-6), (0.01, 10.0)),
    5: ((-1e-6, 1e-6), (0.1, 10.0)),
    6: ((1e-2, 1.0), (0.0, 0.0)),
    7: ((1.0, 1.0), (0.0, 0.0)),
    8: ((0.0, 1e-5), (1e-3, 0.5)),
    9: ((0.0, 0.0), (0.2, 1.0)),
    10: ((0.99, 1.01), (-0.01, 0.3)),
    11: ((0.0, 0.0), (0.2, 0.99)),
    12: ((0.0, 1e-6), (0.03, 0.5)),
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_mistake_shows_with_its_switch_on_and_not_with_it_off(room):
    bug = ROOMS[room]
    for switch, (low, high) in zip((None, bug), SHOWS[room], strict=True):
        number = watch(bug.config(steps=1), switch)[bug.metric][0]
        assert low <= number <= high, (bug.name, switch is not None, number)


def test_the_sign_lowers_the_reward():
    """The one mistake of the first room, as a curve: the reward of the last steps."""
    config = ROOMS[1].config(steps=16, max_new_tokens=24, lr=2e-3)
    ends = [watch(config, bug)["reward"][-6:].mean() for bug in (None, ROOMS[1])]
    assert ends[0] > ends[1] + 0.1


def test_a_group_without_variance_stops_the_run():
    run = watch(ROOMS[11].config(steps=2), ROOMS[11])
    assert len(run) == 1 and "policy/loss" not in run


@pytest.mark.parametrize("room", ROOMS)
def test_the_lines_on_a_card_are_in_the_code(room):
    bug = ROOMS[room]
    for function, lines in ((bug.right, bug.right_code), (bug.wrong, bug.wrong_code)):
        source = [line.strip() for line in inspect.getsource(function).splitlines()]
        assert set(lines.splitlines()) <= set(source)
    assert list(inspect.signature(bug.wrong).parameters)[:1] == list(inspect.signature(bug.right).parameters)[:1]


@pytest.mark.parametrize("room", ROOMS)
def test_the_named_test_exists(room):
    file, name = ROOMS[room].test.split("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
def test_the_named_tests_catch_the_mistakes():
    """Each named test passes on the package, and fails with the mistake switched on."""
    script = textwrap.dedent("""
        import contextlib, os, sys
        import pytest
        from sppo_lab.museum import ROOMS

        class Switch:
            def __init__(self, bug):
                self.bug = bug

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_protocol(self, item):
                with self.bug.switched_on() if self.bug else contextlib.nullcontext():
                    return (yield)

        def outcome(tests, bug):
            with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
                return int(pytest.main(["-n0", "-p", "no:cacheprovider", *tests], plugins=[Switch(bug)]))

        folder = sys.argv[1]
        passed = outcome([f"{folder}/{bug.test}" for bug in ROOMS.values()], None)
        print(passed, *(outcome([f"{folder}/{bug.test}"], bug) for bug in ROOMS.values()))
    """)
    command = [sys.executable, "-c", script, str(TESTS)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert [int(code) for code in done.stdout.split()] == [0] + [1] * len(ROOMS)


def snapshot() -> dict:
    """Everything that the package's modules and classes hold by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("sppo_lab"):
            for key, value in vars(module).items():
                found[name, key] = value
                if inspect.isclass(value) and value.__module__.startswith("sppo_lab"):
                    found |= {(name, key, inner): each for inner, each in vars(value).items()}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_the_switch_leaves_nothing_behind(room):
    bug, before = ROOMS[room], snapshot()
    with pytest.raises(ZeroDivisionError), bug.switched_on():
        during = snapshot()
        raise ZeroDivisionError
    after = snapshot()
    changed = {key for key in before if during[key] is not before[key]}
    assert changed and all(before[key] is bug.right and during[key] is bug.wrong for key in changed)
    assert before.keys() == after.keys() and all(after[key] is before[key] for key in before)


def test_the_random_state_outside_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    watch(ROOMS[4].config(steps=1, max_new_tokens=8, prompts_per_step=4), ROOMS[4])
    assert torch.equal(torch.rand(2), expected)


def test_the_detectives_cases_show_under_their_own_settings():
    found = {label: watch(bug.config(**changes, steps=1), bug).iloc[0] for label, (bug, changes) in CASES.items()}
    assert found["A"]["value/correlation"] > 0.2  # a fresh critic says the same to everyone
    assert found["B"]["|A| without signal"] > 0.03
    assert found["C"]["policy/approx_kl"] > 3e-3
    assert all(row["policy/approx_kl"] < 1e-6 for label, row in found.items() if label != "C")


def test_figures_draw_what_they_are_given():
    config = Config(prompts_per_step=4, max_new_tokens=12, steps=2, group_size=2, algorithm="dr-grpo")
    run, (rollouts, _), pair = watch(config), first_batch(config), scored_tokens(config)
    curves = curves_figure({"Room 1": ("policy/grad_norm", run, run)})
    assert [len(ax.get_lines()) for ax in curves.axes] == [2, 2]
    assert list(curves.axes[1].get_lines()[0].get_ydata()) == run["policy/grad_norm"].tolist()
    portrait = portraits_figure({"one": [pair], "two": [pair, pair]})
    dots = portrait.axes[1].get_lines()[-1]
    assert len(dots.get_xdata()) == int(rollouts.response_mask.sum()) and abs(dots.get_ydata()).max() < 1e-4
    rollouts.advantages[0] = math.nan
    lines = groups_figure({"a": rollouts}, group_size=2).axes[0].get_lines()
    assert [list(line.get_xdata()) for line in lines if line.get_label() == "not a number"] == [[0]]
    cases = cases_figure({"A": run, "B": run}, ["reward", "value/mean"])
    assert [text.get_text() for ax in cases.axes for text in ax.texts] == ["not logged"] * 2


def test_a_card_is_folded_and_names_the_test():
    text = card("Room 3", ROOMS[3]).data
    assert text.startswith("<details>") and "Room 3" in text.split("</summary>")[0]
    assert ROOMS[3].name not in text.split("</summary>")[0]
    assert ROOMS[3].test in text and "def score_one_place_late" in text
