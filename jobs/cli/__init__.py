"""The command line: flags become a JobConfig, one call, and an exit code. No work here, no heavy import above.

Exit codes: 0 done · 1 stopped by an error · 2 the command or the recipe is wrong · 3 done, but some shards are
damaged · 130 interrupted; the same command goes on where it was.
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
from jobs.errors import ClusterError, ConfigError, Interrupted, JobError, SetAside

DONE, FAILED, WRONG, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130
FORMS = ("coyo-labeled", "clip-retrieval", "hf")  # as jobs.exports has them, which takes too long to import here


def entry() -> None:
    """The command. What was imported is not taken apart at its end: with torch and Ray that takes a second."""
    code = main()
    gc.freeze()
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can act on are two lines on stderr, never a traceback."""
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)  # a scheduler that stops a job means what Ctrl-C means
    # Ray's C++ part would take it over, for a trace and an abort. Read when Ray is imported.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    with log.to_stderr(getattr(args, "log", "text")):
        return _ended(args)


def _ended(args: argparse.Namespace) -> int:
    try:
        code: int = args.command(args)
        return code
    except ConfigError as exc:
        return _fail(exc, WRONG)
    except SetAside as exc:
        return _fail(exc, DAMAGED)
    except Interrupted as exc:
        return _fail(exc, INTERRUPTED, "stopped")
    except JobError as exc:
        return _fail(exc, FAILED)
    except KeyboardInterrupt:
        said = "interrupted; the same command goes on where it was"
        log.say("stopped", said, line=f"\n{said}", level=logging.ERROR, code=INTERRUPTED)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coyo-jobs",
        description="Give every image of a corpus its labels and embeddings, once.",
        epilog="exit codes: 0 done, 1 stopped by an error, 2 wrong command or recipe, 3 done with damaged shards or "
        "shards set aside, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"coyo-jobs {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_runners(commands)
    _add_readers(commands)
    _add_exits(commands)
    cluster.add(commands, _add, partial(_add_recipe, parts=True))
    return parser


def _add_runners(commands: Any) -> None:
    init = _add(commands, "init", _init, "print a commented recipe to edit")
    init.add_argument("source", metavar="INPUT", help="folder, file, glob or braces; local, s3:// or hf://")
    init.add_argument("output", metavar="OUTPUT", help="folder that the job will own; local or s3://")

    run = _add(commands, "run", _run, "run a job, or go on where an earlier run stopped")
    _add_recipe(run, parts=True)
    accepts = "exit code 0, not 3, where shards are damaged: for what would run the job again"
    run.add_argument("--accept-damage", action="store_true", help=accepts)

    plan = _add(commands, "plan", _plan, "what a job will take, from a trial of a few rows; writes nothing")
    _add_recipe(plan)
    plan.add_argument("--rows", type=_positive, default=256, help="rows to try (256)")
    plan.add_argument("--gpus", type=_positive, help="GPUs the job will have (those of this machine)")
    plan.add_argument("--cpus", type=_positive, help="CPU cores it will have (those of this machine)")
    plan.add_argument("--price", type=float, help="of a GPU for an hour")
    plan.add_argument("--json", action="store_true", help="as JSON")

    _add_recipe(_add(commands, "doctor", _doctor, "look at all a job needs, and say what to do where it is missing"))

    retry = _add(commands, "retry", _retry, "compute again the rows that were rejected for the named reasons")
    retry.add_argument("output", metavar="OUTPUT", help="the job's output folder, or its recipe")
    retry.add_argument("--reason", action="append", default=[], help="repeatable (default: the transient ones)")
    _add_log(retry)

    demo = _add(commands, "demo", _demo, "draw a small corpus, run the main job on it, show the result")
    demo.add_argument("folder", nargs="?", default="demo", metavar="FOLDER", help="where to put it all (demo)")
    demo.add_argument("--shards", type=_positive, default=8, help="shards to draw (8)")
    demo.add_argument("--rows-per-shard", type=_positive, default=100, help="rows of each (100)")


def _add_readers(commands: Any) -> None:
    verify = _add(commands, "verify", _verify, "prove that an output is whole and right")
    report = _add(commands, "report", _report, "draw pictures with their top labels and best-matching texts")
    for command in (verify, report):
        command.add_argument("output", metavar="OUTPUT", help="the job's output folder, or its recipe")
    verify.add_argument("--json", action="store_true", help="as JSON")
    verify.add_argument("--deep", action="store_true", help="check every value, not only the footers")
    verify.add_argument(
        "--sample", type=_positive, default=0, metavar="N", help="compute N rows again with plain transformers"
    )
    report.add_argument("--rows", type=_positive, default=24, help="pictures on the sheet (24)")
    report.add_argument("--to", default="contact_sheet.png", metavar="FILE", help="the picture (contact_sheet.png)")


def _add_recipe(command: argparse.ArgumentParser, *, parts: bool = False) -> None:
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, local or s3://; coyo-jobs init writes one")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="models.vit.top_k=3; repeatable"
    )
    if parts:
        help_ = "only the shards of part I of N; N runs make one output, anywhere"
        command.add_argument("--part", metavar="I/N", help=help_)
        _add_log(command)


def _add_log(command: argparse.ArgumentParser) -> None:
    help_ = "what stderr gets: text for people, or json, one event a line"
    command.add_argument("--log", choices=log.FORMS, default="text", help=help_)


def _add_exits(commands: Any) -> None:
    export = _add(commands, "export", _export, "write a finished output in a form that other tools take")
    export.add_argument("form", metavar="FORM", choices=FORMS, help=f"one of {', '.join(FORMS)}")
    join = _add(commands, "join", _join, "add a finished output's results to its corpus's metadata")
    for command in (export, join):
        command.add_argument("output", metavar="OUTPUT", help="the job's output folder, or its recipe")
    join.add_argument(
        "metadata", metavar="METADATA", help="Parquet files with ids or urls: folder, file, glob or braces"
    )
    for command in (export, join):
        command.add_argument("to", metavar="TO", help="a folder of its own; local or s3://")
    export.add_argument("--rows-per-file", type=_positive, default=32_768, help="rows in memory at once, too (32768)")
    join.add_argument("--columns", type=_names, default=[], help="results to add, as labels,label_probs (default: all)")


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], int], says: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
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

    if os.environ.get("COYO_JOBS_VERSION", __version__) != __version__:  # what submitted it says so
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
    found = forecast(config, rows=args.rows, gpus=args.gpus, cpus=args.cpus, price=args.price)
    print(found.to_json() if args.json else found)
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
    from jobs.commands.report import contact_sheet

    print(contact_sheet(args.output, args.to, args.rows))
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
    about = {"error": type(exc).__name__, "hint": exc.hint, "code": code, **exc.about}
    log.say(event, exc.message, line=f"error: {exc}", level=logging.ERROR, **about)
    return code
