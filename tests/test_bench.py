from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from sppo_lab.bench import floor
from sppo_lab.bench.compare import RATIOS, bench_figure, cells, ratio_table, run_bench
from sppo_lab.bench.floor import layer_shapes
from sppo_lab.bench.lab import (
    sample_with_continuous_batching,
    sample_with_generate,
    sample_with_lab,
    train_with_lab,
)
from sppo_lab.bench.setup import Setup, Timing
from sppo_lab.cli import main
from sppo_lab.errors import LabError

SMALL = Setup("tiny", responses_per_batch=16, max_new_tokens=6, full_length=True, batches=1)


def row(contestant, repeat, **numbers):
    timing = Timing(
        **{"responses": 64, "tokens": 1000, "sample_seconds": 1.0, "seconds": 2.0, "memory_mb": 500} | numbers
    )
    shown = {key: getattr(timing, key) for key in ("tokens_per_second", "responses_per_second")}
    return {"cell": "64 ragged", "repeat": repeat, "contestant": contestant} | vars(timing) | shown


def test_ratios_are_taken_within_a_repeat():
    rows, floors = [], {"sample_floor": 0.25, "update_floor": 0.5}
    for repeat, speed in enumerate((1.0, 2.0, 4.0)):  # a machine that is faster in one repeat than in another
        rows += [
            row("lab, training", repeat, seconds=2 / speed, sample_seconds=1 / speed, **floors),
            row("TRL, training", repeat, seconds=6 / speed, sample_seconds=4 / speed, memory_mb=1000),
            row("lab, sampling", repeat, sample_seconds=1 / speed),
            row("generate", repeat, sample_seconds=2 / speed, tokens=500),
            row("continuous batching", repeat, sample_seconds=5 / speed),
        ]
    table = ratio_table(pd.DataFrame(rows)).set_index("ratio")
    expected = dict(zip(RATIOS, (3.0, 4.0, 4.0, 5.0, 0.5), strict=True))
    for label, ratio in expected.items():
        assert table.loc[label, ["median", "smallest", "largest"]].tolist() == pytest.approx([ratio] * 3)
    floor = table.loc["sampling, seconds / bare matrix products"]
    assert floor[["median", "smallest", "largest"]].tolist() == pytest.approx([2.0, 1.0, 4.0])


def test_the_linear_layers_are_counted_without_the_adapter(policy):
    config = policy.model.config
    found = layer_shapes(policy.model)
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    assert found[hidden, inner] == 2 * layers and found[inner, hidden] == layers
    assert found[hidden, config.vocab_size] == 1
    assert sum(found.values()) == 7 * layers + 1
    assert layer_shapes(torch.nn.Linear(2, 3)) == Counter({(2, 3): 1})


@pytest.mark.parametrize(
    "contestant", [train_with_lab, sample_with_lab, sample_with_generate, sample_with_continuous_batching]
)
def test_every_response_has_the_length_asked_for(contestant):
    timing = contestant(SMALL)
    assert timing.responses == 16 and timing.tokens == 16 * 6
    assert 0 < timing.sample_seconds <= timing.seconds


def test_trl_trains_on_as_much():
    pytest.importorskip("trl", reason="pip install 'sppo-lab[bench]'")
    from sppo_lab.bench.grpo_trainer import train_with_trl

    timing = train_with_trl(SMALL)
    assert timing.responses == 16 and timing.tokens == 16 * 6
    assert 0 < timing.sample_seconds <= timing.seconds


def test_growth_is_drawn():
    rows = []
    for count in (16, 64):
        for length in (32, 64):
            for contestant in ("lab, training", "TRL, training"):
                sizes = {"responses_per_batch": count, "max_new_tokens": length, "batches": 2, "full_length": True}
                rows.append(row(contestant, 0, sample_floor=0.1, update_floor=0.1) | sizes)
    figure = bench_figure(pd.DataFrame(rows))
    assert [len(ax.get_lines()) for ax in figure.axes] == [6, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--responses", "20"], "multiples of 16"),
        (["--lengths", "long"], "give numbers of tokens, or ragged"),
        (["--repeats", "0"], "must be 1 or more"),
    ],
)
def test_sizes_that_are_not_allowed(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_trl_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"pip install 'sppo-lab\[bench\]'"):
        next(run_bench(cells("tiny", [16], ["ragged"], 1), 1))


def test_what_was_measured_before_an_interruption_is_kept(monkeypatch, tmp_path, capsys):
    def measured(function, given):
        if given[0] == "TRL, training":
            raise KeyboardInterrupt
        return Timing(64, 1000, 1.0, 2.0, 500)

    monkeypatch.setattr("sppo_lab.bench.compare.in_own_process", measured)
    assert main(["bench", "--repeats", "1", "--out", str(tmp_path / "bench")]) == 130
    assert "Measured so far: " in capsys.readouterr().err
    assert main(["bench", "--out", str(tmp_path / "bench")]) == 2
    assert "holds a comparison already" in capsys.readouterr().err
    rows = pd.read_csv(tmp_path / "bench" / "bench.csv")
    assert rows["contestant"].tolist() == ["lab, training"] and rows["seconds"].tolist() == [2.0]


def test_the_floor_counts_each_prompt_once_and_no_padding(monkeypatch):
    monkeypatch.setattr(floor, "product_seconds", lambda rows, shapes, like: rows)
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
    batch = SimpleNamespace(
        group=torch.tensor([0, 0, 1, 1]), prompt_mask=mask.flip(1)[[0, 0, 1, 1]], response_mask=mask
    )
    model = torch.nn.Linear(2, 2)
    assert floor.sample_floor(model, batch) == (1 + 3) + 2 + 1  # prompts, then what ends later than the first token
    assert floor.update_floor(model, batch) == 2 * ((1 + 1 + 3 + 3) + (1 + 3 + 2 + 1))
