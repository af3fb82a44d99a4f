"""What each command does, with its options parsed; it prints for people and returns what ``--json`` prints.

Heavy libraries are imported where they are used, so that help and ``verify`` answer at once.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sppo_lab.config import TIERS, Config
from sppo_lab.errors import LabError
from sppo_lab.processes import launched


def run_train(options: argparse.Namespace) -> dict[str, Any]:
    fresh = not (options.resume and (Path(options.out) / "config.json").exists())
    config = Config.for_tier(options.tier, **chosen_settings(options)) if fresh else None  # mistakes are said at once
    processes = launched()[1]
    together = "" if processes == 1 else f" on {processes} processes"
    print(f"Loading the libraries, the model and the problems{together} ...", file=sys.stderr, flush=True)
    from sppo_lab.experiment import Experiment
    from sppo_lab.recorder import Recorder

    if config is None:
        config = Recorder.open(options.out).config.replace(**chosen_settings(options))
    elif options.resume:
        print(f"{options.out} holds no run yet: starting one.", file=sys.stderr)
    if options.command == "demo" and not options.resume:
        options.overwrite = True
    experiment = Experiment(config, options.out, resume=options.resume, overwrite=options.overwrite)
    for _ in experiment:
        pass
    summary = experiment.summary()
    print(training_report(summary), file=sys.stderr if options.json else sys.stdout)
    return summary


def chosen_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Config that were given on the command line."""
    names = {setting.name for setting in dataclasses.fields(Config)}
    return {name: value for name, value in vars(options).items() if name in names}


def training_report(summary: dict[str, Any]) -> str:
    """A run's summary in sentences."""

    def accuracy(when: str) -> str:
        low, high = summary[f"accuracy_{when}_interval"]
        return f"{summary[f'accuracy_{when}']:.3f} (95 % interval {low:.3f} to {high:.3f})"

    lines = [
        f"{summary['algorithm']} on {summary['task']}: {summary['steps']} steps, {summary['rollouts']} responses in "
        f"{summary['seconds']:.0f} s.",
        f"Accuracy on the test problems before training: {accuracy('before')}",
        f"                                       and after: {accuracy('after')}",
    ]
    rewarded = summary["frac_prompts_rewarded"]
    if rewarded is not None and rewarded < 0.05:
        lines.append(
            f"{rewarded:.1%} of the sampled prompts got any right response, so there was next to no signal to learn "
            "from. Start from a stronger model or easier problems."
        )
    return "\n".join([*lines, f"Figure: {Path(summary['out']) / 'figure.png'}"])


def run_evaluate(options: argparse.Namespace) -> dict[str, Any]:
    if options.samples < 1 or options.batch_size < 1 or (options.prompts is not None and options.prompts < 1):
        raise LabError("--samples, --prompts and --batch-size must be at least 1.")
    if options.benchmarks:
        return run_benchmarks(options)
    if options.folder is None:
        raise LabError("--model alone has no test problems: say which with --benchmarks, such as --benchmarks paper.")
    from sppo_lab.experiment import evaluate_run

    report = evaluate_run(options.folder, options.samples, options.prompts, options.step).report()
    if not options.json:
        for name, value in report.items():
            if not name.endswith("_interval"):
                print(f"{name:>12}  {_shown(value)}{_shown_interval(report.get(f'{name}_interval'))}")
    return report


def run_budget(options: argparse.Namespace) -> dict[str, Any]:
    config = Config.for_tier(options.tier, **chosen_settings(options))
    from sppo_lab.budget import available_memory_mb, budget_report, measure, predict
    from sppo_lab.models import choose_device

    predicted = predict(config)
    measured = measure(config) if options.measure else None
    free = available_memory_mb(choose_device(config.device))
    if not options.json:
        print(budget_report(config, predicted, measured, free))
    return {"predicted": dataclasses.asdict(predicted), "measured": measured and dataclasses.asdict(measured)}


def run_benchmarks(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in ("max_new_tokens", "temperature")}
    changes = {name: value for name, value in given.items() if value is not None}
    Config(**changes)  # mistakes are said at once
    from sppo_lab.measure import policy_of_run, printed_table, read_exams, results_table, save_results, sit
    from sppo_lab.models import load_policy

    exams = read_exams(options.benchmarks, options.prompts)
    if options.folder is None:
        config = Config(model=options.model, **changes)
        policy = load_policy(config)
    else:
        policy, config = policy_of_run(options.folder, options.step)
        config = config.replace(**changes)
    settings = {"samples": options.samples, "max_new_tokens": config.max_new_tokens, "temperature": config.temperature}
    evaluations = sit(policy, exams, **settings, batch_size=options.batch_size)
    out = options.out or options.folder
    if out is not None:
        save_results(out, evaluations, {"model": config.model, "run": options.folder, "step": options.step} | settings)
    if not options.json:
        print(printed_table(results_table(evaluations)))
        print("Intervals are 95 %, over prompts.")
        if out is not None:
            print(f"Written: {Path(out) / 'benchmarks.json'}")
    return {name: found.report() for name, found in evaluations.items()}


