"""The command line: flags become a JobConfig, one call, and an exit code. No work here, no heavy import above.

Exit codes: 0 done · 1 stopped by an error · 2 the command or the recipe is wrong · 3 done, but some shards are
damaged · 130 interrupted; the same command goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs import __version__
from jobs.errors import ConfigError, JobError

DONE, FAILED, WRONG, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can act on are two lines on stderr, never a traceback."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.command(args)
        return code
    except ConfigError as exc:
        return _fail(exc, WRONG)
    except JobError as exc:
        return _fail(exc, FAILED)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coyo-jobs",
        description="Give every image of a corpus its labels and embeddings, once.",
        epilog="exit codes: 0 done, 1 stopped by an error, 2 wrong command or recipe, 3 done with damaged shards, "
        "130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"coyo-jobs {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="print a commented recipe", description="Print a commented recipe to edit.")
    init.add_argument("source", metavar="INPUT", help="folder, file, glob or braces; local or s3://")
    init.add_argument("output", metavar="OUTPUT", help="folder that the job will own; local or s3://")
    init.set_defaults(command=_init)

    run = commands.add_parser(
        "run", help="run a job, or go on with it", description="Run a job, or go on where an earlier run stopped."
    )
    run.add_argument("recipe", metavar="RECIPE", help="a YAML file; coyo-jobs init writes one")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="such as models.vit.top_k=3; repeatable",
    )
    run.set_defaults(command=_run)

    report = commands.add_parser(
        "report", help="draw a contact sheet of a finished output",
        description="Draw pictures of a finished output with their top labels and best-matching texts.",
    )  # fmt: skip
    report.add_argument("output", metavar="OUTPUT", help="the job's output folder")
    report.add_argument("--rows", type=int, default=24, help="pictures on the sheet (24)")
    report.add_argument(
        "--to", default="contact_sheet.png", metavar="FILE", help="where to write the PNG (contact_sheet.png)"
    )
    report.set_defaults(command=_report)

    demo = commands.add_parser(
        "demo", help="draw a small corpus, run the main job on it, show the result",
        description="Draw a small corpus, run the main job on it with the embedded checkpoints, show the result.",
    )  # fmt: skip
    demo.add_argument("folder", nargs="?", default="demo", metavar="FOLDER", help="where to put it all (demo)")
    demo.add_argument("--shards", type=int, default=8, help="shards to draw (8)")
    demo.add_argument("--rows-per-shard", type=int, default=100, help="rows of each (100)")
    demo.set_defaults(command=_demo)
    return parser


def _init(args: argparse.Namespace) -> int:
    from jobs.recipe import recipe

    print(recipe(args.source, args.output), end="")
    return DONE


def _run(args: argparse.Namespace) -> int:
    from jobs.config import JobConfig
    from jobs.run import run

    summary = run(JobConfig.load(args.recipe, args.set))
    print(summary)
    return DAMAGED if summary.damaged_shards else DONE


def _report(args: argparse.Namespace) -> int:
    from jobs.report import contact_sheet

    print(contact_sheet(args.output, args.to, args.rows))
    return DONE


def _demo(args: argparse.Namespace) -> int:
    from jobs.demo.show import show

    show(args.folder, args.shards, args.rows_per_shard)
    return DONE


def _fail(exc: JobError, code: int) -> int:
    print(f"error: {exc.message}", file=sys.stderr)
    if exc.hint:
        print(f"  hint: {exc.hint}", file=sys.stderr)
    return code
