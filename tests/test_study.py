import json
import shutil
import time

import pandas as pd
import pytest

from sppo_lab.cli import main
from sppo_lab.commands import parse_seeds
from sppo_lab.errors import LabError
from sppo_lab.storage import read_json
from sppo_lab.study import StudyPlan, run_study, start_cell, start_study
from sppo_lab.study_tables import StudyTables, read_study

SETTINGS = {
    "steps": 2,
    "prompts_per_step": 8,
    "max_new_tokens": 16,
    "eval_prompts": 4,
    "eval_samples": 2,
    "gradient_repeats": 3,
}


def test_equal_rollouts_and_equal_prompts():
    def sizes(budget: str) -> dict[str, int]:
        plan = StudyPlan(["sppo", "remax", "grpo", "poise"], [0], {"prompts_per_step": 64}, budget=budget)
        return {cell.config.algorithm: cell.config.prompts_per_step for cell in plan.cells()}

    assert sizes("rollouts") == {"sppo": 64, "remax": 32, "grpo": 8, "poise": 32}
    assert set(sizes("prompts").values()) == {64}
    with pytest.raises(LabError, match="cannot be shared by 8 per prompt"):
        StudyPlan(["grpo"], [0], {"prompts_per_step": 12})


def test_every_rate_and_seed_is_a_cell_with_a_name_of_its_own():
    plan = StudyPlan(["sppo", "grpo"], [0, 1], {}, rates=[1e-4, 2e-4])
    names = [cell.name for cell in plan.cells()]
    assert len(set(names)) == 8 and names[:2] == ["sppo-seed-0-lr-0.0001", "sppo-seed-0-lr-0.0002"]
    with pytest.raises(LabError, match="unknown algorithm"):
        StudyPlan(["sppox"], [0], {})
    with pytest.raises(LabError, match="at least one"):
        StudyPlan([], [0], {})


def test_seeds_are_ranges_or_lists():
    assert parse_seeds("0-2") == [0, 1, 2] and parse_seeds("4, 0-1,0") == [4, 0, 1]
    for wrong in ("a", "1-", "", "0..4"):
        with pytest.raises(LabError, match="not understood"):
            parse_seeds(wrong)


@pytest.mark.timeout(300)
def test_a_study_runs_is_resumed_and_reported(tmp_path, capsys):
    out = tmp_path / "study"
    plan = StudyPlan(["sppo", "ppo", "grpo"], [0], SETTINGS)
    killed = plan.cells()[0]
    start_study(out, plan)
    process = start_cell(killed, out, threads=1)  # a study that was killed in its first run
    while process.poll() is None and not (out / "runs" / killed.name / "config.json").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not StudyTables(out).holds(killed.config)
    run_study(plan, out)
    assert all(StudyTables(out).holds(cell.config) for cell in plan.cells())
    summary, metrics = read_study(out)
    assert list(summary["algorithm"]) == ["sppo", "ppo", "grpo"] and set(summary["rollouts"]) == {16}
    assert len(metrics) == 6 and "advantage/variance" in metrics
    stamp = (out / "runs" / killed.name / "metrics.jsonl").stat().st_mtime_ns
    run_study(plan, out)  # complete: nothing runs again
    assert (out / "runs" / killed.name / "metrics.jsonl").stat().st_mtime_ns == stamp
    for other in (StudyPlan(["sppo"], [0], SETTINGS | {"steps": 3}), StudyPlan(["sppo"], [0], SETTINGS, rates=[0.1])):
        with pytest.raises(LabError, match="another study, with other"):
            run_study(other, out)
    capsys.readouterr()
    assert main(["report", f"--study={out}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["verdict"] == "undecided" and len(result["table"]) == 3
    assert (out / "report.csv").exists() and (out / "report.png").exists()
    # Eight responses of a policy that is cut off at 16 tokens: grpo's one group per step may be all wrong.
    assert list(summary["gradient_variance"] > 0)[:2] == [True, True] and summary["gradient_variance"].ge(0).all()
    assert summary["peak_memory_mb"].gt(100).all()
    assert read_json(out / "study.json")["seconds"] > 1
    shutil.rmtree(out / "runs")  # the tables alone say what is done
    run_study(plan, out)
    assert not (out / "runs").exists()
    pd.testing.assert_frame_equal(read_study(out)[0], summary)


def test_a_study_can_be_added_to(tmp_path):
    """Further seeds and algorithms go into the same directory; what was run keeps its learning rate."""
    plan = StudyPlan(["sppo"], [0], SETTINGS, rate_of={"sppo": 1e-4, "ppo": 2e-4})
    start_study(tmp_path, plan)
    more = StudyPlan(["sppo", "ppo"], [0, 1], SETTINGS, rate_of={"sppo": 1e-4, "ppo": 2e-4})
    start_study(tmp_path, more)
    assert read_json(tmp_path / "study.json")["plan"]["seeds"] == [0, 1]
    with pytest.raises(LabError, match="with other rate_of"):
        start_study(tmp_path, StudyPlan(["sppo"], [0], SETTINGS, rate_of={"sppo": 3e-4}))


def test_every_algorithm_gets_the_rate_of_the_search():
    rates = {"sppo": 4e-4, "ppo": 1e-4, "rloo": 1e-3}
    plan = StudyPlan(["sppo", "ppo"], [0], {"lr": 5e-5}, rate_of=rates)
    assert {cell.name: cell.config.lr for cell in plan.cells()} == {"sppo-seed-0": 4e-4, "ppo-seed-0": 1e-4}
    with pytest.raises(LabError, match="no learning rate for grpo"):
        StudyPlan(["sppo", "grpo"], [0], {}, rate_of=rates)
    with pytest.raises(LabError, match="give one of them"):
        StudyPlan(["sppo"], [0], {}, rates=[1e-4], rate_of=rates)


def test_a_failed_run_stops_the_study_and_names_its_log(tmp_path):
    plan = StudyPlan(["sppo"], [0], SETTINGS | {"model": str(tmp_path / "nowhere")})
    with pytest.raises(LabError, match=r"sppo-seed-0 failed: see .*sppo-seed-0.log"):
        run_study(plan, tmp_path / "study", jobs=1)


def test_what_is_no_study_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LabError, match="something other than a study"):
        run_study(StudyPlan(["sppo"], [0], SETTINGS), tmp_path)
    with pytest.raises(LabError, match="no study with a complete run"):
        read_study(tmp_path)
