"""The command line: python -m sppo_lab train | demo | evaluate | show | study | report | verify."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from sppo_lab import __version__
from sppo_lab.config import TIERS, Config, describe_limits, field_type, is_switch, is_text
from sppo_lab.errors import LabError

PATHS = ("data", "test_data")
MAIN_SETTINGS = ("algorithm", "task", "data", "test_data", "model", "seed", "steps")
SUPPRESS = argparse.SUPPRESS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for a mistake the user can mend, 130 when interrupted."""
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"there is no option {unknown[0]}")
    try:
        result = options.run(options)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nInterrupted.{resume_hint(options)}", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(result))
    return 0


class Parser(argparse.ArgumentParser):
    """argparse, with a mistake answered in two lines instead of by every option there is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nThe options are explained by: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sppo_lab",
        description="Reinforcement learning for LLM reasoning with SPPO: train a policy, look at it, judge answers.",
        epilog="Start with: python -m sppo_lab demo",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = add_command(commands, "train", run_train, "train a policy and keep everything about it in a directory")
    train.add_argument("--out", required=True, metavar="DIR", help="directory of the run")
    add_training_options(train)

    demo = add_command(commands, "demo", run_train, "train the embedded model by SPPO, in minutes, on any computer")
    demo.add_argument("--out", default="runs/demo", metavar="DIR", help="directory of the run (default: %(default)s)")
    add_training_options(demo)

    evaluate = add_command(commands, "evaluate", run_evaluate, "measure a trained policy on its test problems")
    evaluate.add_argument("--run", required=True, metavar="DIR", dest="folder", help="directory of the run")
    evaluate.add_argument("--samples", type=int, default=16, metavar="K", help="responses per prompt (default: 16)")
    evaluate.add_argument("--prompts", type=int, metavar="N", help="test prompts to use (default: as in training)")
    evaluate.add_argument("--step", type=int, metavar="N", help="checkpoint of this step (default: the newest)")

    show = add_command(commands, "show", run_show, "draw a run: reward, length, critic, advantage, clipping, entropy")
    show.add_argument("--run", required=True, metavar="DIR", dest="folder", help="directory of the run")
    show.add_argument("--out", metavar="FILE", help="picture to write (default: figure.png in the run)")

    study = add_command(
        commands, "study", run_study_command, "run several algorithms on several seeds, to compare them"
    )
    study.add_argument("--algorithms", required=True, nargs="+", metavar="NAME", help="rows of the algorithm table")
    study.add_argument("--seeds", default="0-4", help="such as 0-4 or 0,1,7 (default: %(default)s)")
    study.add_argument("--out", required=True, metavar="DIR", help="directory of the study; the same one goes on")
    study.add_argument(
        "--budget",
        choices=("rollouts", "prompts"),
        default="rollouts",
        help="what is equal per step: responses, or prompts as in the paper (default: %(default)s)",
    )
    study.add_argument("--rates", nargs="+", type=float, metavar="LR", help="learning rates to search")
    study.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one per core)")
    add_settings(study, leave_out=("algorithm", "seed", "lr"))

    report = add_command(commands, "report", run_report, "print the table of a study, and its verdict")
    report.add_argument("--study", required=True, metavar="DIR", dest="folder", help="directory of the study")
    report.add_argument("--target", type=float, default=0.7, help="accuracy whose cost is compared (default: 0.7)")

    verify = add_command(commands, "verify", run_verify, "judge responses against answers, without any model")
    verify.add_argument("--task", required=True, help="whose verifier: chain-sum, gsm8k or math")
    verify.add_argument("--file", required=True, metavar="FILE", help='one {"response": …, "answer": …} per line')
    return parser


def add_command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
    )
    command.set_defaults(run=run, command=name, parser=command)
    command.add_argument("--json", action="store_true", help="print the result as JSON, on the last line")
    return command


def add_training_options(command: argparse.ArgumentParser) -> None:
    """``--resume``, ``--overwrite``, ``--tier`` and one option per field of Config."""
    command.add_argument("--resume", action="store_true", help="go on with the run in the directory")
    command.add_argument("--overwrite", action="store_true", help="replace the run in the directory")
    command.add_argument("--tier", choices=TIERS, default="tiny", help="set of defaults; what gpu sets is listed below")
    command.epilog = "--tier gpu, for a real model, sets: " + ", ".join(
        f"{option(name)} {value}" for name, value in TIERS["gpu"].items()
    )
    add_settings(command)


def add_settings(command: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
    """One option per field of Config."""
    main_group = command.add_argument_group("what to train")
    more_group = command.add_argument_group("settings")
    defaults = Config()
    for setting in dataclasses.fields(Config):
        if setting.name in leave_out:
            continue
        group = main_group if setting.name in MAIN_SETTINGS else more_group
        default = getattr(defaults, setting.name)
        limits = "" if is_text(setting) or is_switch(setting) else describe_limits(setting)
        note = "; ".join(filter(None, [limits, "" if default is None else f"default {default}"]))
        kind = (
            {"action": argparse.BooleanOptionalAction}
            if is_switch(setting)
            else {"type": field_type(setting), "metavar": "FILE" if setting.name in PATHS else setting.name.upper()}
        )
        group.add_argument(
            option(setting.name),
            **kind,
            default=SUPPRESS,
            help=(setting.metadata["help"] + (f" ({note})" if note else "")).replace("%", "%%"),
        )


def option(name: str) -> str:
    """The command-line option of a field: ``lora_rank`` gives ``--lora-rank``."""
    return "--" + name.replace("_", "-")


def run_train(options: argparse.Namespace) -> dict[str, Any]:
    print("Loading the libraries, the model and the problems ...", file=sys.stderr, flush=True)
    from sppo_lab.experiment import Experiment

    chosen = chosen_settings(options)
    if options.resume and (Path(options.out) / "config.json").exists():
        from sppo_lab.recorder import Recorder

        config = Recorder.open(options.out).config.replace(**chosen)
    else:
        if options.resume:
            print(f"{options.out} holds no run yet: starting one.", file=sys.stderr)
        config = Config.for_tier(options.tier, **chosen)
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
    from sppo_lab.experiment import evaluate_run

    if options.samples < 1 or (options.prompts is not None and options.prompts < 1):
        raise LabError("--samples and --prompts must be at least 1.")
    report = evaluate_run(options.folder, options.samples, options.prompts, options.step).report()
    if not options.json:
        for name, value in report.items():
            if not name.endswith("_interval"):
                print(f"{name:>12}  {_shown(value)}{_shown_interval(report.get(f'{name}_interval'))}")
    return report


def run_show(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.experiment import writing
    from sppo_lab.figures import run_figure
    from sppo_lab.recorder import Recorder

    recorder = Recorder.open(options.folder)
    path = Path(options.out or recorder.folder / "figure.png")
    with writing(path.parent):
        run_figure(recorder).savefig(path, dpi=120)
    if not options.json:
        print(path)
    return {"figure": str(path)}


def run_study_command(options: argparse.Namespace) -> dict[str, Any]:
    from sppo_lab.study import StudyPlan, run_study

    plan = StudyPlan(
        options.algorithms, parse_seeds(options.seeds), chosen_settings(options), options.rates, options.budget
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
    from sppo_lab.study import read_study

    summary, metrics = read_study(options.folder)
    table = report_table(summary, metrics, options.target)
    found, variance, accuracies = verdict(summary) if summary["lr"].nunique() == 1 else (None, None, {})
    if not options.json:
        print(table.to_string(index=False))
        if found is None:
            print("\nNo verdict: it needs one learning rate, and sppo, ppo and a group method such as grpo.")
        else:
            print(f"\nAdvantage variance, sppo minus ppo: {variance}")
            for name, difference in accuracies.items():
                print(f"Accuracy, sppo minus {name}: {difference}")
            print(f"The claim that SPPO's variance does no harm, by these intervals: {found}")
    return {"table": table.to_dict("records"), "verdict": found}


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


def resume_hint(options: argparse.Namespace) -> str:
    """How to go on after Ctrl-C, where there is something to go on with."""
    if options.command == "study":
        return " Give the same command again to go on."
    if options.command not in ("train", "demo") or not (Path(options.out) / "config.json").exists():
        return ""
    saved = (Path(options.out) / "checkpoints").exists()
    state = "Everything is saved; go on with" if saved else "No step was trained yet; begin again with"
    return f" {state}: python -m sppo_lab {options.command} --out {options.out} --resume"


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
