"""A Ray cluster on hosts of its own, and a job that goes on while it loses some of them."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.demo import corpus
from tests.support.hosts import Host, HostError, Network, network, unavailable, until
from tests.support.recipes import demo_job
from tests.support.shards import put_folder

SHARDS, ROWS = 28, 120
SOURCE, OUTPUT = "s3://coyo/in", "s3://coyo/out"
HEAD, STORE = "http://head:8265", "http://s3:9000"
TOKEN = "0c1d7f4e2b9a4d6c8e5f3a7b1c2d9e8f"
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": STORE}
# Who pulls a cable gets no answer any more, and no refusal either: only the head's health check finds that. It gives a
# node up after 5 checks that took 10 s each, 3 s apart: a minute of a test. Here 3 checks of 5 s, 1 s apart.
_HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
# Processes start when there is work for them: all hosts share the cores of one machine.
_NODE = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_enable_worker_prestart": "0"}
_RAY = ("--block", "--disable-usage-stats", "--object-store-memory=200000000")
# As a service is: a node may be quicker than its head, and one that was given up ends when it hears of that.
_AGAIN = ("bash", "-c", 'until "$@"; do sleep 1; done', "again")
_GET = """
import sys, urllib.request
asked = urllib.request.Request(sys.argv[1], headers={"Authorization": f"Bearer {sys.argv[2]}"})
print(urllib.request.urlopen(asked, timeout=120).read().decode())
"""


@dataclass
class Cluster:
    """A head that only coordinates, an S3 server, a client that runs no Ray, and the nodes that join."""

    hosts: Network
    head: Host
    s3: Host
    client: Host

    def join(self, name: str) -> Host:
        """A new host, as a node of two CPUs."""
        host = self.hosts.boot(name)
        own = (f"--node-ip-address={host.address}", "--num-cpus=2")
        host.start(*_AGAIN, "ray", "start", "--address=head:6379", *own, *_RAY, env=_NODE)
        return host

    def nodes(self) -> tuple[set[str], dict[str, str]]:
        """As Ray sees them, without the head: the hosts of living ones, and why others died, by host."""
        told = json.loads(self.get(f"{HEAD}/api/v0/nodes?limit=100"))["data"]["result"]["result"]
        names = {host.address: host.name for host in self.hosts.known.values() if host is not self.head}
        found = [(names[node["node_ip"]], node) for node in told if node["node_ip"] in names]
        dead = {name: str(node["state_message"]) for name, node in found if node["state"] == "DEAD"}
        return {name for name, node in found if node["state"] == "ALIVE"}, dead

    def progress(self) -> dict[str, Any]:
        """What the run has published last. Raises HostError before it has."""
        return dict(json.loads(self.get(f"{STORE}/coyo/out/_progress.json")))

    def run(self, what: str) -> list[str]:
        """The hosts that are up with such a process: Ray's are called after what they do."""
        up = [host for host in self.hosts.known.values() if host.up]
        return [host.name for host in up if what in host.run("bash", "-c", "cat /proc/[0-9]*/cmdline || true")]

    def get(self, url: str, token: str = TOKEN) -> str:
        """What is there, seen from the client; to the S3 server any token is a signature. Raises HostError."""
        return self.client.run(sys.executable, "-ISc", _GET, url, token)

    def says(self, *words: object) -> str:
        """What `coyo-jobs WORDS` prints on the client. Raises HostError where its code is not 0."""
        return self.client.run(*_command(*words), env=_KEYS, seconds=240)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """One with a token and without nodes, and shards in its store. A failure ends with what the hosts said last."""
    with network() as hosts:
        made = Cluster(hosts, hosts.boot("head"), hosts.boot("s3"), hosts.boot("client"))
        own = (f"--node-ip-address={made.head.address}", "--dashboard-host=0.0.0.0", "--num-cpus=0")
        made.head.start("ray", "start", "--head", "--port=6379", *own, *_RAY, env={**_NODE, **_HEALTH})
        made.s3.start(sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "9000")
        try:
            until(lambda: made.get(STORE), "the S3 server answers")
            made.client.run(sys.executable, "-m", "tests.support.losses", made.client.disk, env=_KEYS)
            yield made
        except Exception as exc:
            for host in hosts.known.values():
                exc.add_note(f"--- {host.name}\n{(host.files / 'log').read_text()[-2000:]}")
            raise


