"""Benchmarks in one command, on local files; the hub has no part in it."""

import json

import numpy as np
import pandas as pd
import pytest

from sppo_lab.cli import main
from sppo_lab.errors import LabError
from sppo_lab.evaluate import Evaluation
from sppo_lab.measure import asked_for, mean_over_benchmarks, printed_table, results_table
from sppo_lab.tasks.benchmarks import PAPER

SHORT = ["--samples=4", "--max-new-tokens=8"]


@pytest.fixture
def rows(tmp_path):
    """Short problems in the benchmarks' format, of different number in each file."""

    def write(name, count):
        path = tmp_path / name
        lines = [json.dumps({"problem": f"{n}+1?", "answer": n + 1}) for n in range(count)]
        path.write_text("\n".join(lines))
        return str(path)

    return write


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    small = ["--steps=1", "--prompts-per-step=4", "--max-new-tokens=12", "--eval-prompts=4", "--eval-samples=1"]
    assert main(["train", f"--out={out}", *small]) == 0
    return out


def test_names_and_files():
    assert asked_for(["paper"]) == dict.fromkeys(PAPER)
    assert asked_for(["math500=a.jsonl", "paper"]) == {"math500": "a.jsonl"} | {
        name: None for name in PAPER if name != "math500"
    }
    assert list(asked_for(["paper", "math500=a=b.jsonl"]).items())[3] == ("math500", "a=b.jsonl")
    assert asked_for(["reasoning-gym:chain_sum,max_terms=3"]) == {"reasoning-gym:chain_sum,max_terms=3": None}
    with pytest.raises(LabError, match="write aime24=FILE"):
        asked_for(["aime24="])


def test_a_run_on_the_papers_benchmarks_from_files(run, rows, capsys):
    words = [f"{name}={rows(name, 3 + number)}" for number, name in enumerate(PAPER)]
    assert main(["evaluate", f"--run={run}", "--benchmarks", *words, *SHORT]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["benchmark", "prompts", "avg@4", "pass@4", "greedy", "mean", "length", "truncated"]
    assert [line.split()[0] for line in printed[1:7]] == [*PAPER, "mean"]
    saved = json.loads((run / "benchmarks.json").read_text())
    assert saved["settings"]["max_new_tokens"] == 8 and saved["settings"]["temperature"] == 1.0
    assert [len(saved["benchmarks"][name]["solved"]) for name in PAPER] == [3, 4, 5, 6, 7]
    table = pd.read_csv(run / "benchmarks.csv").set_index("benchmark")
    assert table["avg@4"][:5].mean() == pytest.approx(table.loc["mean", "avg@4"])
    assert ((table["avg@4 low"] <= table["avg@4"]) & (table["avg@4"] <= table["avg@4 high"])).all()


def test_a_model_without_a_run(rows, tmp_path, capsys):
    command = ["evaluate", "--model=tiny", "--benchmarks", f"aime24={rows('a', 3)}", "chain-sum", "--prompts=2"]
    assert main([*command, "--samples=8", "--max-new-tokens=40", f"--out={tmp_path / 'out'}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["aime24"]["prompts"] == result["chain-sum"]["prompts"] == 2
    assert result["chain-sum"]["pass@8"] > 0 == result["aime24"]["pass@8"]  # it adds chains, and cannot write a box
    assert (tmp_path / "out" / "benchmarks.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=tiny"], "--model alone has no test problems"),
        (["--model=tiny", "--benchmarks", "aime26"], "unknown task 'aime26': choose one of chain-sum"),
        (["--model=tiny", "--benchmarks", "aime24=missing.jsonl"], "missing.jsonl: there is no such file"),
        (["--model=tiny", "--benchmarks", "chain-sum", "--max-new-tokens=0"], "max_new_tokens = 0 is not allowed"),
        (["--model=tiny", "--benchmarks", "chain-sum", "--batch-size=0"], "must be at least 1"),
        (["--model=tiny", "--benchmarks", "chain-sum", "--max-new-tokens=500"], "do not fit the model's context"),
        (["--run=nowhere", "--benchmarks", "chain-sum"], "nowhere is not a run directory"),
    ],
)
def test_mistakes_get_one_message(arguments, message, capsys):
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_the_hub_the_remedy_is_named_before_any_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr("sppo_lab.hub.is_reachable", lambda name, kind: False)
    monkeypatch.setattr("sppo_lab.models.load_policy", lambda config: pytest.fail("too early"))
    assert main(["evaluate", "--model=tiny", "--benchmarks", "paper"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1 and "hub does not answer" in errors[0] and "--benchmarks NAME=FILE" in errors[0]


def result(solved, samples=4):
    return Evaluation(samples, solved, [0] * len(solved), 5.0, 0.0)


def test_each_benchmark_counts_the_same_in_the_mean():
    mean, (low, high) = mean_over_benchmarks([result([4, 0]), result([0] * 100)])
    assert mean == 0.25 and low < mean < high
    assert high - low > 0.3  # two prompts are half of it, and say little
    table = results_table({"a": result([4, 0]), "b": result([0] * 100)})
    assert table["avg@4"].tolist() == [0.5, 0.0, 0.25] and table["prompts"].tolist() == [2, 100, 102]
    assert "mean" not in results_table({"a": result([4, 0])})["benchmark"].tolist()
    assert "0.250 [" in printed_table(table)


def test_no_success_anywhere_is_no_certainty():
    mean, (low, high) = mean_over_benchmarks([result([0] * 30), result([0] * 40)])
    assert mean == low == 0 and 0.03 < high < 0.12


def test_the_interval_of_the_mean_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(60):
        drawn = [rng.binomial(4, rng.beta(2, 2, size=count)).tolist() for count in (30, 30, 40)]
        _, (low, high) = mean_over_benchmarks([result(solved) for solved in drawn])
        covered.append(low <= 0.5 <= high)
    assert np.mean(covered) > 0.85
