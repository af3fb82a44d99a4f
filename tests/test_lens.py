import functools
import json

import pytest

from sppo_lab.cli import main
from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.experiment import Experiment, evaluate_run
from sppo_lab.lens import read_lens, record_lens
from sppo_lab.variance import split_evaluation

SMALL = {"steps": 2, "prompts_per_step": 8, "max_new_tokens": 24, "eval_prompts": 4, "eval_samples": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """A run of sppo and one of ppo-bce."""
    folder = tmp_path_factory.mktemp("runs")
    for algorithm in ("sppo", "ppo-bce"):
        list(Experiment(Config(algorithm=algorithm, checkpoint_every=1, **SMALL), folder / algorithm))
    return {name: str(folder / name) for name in ("sppo", "ppo-bce")}


def test_what_is_recorded_is_what_is_measured(runs, tmp_path):
    sizes = {"repeats": 3, "warmup": 1, "samples": 4, "prompts": 4, "responses": 40}
    record_lens(runs["sppo"], tmp_path, token_runs=[runs["ppo-bce"]], step=1, **sizes)
    lens = read_lens(tmp_path)
    for step, split in lens.splits.items():
        assert split == split_evaluation(evaluate_run(runs["sppo"], samples=4, prompts=4, step=step))
    assert len(lens.splits) >= 2
    assert [noise.algorithm for noise in lens.noise] == list(lens.cosines) and len(lens.noise) == 8
    assert all(noise.rollouts == 8 and noise.repeats == 3 for noise in lens.noise)
    assert lens.note["gradients_at_step"] == 1 and lens.note["run"]["algorithm"] == "sppo"
    one = lens.separation["ppo-bce"]
    assert one.areas.shape == (10,) and (one.areas >= 0).all() and (one.areas <= 1).all()
    assert runs["sppo"] not in (tmp_path / "lens.json").read_text()


def test_the_command_without_a_run_of_tokens(runs, tmp_path, capsys, monkeypatch):
    small = functools.partial(record_lens, warmup=1, samples=4, prompts=4)
    monkeypatch.setattr("sppo_lab.lens.record_lens", small)
    options = [f"--run={runs['sppo']}", f"--out={tmp_path}", "--repeats=3", "--algorithms", "sppo", "grpo"]
    assert main(["lens", *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [row["algorithm"] for row in result["gradients"]] == ["sppo", "grpo"]
    assert read_lens(tmp_path).separation == {}


def test_what_cannot_be_looked_at_is_said(runs, tmp_path, capsys):
    with pytest.raises(LabError, match="along a run of sppo"):
        record_lens(runs["ppo-bce"], tmp_path)
    with pytest.raises(LabError, match="has no value per token"):
        record_lens(runs["sppo"], tmp_path, token_runs=[runs["sppo"]])
    with pytest.raises(LabError, match="holds no record of the lens"):
        read_lens(tmp_path)
