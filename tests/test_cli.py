"""The command line as a user meets it: exit status, last line, messages without a traceback."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sppo_lab.algorithms import ALGORITHMS
from sppo_lab.cli import main

SMALL = ["--steps=2", "--prompts-per-step=4", "--max-new-tokens=16", "--eval-prompts=4", "--eval-samples=2"]


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def error_of(capsys, *arguments: str) -> str:
    """Run a command that must fail; return its message, which must be one line and no traceback."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    messages = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1 and "Traceback" not in printed.err
    return messages[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", f"--out={out}", *SMALL]) == 0
    return out


def test_train_prints_a_machine_readable_last_line(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--algorithm=reinforce", "--seed=3", f"--out={out}", *SMALL, "--json"]) == 0
    result = last_json(capsys)
    assert result["algorithm"] == "reinforce" and result["seed"] == 3 and result["steps"] == 2
    assert result["rollouts"] == 8 and result["response_tokens"] >= 8
    assert 0 <= result["accuracy_before"] <= 1 and 0 <= result["accuracy_after"] <= 1
    assert result["seconds"] > 0 and result["tokens_per_second"] > 0 and result["peak_memory_mb"] > 50


def test_train_reports_accuracy_with_its_interval_and_the_figure(tmp_path, capsys):
    assert main(["demo", f"--out={tmp_path / 'run'}", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert printed.count("95 % interval") == 2 and "before training" in printed
    assert printed.strip().endswith("figure.png") and (tmp_path / "run" / "figure.png").stat().st_size > 10_000


def test_evaluate_measures_the_newest_checkpoint(run, capsys):
    assert main(["evaluate", f"--run={run}", "--samples=2", "--json"]) == 0
    result = last_json(capsys)
    assert result["samples"] == 2 and result["prompts"] == 4 and "pearson" in result["critic"]
    assert main(["evaluate", f"--run={run}", "--samples=4", "--prompts=3"]) == 0
    assert "avg@4" in capsys.readouterr().out


def test_show_draws_the_figure(run, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert main(["show", f"--run={run}", f"--out={picture}"]) == 0
    assert capsys.readouterr().out.strip() == str(picture) and picture.read_bytes().startswith(b"\x89PNG")


def test_verify_prints_a_reward_per_row_and_the_mean(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    pairs = [("12-3=9#9", "9"), ("#8", "9"), ("no\nanswer", "9"), ("#9#8", "8")]
    rows.write_text("".join(json.dumps({"response": r, "answer": a}) + "\n" for r, a in pairs))
    assert main(["verify", "--task=chain-sum", f"--file={rows}", "--json"]) == 0
    assert last_json(capsys) == {"rewards": [1.0, 0.0, 0.0, 1.0], "mean": 0.5, "judged": ["9", "8", "", "8"]}
    assert main(["verify", "--task=chain-sum", f"--file={rows}"]) == 0
    rule, _, head, *lines, mean = capsys.readouterr().out.splitlines()
    assert rule == "Judged is what follows the last # of a response."
    assert head.split()[:4] == ["row", "reward", "answer", "judged"]
    assert lines[0].split() == ["1", "1", "9", "9", "12-3=9#9"]
    assert lines[2].split() == ["3", "0", "9", "(nothing)", "no", "answer"]
    assert mean.split() == ["mean", "0.500"]


def test_verify_names_the_row_whose_answer_cannot_be_judged(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"response": "#9", "answer": "9"}\n{"response": "#9", "answer": "nine"}\n')
    assert "rows.jsonl, line 2: the answer 'nine' is not an integer" in error_of(
        capsys, "verify", "--task=chain-sum", f"--file={rows}"
    )


def test_verify_judges_mathematics(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    pairs = [("So she has $1,234.00.", "1234"), ("\\boxed{\\frac{3}{4}}", "0.75"), ("\\boxed{9^{9^{9^9}}}", "2")]
    rows.write_text("".join(json.dumps({"response": r, "answer": a}) + "\n" for r, a in pairs))
    assert main(["verify", "--task=gsm8k", f"--file={rows}", "--json"]) == 0
    assert last_json(capsys)["rewards"] == [1.0, 1.0, 0.0]


def test_training_on_gsm8k_with_a_random_model_runs_to_its_end_and_says_that_nothing_was_learnt(
    random_models, tmp_path, capsys
):
    data = tmp_path / "gsm8k.jsonl"
    problems = [("Ann has 3 apples and buys 4. How many has she?", 7), ("Half of 10?", 5), ("2 times 9?", 18)] * 2
    data.write_text("".join(json.dumps({"question": q, "answer": f"It is {a}.\n#### {a}"}) + "\n" for q, a in problems))
    command = [
        "train",
        "--task=gsm8k",
        f"--data={data}",
        f"--model={random_models['llama']}",
        f"--out={tmp_path / 'run'}",
    ]
    assert main([*command, *SMALL, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out.strip().splitlines()[-1])
    assert result["accuracy_before"] == result["accuracy_after"] == 0 and result["frac_prompts_rewarded"] == 0
    assert "0.0% of the sampled prompts got any right response" in printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--algorithm=ppox"], "unknown algorithm 'ppox': choose one of sppo"),
        (["--task=sums"], "unknown task 'sums': choose one of chain-sum, gsm8k, math"),
        (["--model=./nowhere"], "cannot load model './nowhere': there is no such directory"),
        (["--critic-model=./nowhere"], "cannot load model './nowhere'"),
        (["--lr=7"], "lr = 7.0 is not allowed: expected a finite number above 0, at most 1"),
        (["--data=missing.jsonl"], "there is no such file"),
        (["--device=cuda:7"], "device 'cuda:7' is not available"),
        (["--max-new-tokens=500"], "do not fit the model's context of 128 tokens"),
        (["--prompts-per-step=1"], "mini_batches = 2 is more than the 1 responses"),
    ],
)
def test_bad_options_get_one_message(tmp_path, capsys, options, message):
    assert message in error_of(capsys, "train", f"--out={tmp_path / 'run'}", *SMALL, *options)


def test_malformed_data_is_named_with_its_line(tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    good = json.dumps({"question": "1+1=", "answer": "2"})
    for bad in ("{broken", json.dumps({"question": "1+1="}), json.dumps({"question": "", "answer": "2"})):
        data.write_text(f"{good}\n{good}\n{bad}\n")
        assert "data.jsonl, line 3" in error_of(capsys, "train", f"--out={tmp_path / 'run'}", f"--data={data}")


def test_a_mistake_leaves_no_run_behind(tmp_path, capsys):
    out = tmp_path / "run"
    for option in ("--task=sums", "--model=./nowhere", "--max-new-tokens=500"):
        error_of(capsys, "train", f"--out={out}", *SMALL, option)
        assert not out.exists()
    assert main(["train", f"--out={out}", *SMALL]) == 0


def test_existing_runs_and_foreign_directories(run, tmp_path, capsys):
    assert "--resume" in error_of(capsys, "train", f"--out={run}", *SMALL)
    (tmp_path / "thesis.txt").write_text("mine")
    for option in ("--resume", "--overwrite"):
        assert "run" in error_of(capsys, "train", f"--out={tmp_path}", option, *SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert "is not a run directory" in error_of(capsys, "evaluate", f"--run={tmp_path}")
    assert "is not a run directory" in error_of(capsys, "show", f"--run={tmp_path / 'nowhere'}")
    assert "no checkpoint of step 77" in error_of(capsys, "evaluate", f"--run={run}", "--step=77")


def test_resuming_where_there_is_no_run_says_so(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", f"--out={out}", "--resume", *SMALL]) == 0
    assert f"{out} holds no run yet: starting one." in capsys.readouterr().err


def test_resuming_a_finished_run_does_nothing_and_says_the_same(run, capsys):
    before = (run / "metrics.jsonl").read_text()
    assert main(["train", f"--out={run}", "--resume", "--json"]) == 0
    assert last_json(capsys)["steps"] == 2 and (run / "metrics.jsonl").read_text() == before
    assert "other settings: lr = 0.5" in error_of(capsys, "train", f"--out={run}", "--resume", "--lr=0.5")


def test_a_directory_that_may_not_be_written_gets_a_message(tmp_path, capsys):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert "you may not write there" in error_of(capsys, "train", f"--out={locked / 'run'}", *SMALL)


@pytest.mark.skipif(sys.platform == "win32", reason="signals work differently there")
def test_ctrl_c_saves_and_prints_how_to_resume(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "sppo_lab", "train", f"--out={out}", *SMALL[1:], "--steps=100000"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in printed
    assert f"python -m sppo_lab train --out {out} --resume" in printed
    steps = len((out / "metrics.jsonl").read_text().splitlines())
    assert sorted((out / "checkpoints").iterdir())[-1].name == f"step-{steps:06d}"


def test_a_mistyped_option_does_not_bring_the_whole_manual(capsys):
    for arguments in (["train", "--out=x", "--steps=two"], ["train"], ["fly"], ["train", "--out=x", "--step=1"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        printed = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and len(printed) == 2 and printed[0].startswith("error: ")
        assert printed[1].endswith("--help")


def test_help_names_every_command_and_setting(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("train", "demo", "evaluate", "show", "export", "verify"))
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert all(name in printed for name in ALGORITHMS)
    assert "--tier gpu, for a real model, sets: --task gsm8k" in printed
    assert "--lora-rank" in printed and "a finite number above 0, at most 1; default" in printed


def test_quick_commands_do_not_import_torch():
    """Help and verify answer at once."""
    code = (
        "import sys; from sppo_lab.cli import main; main(['verify', '--task=chain-sum', '--file=x']); "
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(("typed", "meant"), [("--stps=3", "--steps"), ("--crtic-lr", "--critic-lr"), ("--qqq", None)])
def test_a_mistyped_option_is_answered_with_what_was_probably_meant(capsys, typed, meant):
    with pytest.raises(SystemExit):
        main(["train", "--out", "runs/x", typed])
    said = capsys.readouterr().err
    assert "there is no option" in said and (f"did you mean {meant}?" in said if meant else "did you mean" not in said)
