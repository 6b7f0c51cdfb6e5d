"""Commands that talk to the job server of a Ray cluster. `status` needs a cluster only for a submission id.

Exit codes are those of jobs.cli. `submit --wait` returns the exit code of the submitted run; `status` returns 1 if the
job failed or shows no sign of life.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

Add = Callable[..., argparse.ArgumentParser]


def add_commands(commands: Any, add: Add, add_recipe: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add each command and its flags. `add` creates a command; `add_recipe` adds the flags of `run` to it."""
    submit = add(
        commands,
        "submit",
        _submit,
        "run a job on a Ray cluster, or continue one that stopped; prints the submission id",
    )
    add_recipe(submit)
    submit.add_argument("--wait", action="store_true", help="print the log until the run ends; exit with its exit code")
    submit.add_argument("--id", metavar="ID", help="submission id (default: made from output name and time)")
    submit.add_argument(
        "--env", action="append", default=[], metavar="NAME", help="environment variable to forward; repeatable"
    )
    submit.add_argument(
        "--no-credentials", action="store_true", help="do not forward AWS_* and HF_TOKEN: the nodes have their own"
    )
    submit.add_argument(
        "--installed", action="store_true", help="do not upload the code: the cluster has this version installed"
    )
    submit.add_argument(
        "--shared-paths", action="store_true", help="local paths name the same folders here and on every node"
    )
    status = add(commands, "status", _status, "show progress of a job, from its output folder or its submission id")
    status.add_argument(
        "output", metavar="OUTPUT|ID", help="output folder of the job, its recipe, or its submission id"
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    listing = add(commands, "list", _list, "list submissions of coyo-jobs, newest first")
    logs = add(commands, "logs", _logs, "print a submission's log")
    logs.add_argument("-f", "--follow", action="store_true", help="print new lines until the submission ends")
    stop = add(
        commands, "stop", _stop, "stop a submission in order and wait until it has ended; submit again to continue"
    )
    for command in (logs, stop):
        command.add_argument("id", metavar="ID", help="submission id, as printed by submit and list")
    for command in (submit, status, listing, logs, stop):
        _add_head(command)


def _add_head(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address", metavar="URL", help="job server, http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS)"
    )
    command.add_argument(
        "--verify",
        default="true",
        metavar="FILE",
        help="CA certificates for https://, or false to accept any certificate",
    )


def _submit(args: argparse.Namespace) -> int:
    from jobs.commands import submit
    from jobs.driver.tasks import Partition
    from jobs.recipe import load_recipe

    config, part = load_recipe(args.recipe, args.set), Partition.parse(args.part) if args.part else Partition()
    options = submit.SubmitOptions(
        args.id, args.env, not args.no_credentials, args.installed, args.shared_paths, args.log
    )
    head = submit.reach(args.address, args.verify)
    id = submit.submit(config, part, head, options)
    print(id, flush=True)
    return submit.wait(head, id) if args.wait else 0


def _status(args: argparse.Namespace) -> int:
    from jobs.commands.status import status

    if _is_submission_id(args.output, args.address):
        from jobs.commands import submit

        head = submit.reach(args.address, args.verify)
        text, healthy = submit.status(head, args.output, as_json=args.json)
    else:
        text, healthy = status(args.output, as_json=args.json)
    print(text)
    return 0 if healthy else 1


def _is_submission_id(name: str, address: str | None) -> bool:
    """Return whether `name` is a submission id: it has no slash, and a cluster is given.

    If only the environment gives a cluster, the name of an existing folder is an output.
    """
    if "/" in name or address:
        return "/" not in name
    if os.path.exists(name):
        return False
    from cluster.submit import default_address

    return default_address() is not None


def _list(args: argparse.Namespace) -> int:
    from jobs.commands import submit

    print(submit.format_table(submit.list_submissions(submit.reach(args.address, args.verify))))
    return 0


def _logs(args: argparse.Namespace) -> int:
    from jobs.commands import submit

    head = submit.reach(args.address, args.verify)
    empty = True
    for text in submit.follow(head, args.id) if args.follow else [submit.log(head, args.id)]:
        print(text, end="", flush=True)
        empty = empty and not text
    if empty:  # a submission that failed to start has no log, only a message of Ray
        print(f"{args.id}: no log; {submit.describe(submit.get_submission(head, args.id))}", file=sys.stderr)
    return 0


def _stop(args: argparse.Namespace) -> int:
    from jobs.commands import submit

    print(submit.describe(submit.stop(submit.reach(args.address, args.verify), args.id)))
    return 0
