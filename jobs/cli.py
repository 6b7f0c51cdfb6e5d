"""The command line: flags become a JobConfig, one call, and an exit code. No work here, no heavy import above.

Exit codes: 0 done · 1 stopped by an error · 2 the command or the recipe is wrong · 3 done, but some shards are
damaged · 130 interrupted; the same command goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs import __version__
from jobs.errors import ConfigError, Interrupted, JobError, SetAside

DONE, FAILED, WRONG, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can act on are two lines on stderr, never a traceback."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.command(args)
        return code
    except ConfigError as exc:
        return _fail(exc, WRONG)
    except SetAside as exc:
        return _fail(exc, DAMAGED)
    except Interrupted as exc:
        return _fail(exc, INTERRUPTED)
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

    run.add_argument("--part", metavar="I/N", help="only the shards of part I of N; N runs make one output, anywhere")

    status = commands.add_parser("status", help="where a job is", description="Where a job is, from its output alone.")
    status.add_argument("output", metavar="OUTPUT", help="the job's output folder")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(command=_status)

    verify = commands.add_parser(
        "verify", help="prove an output", description="Prove that an output is whole and right."
    )
    verify.add_argument("output", metavar="OUTPUT", help="the job's output folder")
    verify.add_argument("--deep", action="store_true", help="check every value, not only the footers")
    verify.add_argument(
        "--sample", type=int, default=0, metavar="N", help="compute N rows again with plain transformers"
    )
    verify.add_argument("--json", action="store_true", help="as JSON")
    verify.set_defaults(command=_verify)

    retry = commands.add_parser(
        "retry", help="compute rejected rows again",
        description="Compute the rows again that were rejected for the named reasons, and only those.",
    )  # fmt: skip
    retry.add_argument("output", metavar="OUTPUT", help="the job's output folder")
    retry.add_argument(
        "--reason", action="append", default=[], help="a reason; repeatable (default: the transient ones)"
    )
    retry.set_defaults(command=_retry)

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
    from jobs.plan import Part
    from jobs.run import run

    config = JobConfig.load(args.recipe, args.set)
    summary = run(config, Part.parse(args.part) if args.part else None)
    print(summary)
    return DAMAGED if summary.damaged_shards else DONE


def _status(args: argparse.Namespace) -> int:
    from jobs.status import status

    said, healthy = status(args.output, as_json=args.json)
    print(said)
    return DONE if healthy else FAILED


def _verify(args: argparse.Namespace) -> int:
    from jobs.verify import show, to_json, verify

    checks = verify(args.output, deep=args.deep, sample=args.sample)
    print(to_json(checks) if args.json else show(checks))
    return DONE if all(check.ok for check in checks) else FAILED


def _retry(args: argparse.Namespace) -> int:
    from jobs.retry import retry

    print(retry(args.output, args.reason))
    return DONE


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
