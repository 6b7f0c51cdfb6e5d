"""The command line: parse the flags, make one call, return an exit code. A command imports what it needs when it runs.

Exit codes: 0 done, 1 failed, 2 invalid command or recipe, 3 done with damaged shards or stopped with shards set aside,
130 interrupted; the same command continues.
"""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobs import __version__, log
from jobs.cli import cluster
from jobs.errors import ClusterError, ConfigError, Interrupted, JobError, ShardsSetAside

DONE, FAILED, USAGE_ERROR, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130
EXPORT_FORMATS = ("coyo-labeled", "clip-retrieval", "hf")  # a copy of jobs.exports.FORMS: that import is slow


def entry() -> None:
    """Run the command and exit. Freeze the garbage collector first: with torch and Ray it saves a second at exit."""
    code = main()
    gc.freeze()
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A JobError prints as two lines on stderr, without a traceback."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)  # treat a scheduler's SIGTERM like Ctrl-C
    # Otherwise Ray's C++ code handles SIGTERM: it prints a stack trace and aborts. Ray reads this when it is imported.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    with log.to_stderr(getattr(args, "log", "text")):
        return _run_command(args)


def _run_command(args: argparse.Namespace) -> int:
    try:
        code: int = args.command(args)
        return code
    except ConfigError as exc:
        return _fail(exc, USAGE_ERROR)
    except ShardsSetAside as exc:
        return _fail(exc, DAMAGED)
    except Interrupted as exc:
        return _fail(exc, INTERRUPTED, "stopped")
    except JobError as exc:
        return _fail(exc, FAILED)
    except KeyboardInterrupt:
        message = "interrupted; run the same command to continue"
        log.say("stopped", message, line=f"\n{message}", level=logging.ERROR, code=INTERRUPTED)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coyo-jobs",
        description="Compute labels and embeddings for every image of a corpus, exactly once.",
        epilog="exit codes: 0 done, 1 failed, 2 invalid command or recipe, 3 done with damaged shards or stopped with "
        "shards set aside, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"coyo-jobs {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_running(commands)
    _add_inspection(commands)
    _add_exports(commands)
    cluster.add_commands(commands, _add, partial(_add_recipe, parts=True))
    return parser


def _add_running(commands: Any) -> None:
    init = _add(commands, "init", _init, "print a recipe with comments, to edit")
    init.add_argument("source", metavar="INPUT", help="folder, file, glob or brace pattern; local, s3:// or hf://")
    init.add_argument("output", metavar="OUTPUT", help="output folder, used by this job only; local or s3://")

    run = _add(commands, "run", _run, "run a job, or continue one that stopped")
    _add_recipe(run, parts=True)
    accept = "exit with 0 instead of 3 if shards are damaged, for schedulers that would rerun the job"
    run.add_argument("--accept-damage", action="store_true", help=accept)

    plan = _add(commands, "plan", _plan, "estimate time, bytes and cost from a trial on a few rows; writes nothing")
    _add_recipe(plan)
    plan.add_argument("--rows", type=_positive, default=256, help="rows of the trial (default: 256)")
    plan.add_argument("--gpus", type=_positive, help="GPUs of the job (default: this machine's)")
    plan.add_argument("--cpus", type=_positive, help="CPU cores of the job (default: this machine's)")
    plan.add_argument("--price", type=float, help="price of one GPU hour")
    plan.add_argument("--json", action="store_true", help="print JSON")

    _add_recipe(_add(commands, "doctor", _doctor, "check that a job can run; suggest fixes"))

    retry = _add(commands, "retry", _retry, "recompute rows that were rejected for the given reasons")
    retry.add_argument("output", metavar="OUTPUT", help="output folder of the job, or its recipe")
    retry.add_argument("--reason", action="append", default=[], help="repeatable (default: all transient reasons)")
    _add_log(retry)

    demo = _add(commands, "demo", _demo, "draw a small corpus, run a job on it, show the results")
    demo.add_argument(
        "folder", nargs="?", default="demo", metavar="FOLDER", help="folder for corpus and results (default: demo)"
    )
    demo.add_argument("--shards", type=_positive, default=8, help="shards to draw (default: 8)")
    demo.add_argument("--rows-per-shard", type=_positive, default=100, help="rows per shard (default: 100)")


def _add_inspection(commands: Any) -> None:
    verify = _add(commands, "verify", _verify, "check that an output is complete and correct")
    report = _add(
        commands, "report", _report, "draw a contact sheet: images with their top labels and best-matching texts"
    )
    for command in (verify, report):
        command.add_argument("output", metavar="OUTPUT", help="output folder of the job, or its recipe")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.add_argument("--deep", action="store_true", help="check every value, not only the footers")
    verify.add_argument(
        "--sample", type=_positive, default=0, metavar="N", help="recompute N rows with plain transformers and compare"
    )
    report.add_argument("--rows", type=_positive, default=24, help="images on the sheet (default: 24)")
    report.add_argument(
        "--to", default="contact_sheet.png", metavar="FILE", help="image file to write (default: contact_sheet.png)"
    )


def _add_recipe(command: argparse.ArgumentParser, *, parts: bool = False) -> None:
    command.add_argument(
        "recipe", metavar="RECIPE", help="recipe: a YAML file, local or s3://; coyo-jobs init prints one"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, e.g. models.vit.top_k=3; repeatable",
    )
    if parts:
        part = "process only part I of N of the shards; N such runs, on any machines, complete one output"
        command.add_argument("--part", metavar="I/N", help=part)
        _add_log(command)


def _add_log(command: argparse.ArgumentParser) -> None:
    forms = "log format on stderr: text, or json with one event per line (default: text)"
    command.add_argument("--log", choices=log.FORMATS, default="text", help=forms)


def _add_exports(commands: Any) -> None:
    export = _add(commands, "export", _export, "convert a finished output to a format of other tools")
    export.add_argument("form", metavar="FORM", choices=EXPORT_FORMATS, help=f"one of {', '.join(EXPORT_FORMATS)}")
    join = _add(commands, "join", _join, "add the results of a finished output to metadata files")
    for command in (export, join):
        command.add_argument("output", metavar="OUTPUT", help="output folder of the job, or its recipe")
    join.add_argument(
        "metadata", metavar="METADATA", help="Parquet files with ids or urls: folder, file, glob or brace pattern"
    )
    for command in (export, join):
        command.add_argument("to", metavar="TO", help="destination folder, used for nothing else; local or s3://")
    export.add_argument(
        "--rows-per-file", type=_positive, default=32_768, help="rows per file, and in memory at once (default: 32768)"
    )
    join.add_argument(
        "--columns", type=_names, default=[], help="results to add, e.g. labels,label_probs (default: all)"
    )


def _add(
    commands: Any, name: str, command: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(command=command)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _init(args: argparse.Namespace) -> int:
    from jobs.recipe import recipe_template

    print(recipe_template(args.source, args.output), end="")
    return DONE


def _run(args: argparse.Namespace) -> int:
    from jobs.driver.tasks import Partition
    from jobs.recipe import load_recipe
    from jobs.run import run

    if os.environ.get("COYO_JOBS_VERSION", __version__) != __version__:  # set by coyo-jobs submit
        raise ClusterError(
            f"submitted by coyo-jobs {os.environ['COYO_JOBS_VERSION']}; this is {__version__}",
            "use an image with that version, or submit without --installed",
        )
    config = load_recipe(args.recipe, args.set)
    summary = run(config, Partition.parse(args.part) if args.part else None)
    print(summary)
    return DAMAGED if summary.damaged_shards and not args.accept_damage else DONE


def _plan(args: argparse.Namespace) -> int:
    from jobs.commands.plan import forecast
    from jobs.recipe import load_recipe

    config = load_recipe(args.recipe, args.set)
    estimate = forecast(config, rows=args.rows, gpus=args.gpus, cpus=args.cpus, price=args.price)
    print(estimate.to_json() if args.json else estimate)
    return DONE


def _doctor(args: argparse.Namespace) -> int:
    from jobs.commands.doctor import examine
    from jobs.recipe import load_recipe

    healthy = True
    for finding in examine(load_recipe(args.recipe, args.set)):
        print(finding, flush=True)
        healthy &= finding.ok
    return DONE if healthy else FAILED


def _verify(args: argparse.Namespace) -> int:
    from jobs.commands.verify import show, to_json, verify

    checks = verify(args.output, deep=args.deep, sample=args.sample)
    print(to_json(checks) if args.json else show(checks))
    return DONE if all(check.ok for check in checks) else FAILED


def _retry(args: argparse.Namespace) -> int:
    from jobs.commands.retry import retry

    summary = retry(args.output, args.reason)
    print(summary)
    return DAMAGED if summary.damaged_shards else DONE


def _report(args: argparse.Namespace) -> int:
    from jobs.commands.report import write_contact_sheet

    print(write_contact_sheet(args.output, args.to, args.rows))
    return DONE


def _export(args: argparse.Namespace) -> int:
    from jobs.exports import export

    print(export(args.form, args.output, args.to, args.rows_per_file))
    return DONE


def _join(args: argparse.Namespace) -> int:
    from jobs.exports.join import join

    print(join(args.output, args.metadata, args.to, args.columns))
    return DONE


def _demo(args: argparse.Namespace) -> int:
    from jobs.demo.show import run_demo

    run_demo(args.folder, args.shards, args.rows_per_shard)
    return DONE


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _fail(exc: JobError, code: int, event: str = "error") -> int:
    fields = {"error": type(exc).__name__, "hint": exc.hint, "code": code, **exc.log_fields}
    log.say(event, exc.message, line=f"error: {exc}", level=logging.ERROR, **fields)
    return code