def run_show(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.figures import run_figure
    from sppo_lab.recorder import Recorder
    from sppo_lab.storage import writing

    recorder = Recorder.open(options.folder)
    path = Path(options.out or recorder.folder / "figure.png")
    with writing(path.parent):
        run_figure(recorder).savefig(path, dpi=120)
    if not options.json:
        print(path)
    return {"figure": str(path)}


def run_study_command(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.statistics import best_rates
    from sppo_lab.study import StudyPlan, run_study
    from sppo_lab.study_tables import read_study

    plan = StudyPlan(
        algorithms=options.algorithms,
        seeds=parse_seeds(options.seeds),
        settings=TIERS[options.tier] | chosen_settings(options),
        rates=options.rates,
        rate_of=best_rates(read_study(options.rates_from)[0]) if options.rates_from else None,
        budget=options.budget,
    )
    run_study(plan, options.out, options.jobs)
    if not options.json:
        print(f"The study is complete: python -m sppo_lab report --study {options.out}")
    return {"out": options.out, "runs": len(plan.cells())}


def parse_seeds(text: str) -> list[int]:
    """``0-4`` gives 0 to 4, ``0,1,7`` those three."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise LabError(f"--seeds {text!r} is not understood: write them as 0-4 or as 0,1,7.")
        if int(last or first) < int(first):
            raise LabError(f"--seeds {text!r} runs backwards: write the smaller number first.")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def run_report(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.statistics import report_table, verdict
    from sppo_lab.storage import writing
    from sppo_lab.study_figures import study_figure
    from sppo_lab.study_tables import read_study

    summary, metrics = read_study(options.folder)
    table = report_table(summary, metrics, options.target)
    found, variance, accuracies = verdict(summary)
    out = Path(options.out or options.folder)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "report.csv", index=False)
        study_figure(summary, metrics).savefig(out / "report.png", dpi=120)
    if not options.json:
        print(report_text(table))
        if found is None:
            print("\nNo verdict: it needs one learning rate each for sppo, ppo and a group method such as grpo.")
        else:
            print(f"\nAdvantage variance, sppo minus ppo: {variance}")
            for name, difference in accuracies.items():
                print(f"Accuracy, sppo minus {name}: {difference}")
            print(f"The claim that SPPO's variance does no harm, by these intervals: {found}")
        print(f"Written: {out / 'report.csv'} and {out / 'report.png'}")
    return {"table": table.to_dict("records"), "verdict": found}


def report_text(table: Any) -> str:
    """The report for a terminal: a column per algorithm, or for a search a line per learning rate."""
    if table["algorithm"].is_unique:
        return table.set_index("algorithm").T.to_string()
    costs = [name for name in table if name.startswith(("rollouts to", "seconds to"))]
    return table[["algorithm", "lr", "seeds", "accuracy", *costs, "advantage variance"]].to_string(index=False)


def run_lens(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.lens import ESTIMATORS, read_lens, record_lens
    from sppo_lab.storage import writing

    with writing(options.out):
        record_lens(
            options.folder,
            options.out,
            token_runs=options.token_runs,
            step=options.step,
            estimators=tuple(options.algorithms or ESTIMATORS),
            repeats=options.repeats,
        )
    lens = read_lens(options.out)
    rows = [
        {
            "algorithm": noise.algorithm,
            "noise-to-signal": f"{noise.noise_to_signal:.1f}{_ends(noise.noise_to_signal_interval, '.1f')}",
            "cosine": f"{lens.cosines[noise.algorithm][0]:.2f}{_ends(lens.cosines[noise.algorithm][1], '.2f')}",
            "without signal": f"{noise.silent:.0%}",
        }
        for noise in lens.noise
    ]
    if not options.json:
        import pandas as pd

        for step, split in lens.splits.items():
            print(f"step {step}: E[A^2] = {split.second_moment:.3f} = {split.noise:.3f} + {split.error:.3f} (critic)")
        print(pd.DataFrame(rows).to_string(index=False))
    return {"out": options.out, "gradients": rows}


def run_export(options: argparse.Namespace) -> dict[str, Any]:
    print("Loading the libraries, the model and the problems ...", file=sys.stderr, flush=True)
    from sppo_lab.export.verl import export_verl

    script = export_verl(options.folder, options.out, options.step)
    if not options.json:
        print(f"On a machine with verl 0.9.1 and a GPU: bash {script}")
    return {"out": options.out, "script": str(script)}


def run_push(options: argparse.Namespace) -> dict[str, Any]:
    import tempfile

    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from sppo_lab.push import upload, write_model
    from sppo_lab.recorder import Recorder

    try:
        validate_repo_id(options.repo)
    except HFValidationError as error:
        raise LabError(f"--repo {options.repo!r} is not a name on the hub: write OWNER/NAME.") from error
    recorder = Recorder.open(options.folder)
    if options.dry_run:
        place = str(write_model(recorder, options.dry_run, options.repo, options.step))
    else:
        with tempfile.TemporaryDirectory() as folder:
            place = upload(write_model(recorder, folder, options.repo, options.step), options.repo, options.private)
    if not options.json:
        print(f"Written: {place}, adapter, tokenizer, model card and figure" if options.dry_run else place)
    return {"repo": options.repo, "uploaded": not options.dry_run, "place": place}


def run_bench_command(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.bench.compare import cells, ratio_table, refuse_if_taken, run_bench, save_bench, save_rows
    from sppo_lab.storage import writing

    if options.repeats < 1 or options.batches < 1:
        raise LabError("--repeats and --batches must be 1 or more.")
    setups = cells(options.model, options.responses, options.lengths, options.batches)
    if options.out is not None:
        refuse_if_taken(options.out)
    rows = None
    try:
        for rows in run_bench(setups, options.repeats, options.continuous):
            if options.out is not None:  # after each, so that an interruption loses nothing
                with writing(options.out):
                    save_rows(options.out, rows)
    except KeyboardInterrupt:
        if options.out is not None and rows is not None:
            print(f"\nMeasured so far: {Path(options.out) / 'bench.csv'}", file=sys.stderr)
        raise
    ratios = ratio_table(rows)
    if not options.json:
        speeds = ["tokens_per_second", "responses_per_second", "memory_mb"]
        print(rows.groupby(["cell", "contestant"], sort=False)[speeds].median().round(1).to_string(), end="\n\n")
        print(ratios.round(2).to_string(index=False))
    if options.out is not None:
        with writing(options.out):
            save_bench(options.out, rows, ratios)
    return {"ratios": ratios.to_dict("records")}


def run_publish(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.publish import publish
    from sppo_lab.storage import writing

    written = publish(Path(options.notebooks), options.repo)
    if options.html:
        try:
            from sppo_lab.pages import build_pages
        except ModuleNotFoundError as error:
            raise LabError(f"--html needs {error.name}, which comes with JupyterLab: python3 run.py setup.") from error
        with writing(options.html):
            written += build_pages(Path(options.notebooks), Path(options.html))
    written = [str(path) for path in written]
    if not options.json:
        print("\n".join(written))
    return {"written": written}


def run_verify(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.tasks import get_task_kind
    from sppo_lab.tasks.files import read_jsonl

    kind = get_task_kind(options.task)
    rows, rewards, judged = [], [], []
    for row in tqdm(read_jsonl(options.file, ("response", "answer")), desc="judging", leave=False, delay=1):
        response, answer = row.fields["response"], row.fields["answer"]
        try:
            rewards += kind.rewards([response], [answer])
        except LabError as error:
            raise LabError(f"{row.where}: {error}") from error
        judged.append(kind.final(response))
        rows.append(row.fields)
    mean = sum(rewards) / len(rewards)
    if not options.json:
        print(f"Judged is {kind.rule}.\n\n  row  reward  {'answer':<16}{'judged':<24}response, its end")
        for number, (row, final, reward) in enumerate(zip(rows, judged, rewards, strict=True), start=1):
            cells = f"{_cell(row['answer'], 15):<16}{_cell(final, 23) or '(nothing)':<24}{_cell(row['response'], 40)}"
            print(f"{number:>5}  {reward:>6.0f}  {cells}".rstrip())
        print(f" mean  {mean:>6.3f}")
    return {"rewards": rewards, "mean": mean, "judged": judged}


def _cell(text: str, width: int) -> str:
    """Text on one line, its end kept where it is too long."""
    text = " ".join(text.split())
    return text if len(text) <= width else "…" + text[1 - width :]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(number)}" for name, number in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _shown_interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"  (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"


def _ends(interval: Sequence[float], form: str) -> str:
    return f" [{interval[0]:{form}}, {interval[1]:{form}}]"
