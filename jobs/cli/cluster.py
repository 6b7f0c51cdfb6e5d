"""The commands that talk to a cluster's head; status too, which needs none where an output is named.

Exit codes as in cli.py: with `submit --wait` the submitted run's own, else 0, and 1 for what is not well.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

Add = Callable[..., argparse.ArgumentParser]


def add(commands: Any, add: Add, add_recipe: Callable[[argparse.ArgumentParser], None]) -> None:
    """Each command and its flags; `add` makes one, `add_recipe` gives it the flags of `run`."""
    submit = add(commands, "submit", _submit, "run a job on a Ray cluster, or go on where it stopped; prints its id")
    add_recipe(submit)
    submit.add_argument("--wait", action="store_true", help="show its log, and end with its exit code")
    submit.add_argument("--id", metavar="ID", help="its name on the cluster (made of the output's and the time)")
    submit.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable to forward; repeatable")
    submit.add_argument(
        "--no-credentials", action="store_true", help="forward no AWS_* and HF_TOKEN: the nodes have their own"
    )
    submit.add_argument("--installed", action="store_true", help="send no code: the cluster has this version")
    submit.add_argument("--shared-paths", action="store_true", help="local paths are the same on every node and here")
    status = add(commands, "status", _status, "where a job is, from its output alone, or from a cluster too")
    status.add_argument("output", metavar="OUTPUT|ID", help="a job's output folder, its recipe, or its id on a cluster")
    status.add_argument("--json", action="store_true", help="as JSON")
    listing = add(commands, "list", _list, "the submissions that a cluster remembers, the newest first")
    logs = add(commands, "logs", _logs, "what a submission said")
    logs.add_argument("-f", "--follow", action="store_true", help="until it ends")
    stop = add(commands, "stop", _stop, "end a submission cleanly, and wait for that; submit again to go on")
    for command in (logs, stop):
        command.add_argument("id", metavar="ID", help="as submit and list print it")
    for command in (submit, status, listing, logs, stop):
        _add_head(command)


def _add_head(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address", metavar="URL", help="the head's job server, http://HEAD:8265 (RAY_API_SERVER_ADDRESS, RAY_ADDRESS)"
    )
    command.add_argument(
        "--verify", default="true", metavar="FILE", help="certificates to trust with https://, or false to trust any"
    )


def _submit(args: argparse.Namespace) -> int:
    from jobs.commands import submit
    from jobs.driver.tasks import Partition
    from jobs.recipe import load_recipe

    config, part = load_recipe(args.recipe, args.set), Partition.parse(args.part) if args.part else Partition()
    how = submit.SubmitOptions(args.id, args.env, not args.no_credentials, args.installed, args.shared_paths, args.log)
    head = submit.reach(args.address, args.verify)
    id = submit.submit(config, part, head, how)
    print(id, flush=True)
    return submit.wait(head, id) if args.wait else 0


def _status(args: argparse.Namespace) -> int:
    from jobs.commands.status import status

    if _names_a_submission(args.output, args.address):
        from jobs.commands import submit

        head = submit.reach(args.address, args.verify)
        said, healthy = submit.status(head, args.output, as_json=args.json)
    else:
        said, healthy = status(args.output, as_json=args.json)
    print(said)
    return 0 if healthy else 1


def _names_a_submission(name: str, address: str | None) -> bool:
    """A bare name, where a cluster is named; if that is so in the environment only, a name that is no folder here."""
    if "/" in name or address:
        return "/" not in name
    if os.path.exists(name):
        return False
    from cluster.submit import default_address

    return default_address() is not None


def _list(args: argparse.Namespace) -> int:
    from jobs.commands import submit

    print(submit.table(submit.ours(submit.reach(args.address, args.verify))))
    return 0


def _logs(args: argparse.Namespace) -> int:
    from jobs.commands import submit

    head = submit.reach(args.address, args.verify)
    empty = True
    for text in submit.follow(head, args.id) if args.follow else [submit.log(head, args.id)]:
        print(text, end="", flush=True)
        empty = empty and not text
    if empty:  # one that failed before it began has a message of Ray's alone
        print(f"{args.id}: no log; {submit.told(submit.look(head, args.id))}", file=sys.stderr)
    return 0


def _stop(args: argparse.Namespace) -> int:
    from jobs.commands import submit

    print(submit.told(submit.stop(submit.reach(args.address, args.verify), args.id)))
    return 0