@dataclass
class Outcome:
    """What came of a job whose cluster was hurt.

    `rows` are those that had been annotated when its hosts were lost, by host, and `dead` what Ray says they died of;
    `counts` are the hosts where the run's coordinator was, and `verified` is what `verify --deep` says.
    """

    code: int
    rows: dict[str, int]
    counts: list[str]
    dead: dict[str, str]
    verified: str


@dataclass
class _Told:
    """Steps, with the seconds since the first."""

    say: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)

    def __call__(self, text: str) -> None:
        self.say(f"{time.monotonic() - self.began:6.1f} s  {text}")


def lose_hosts(made: Cluster, say: Callable[[str], None]) -> Outcome:
    """A job on two nodes. The one that annotates loses its link, is given up, and comes back when a new host has
    joined; then the other one is killed. Raises TimeoutError, or HostError where the job is over too soon."""
    told, lost = _Told(say), dict[str, int]()
    w1, w2 = made.join("w1"), made.join("w2")
    until(lambda: made.nodes()[0] == {"w1", "w2"}, "two nodes join")
    told("up         head, s3, client; w1 and w2 are nodes of 2 CPUs")
    # Many batches and objects, so that faults come between them.
    sizes = ("--set", "compute.batch_size=4", "--set", "output.rows_per_file=96")
    submit = _command("submit", made.client.disk / "job.yaml", "--address", HEAD, "--wait", *sizes)
    job = made.client.start(*submit, env={**_KEYS, "RAY_AUTH_TOKEN": TOKEN})

    def rows(more_than: int) -> int:
        """How many are annotated, as soon as it is more, in the middle of the job. Repeated ones count again."""
        until(lambda: job.poll() is not None or made.progress()["rows"] > more_than, "rows are annotated")
        now = made.progress()
        if now["state"] != "running":
            raise HostError(f"the job is no longer in its middle: {now}")
        return int(now["rows"])

    told("submitted  from client, which runs no Ray")
    count = rows(0)
    counts = made.run("ray::Coordinator")
    cut, other = (w1, w2) if w1.name in made.run("AnnotateActor") else (w2, w1)
    made.hosts.cut(cut)
    lost[cut.name] = count
    told(f"cut        the link of {cut.name}, which annotates, after {count} rows")
    made.join("w3")
    until(lambda: cut.name in made.nodes()[1], "the silent node is given up")
    told(f"dead       {cut.name}: {made.nodes()[1][cut.name]}")
    until(lambda: "w3" in made.nodes()[0], "a new node joins")
    told("joined     w3")
    made.hosts.heal(cut)
    told(f"healed     the link of {cut.name}")
    lost[other.name] = count = rows(rows(0))
    other.kill()
    told(f"killed     {other.name}, after {count} rows")
    code = job.wait(500)
    told(f"done       with code {code}")
    alive, dead = made.nodes()
    told(f"nodes      {', '.join(sorted(alive))} are alive")
    verified = made.says("verify", OUTPUT, "--deep")
    told("verified")
    return Outcome(code, lost, counts, dead, verified)


def show() -> int:
    """The same for a person, step by step; then what the submission and `verify` said."""
    if why := unavailable():
        print(why, file=sys.stderr)
        return 1
    with cluster() as made:
        outcome = lose_hosts(made, lambda text: print(text, flush=True))
        print(f"\n{(made.client.files / 'log').read_text()}\n{outcome.verified}")
    return outcome.code


def fill(folder: Path) -> None:
    """On the client: draw shards into the store; the recipe is `folder/job.yaml`."""
    import s3fs

    corpus.write_parquet(folder / "in", SHARDS, ROWS)
    s3fs.S3FileSystem().mkdir("coyo")
    put_folder(folder / "in", SOURCE)
    job = demo_job(SOURCE, OUTPUT, storage={"endpoint_url": STORE, "region": "us-east-1"})
    (folder / "job.yaml").write_text(job.to_yaml())


def _command(*words: object) -> list[object]:
    """coyo-jobs, of the code that is checked out."""
    return [sys.executable, "-m", "jobs", *words]


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
