"""Trackers by name: TensorBoard for real, the others by a stand-in for their library."""

import importlib.machinery
import json
import sys
import types

import pytest

from sppo_lab.config import Config
from sppo_lab.errors import LabError
from sppo_lab.experiment import Experiment

SMALL = {"steps": 2, "prompts_per_step": 4, "max_new_tokens": 12, "eval_prompts": 2, "eval_samples": 1}


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_every_metric_of_every_step(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    for _ in Experiment(Config(**SMALL, tracker="tensorboard"), out):
        pass
    found = EventAccumulator(str(out / "tensorboard")).Reload()
    rows = metrics(out)
    assert set(found.Tags()["scalars"]) >= set(rows[0])
    for name in ("reward", "policy/grad_norm", "value/loss"):
        logged = [(event.step, event.value) for event in found.Scalars(name)]
        assert logged == [(row["step"], pytest.approx(row[name], rel=1e-5)) for row in rows]
    for _ in Experiment(Config(**SMALL), out, overwrite=True):
        pass
    assert not (out / "tensorboard").exists()  # it was the run's, and went with it


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_others_get_the_settings_and_the_metrics(tmp_path, monkeypatch, name):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", step, values["reward"]))

        def finish(self):
            calls.append(("finish",))

    library = types.ModuleType(name)
    library.__spec__ = importlib.machinery.ModuleSpec(name, None)
    library.init = lambda **options: calls.append(("init", options)) or Run()
    library.config = types.SimpleNamespace(update=lambda values, **_: calls.append(("settings", values["lr"])))
    monkeypatch.setitem(sys.modules, name, library)
    out = tmp_path / "first"
    for _ in Experiment(Config(**SMALL, tracker=name), out):
        pass
    rewards = [("log", row["step"], row["reward"]) for row in metrics(out)]
    assert calls == [
        ("init", {"project": "sppo-lab", "name": "first"}),
        ("settings", 2e-4),
        *rewards,
        ("finish",),
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_library_is_said_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match=f"tracker = '{name}' needs its library: pip install {name}"):
        Experiment(Config(tracker=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_known_trackers():
    with pytest.raises(LabError, match="one of tensorboard, trackio, wandb"):
        Config(tracker="mlflow")
