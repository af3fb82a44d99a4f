"""The command line: ``python -m sppo_lab COMMAND``."""

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sppo_lab import __version__
from sppo_lab.commands import (
    run_bench_command,
    run_budget,
    run_evaluate,
    run_export,
    run_lens,
    run_publish,
    run_push,
    run_report,
    run_show,
    run_study_command,
    run_train,
    run_verify,
)
from sppo_lab.config import TIERS, Config, describe_limits, field_type, is_switch, is_text, option
from sppo_lab.errors import LabError
from sppo_lab.processes import launched

PATHS = ("data", "test_data")
MAIN_SETTINGS = ("algorithm", "task", "data", "test_data", "model", "seed", "steps")
SUPPRESS = argparse.SUPPRESS


def alike(option: str, parser: argparse.ArgumentParser) -> str:
    """What was probably meant by an option that is not there, as the end of a sentence; empty if nothing is close."""
    known = [name for action in parser._actions for name in action.option_strings]
    close = difflib.get_close_matches(option.split("=")[0], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for a mistake the user can mend, 130 when interrupted."""
    options, unknown = build_parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"there is no option {unknown[0]}{alike(unknown[0], options.parser)}")
    try:
        with one_voice(options.command):
            result = options.run(options)
            if options.json:
                print(json.dumps(result))
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nInterrupted.{resume_hint(options)}", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def one_voice(command: str) -> Iterator[None]:
    """Where ``accelerate launch`` started several processes, only the first of them speaks.

    LabError for a command that would be done as often as there are processes.
    """
    number, processes = launched()
    if processes > 1 and command != "train":
        raise LabError(f"accelerate launch runs train on several processes; start {command} without it.")
    if number == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


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

    budget = add_command(commands, "budget", run_budget, "say what a run will need, memory and time, before it")
    budget.add_argument("--measure", action="store_true", help="also run four real steps, and compare")
    add_tier(budget)
    add_settings(budget)

    evaluate = add_command(
        commands, "evaluate", run_evaluate, "measure a policy on its test problems, or on benchmarks by name"
    )
    whose = evaluate.add_mutually_exclusive_group(required=True)
    whose.add_argument("--run", metavar="DIR", dest="folder", help="directory of a run")
    whose.add_argument("--model", metavar="NAME", help="a model as it is, without a run (needs --benchmarks)")
    evaluate.add_argument(
        "--benchmarks",
        nargs="+",
        metavar="NAME[=FILE]",
        help="paper (aime24, aime25, amc23, math500 and minerva), or any of the tasks; with a file, its problems",
    )
    evaluate.add_argument("--samples", type=int, default=16, metavar="K", help="responses per prompt (default: 16)")
    evaluate.add_argument(
        "--prompts", type=int, metavar="N", help="test prompts to use (default: as in training; of a benchmark, all)"
    )
    evaluate.add_argument("--step", type=int, metavar="N", help="checkpoint of this step (default: the newest)")
    benchmarks = evaluate.add_argument_group("with --benchmarks")
    benchmarks.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest response (default: as in training)"
    )
    benchmarks.add_argument("--temperature", type=float, metavar="T", help="default: as in training")
    benchmarks.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="responses written at once (default: %(default)s)"
    )
    benchmarks.add_argument(
        "--out", metavar="DIR", help="where benchmarks.json and .csv go (default: the run; of a model, nowhere)"
    )

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
    study.add_argument(
        "--rates-from", metavar="DIR", help="a study that searched: each algorithm gets its best learning rate there"
    )
    add_tier(study)
    study.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one per core)")
    add_settings(study, leave_out=("algorithm", "seed", "lr"))

    report = add_command(commands, "report", run_report, "compare the algorithms of a study: table, verdict and figure")
    report.add_argument("--study", required=True, metavar="DIR", dest="folder", help="directory of the study")
    report.add_argument("--out", metavar="DIR", help="where report.csv and report.png go (default: into the study)")
    report.add_argument("--target", type=float, default=0.7, help="accuracy whose cost is compared (default: 0.7)")

    lens = add_command(
        commands, "lens", run_lens, "measure where a run's variance comes from, and keep the record for its pictures"
    )
    lens.add_argument("--run", required=True, metavar="DIR", dest="folder", help="directory of a run of sppo")
    lens.add_argument(
        "--token-runs", nargs="+", default=[], metavar="DIR", help="runs of ppo or ppo-bce, for V along the response"
    )
    lens.add_argument(
        "--step", type=int, metavar="N", help="compare the gradients at this checkpoint (default: newest)"
    )
    lens.add_argument("--algorithms", nargs="+", metavar="NAME", help="whose gradients to compare (default: eight)")
    lens.add_argument("--repeats", type=int, default=40, metavar="N", help="batches per algorithm (default: 40)")
    lens.add_argument("--out", required=True, metavar="DIR", help="directory of the record")

    export = add_command(commands, "export", run_export, "write what another trainer needs to go on with a run")
    export.add_argument("trainer", choices=("verl",), help="verl 0.9.1, on Ray, FSDP and vLLM")
    export.add_argument("--run", required=True, metavar="DIR", dest="folder", help="directory of the run")
    export.add_argument("--out", required=True, metavar="DIR", help="directory of the export, absent or empty")
    export.add_argument("--step", type=int, metavar="N", help="checkpoint of this step (default: the newest)")

    push = add_command(commands, "push", run_push, "write a run's adapter with a model card, and upload it to the hub")
    push.add_argument("--run", required=True, metavar="DIR", dest="folder", help="directory of the run")
    push.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository on the hub; made if absent")
    push.add_argument("--step", type=int, metavar="N", help="checkpoint of this step (default: the newest)")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--dry-run", metavar="DIR", help="write the folder there and upload nothing")

    bench = add_command(commands, "bench", run_bench_command, "measure the loop's speed and memory beside TRL's")
    bench.add_argument("--model", default="tiny", metavar="NAME", help="as in train (default: %(default)s)")
    bench.add_argument(
        "--responses", nargs="+", type=int, default=[64], metavar="N", help="responses per batch (default: 64)"
    )
    bench.add_argument(
        "--lengths",
        nargs="+",
        default=["ragged"],
        metavar="N",
        help="tokens that every response has; ragged: as the model ends them (the default)",
    )
    bench.add_argument("--batches", type=int, default=8, metavar="N", help="measured each time (default: %(default)s)")
    bench.add_argument("--continuous", action="store_true", help="let transformers' continuous batching sample as well")
    bench.add_argument("--repeats", type=int, default=3, metavar="N", help="default: %(default)s")
    bench.add_argument("--out", metavar="DIR", help="where the table and the picture go (default: nowhere)")

    publish = add_command(commands, "publish", run_publish, "write the notebooks' copies from their masters")
    publish.add_argument("--notebooks", default="notebooks", metavar="DIR", help="default: %(default)s")
    publish.add_argument(
        "--repo",
        metavar="OWNER/NAME",
        help='place on GitHub, for the set-up cells and the Colab badges; "" for none (default: as it is)',
    )
    publish.add_argument("--html", metavar="DIR", help="also run the students' copies and write them there as pages")

    verify = add_command(commands, "verify", run_verify, "judge responses against answers, without any model")
    verify.add_argument("--task", required=True, help="whose verifier, as in train: chain-sum, gsm8k, math, …")
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
    add_tier(command)
    add_settings(command)


def add_tier(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tier", choices=TIERS, default="tiny", help="set of defaults; what gpu sets is listed below")
    command.epilog = "--tier gpu, for a real model, sets: " + ", ".join(
        f"{option(name)} {value}" for name, value in TIERS["gpu"].items()
    )


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


def resume_hint(options: argparse.Namespace) -> str:
    """How to go on after Ctrl-C, where there is something to go on with."""
    if options.command == "study":
        return " Give the same command again to go on."
    if options.command not in ("train", "demo") or not (Path(options.out) / "config.json").exists():
        return ""
    saved = (Path(options.out) / "checkpoints").exists()
    state = "Everything is saved; go on with" if saved else "No step was trained yet; begin again with"
    return f" {state}: python -m sppo_lab {options.command} --out {options.out} --resume"
