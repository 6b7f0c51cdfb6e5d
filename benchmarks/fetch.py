"""Fetch the same urls from loopback with our fetcher and with img2dataset, with equal processes and requests.

    python -m benchmarks.fetch --other VENV/bin/python [--rows 20000] [--rounds 3] [--requests 256]

Install img2dataset in its own environment (pip install img2dataset): its dependencies conflict with ours. Here it does
not decode, resize, hash or write (`resize_mode` no, `disable_all_reencoding`, `output_format` dummy). Time runs from
the first process that begins to fetch to the last one that ends. Two cases: all urls on one host, whose connections can
be reused, and each url on its own host (127.x.y.z). 256 requests are the default of both. The server is one process and
shares the cores.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_KEEP = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
_CLOSE = _KEEP.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
_THEIRS = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="Python executable with img2dataset installed")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=256, help="concurrent requests per process")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hosts", type=int, nargs="+")
    args = parser.parse_args()
    if missing := _missing(args.other):
        print(f"img2dataset is skipped: {missing}")
    with serving() as port:
        for hosts in args.hosts or (1, args.rows):
            urls = [f"http://{_address(i % hosts)}:{port}/{i}.jpg" for i in range(args.rows)]
            rates_by_tool: dict[str, list[float]] = {}
            for _ in range(args.rounds):
                if not missing:
                    rates_by_tool.setdefault("img2dataset", []).append(
                        theirs(args.other, urls, args.processes, args.requests)
                    )
                rates_by_tool.setdefault("coyo-jobs", []).append(ours(urls, args.processes, args.requests))
            _show(rates_by_tool, f"{args.rows:,} urls on {hosts:,} hosts, {args.processes} x {args.requests} requests")


def _show(rates_by_tool: dict[str, list[float]], title: str) -> None:
    print(f"{title}, {os.cpu_count()} cores")
    for name, rates in rates_by_tool.items():
        print(f"  {name:12s} {statistics.median(rates):8.0f} rows/s   {[round(rate) for rate in rates]}")
    if "img2dataset" in rates_by_tool:
        ratios = [a / b for a, b in zip(rates_by_tool["coyo-jobs"], rates_by_tool["img2dataset"], strict=True)]
        print(f"  ratio        {statistics.median(ratios):8.2f}          {[round(ratio, 2) for ratio in ratios]}")


def ours(urls: list[str], processes: int, requests: int) -> float:
    """Return rows/s."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = [(urls[index::processes], requests) for index in range(processes)]
        done = pool.starmap(fetch, parts, chunksize=1)
    print(f"  memory per process grew by at most {max(grown for *_, grown in done) >> 10} MB", flush=True)
    return _rate([part[:3] for part in done], len(urls))


def fetch(urls: list[str], requests: int) -> tuple[float, float, int, int]:
    """Fetch in this process. Return start, end, urls fetched, and growth of memory in KB."""
    from jobs.config import FetchConfig
    from jobs.fetch import Fetcher

    config = FetchConfig(requests=requests, requests_per_host=requests, allow_networks=("127.0.0.0/8",))
    begun, memory = time.time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Fetcher(config) as fetcher:
        good = sum(isinstance(result, bytes) for _, result in fetcher.fetch(urls))
    return begun, time.time(), good, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory


def theirs(python: Path, urls: list[str], processes: int, requests: int) -> float:
    """Return rows/s."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "urls.txt")
        source.write_text("\n".join(urls))
        options = {
            "url_list": str(source), "output_folder": f"{folder}/out", "output_format": "dummy", "resize_mode": "no",
            "disable_all_reencoding": True, "compute_hash": None, "extract_exif": False, "processes_count": processes,
            "thread_count": requests, "number_sample_per_shard": -(-len(urls) // processes),
        }  # fmt: skip
        plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        command = [str(python), "-c", _THEIRS, json.dumps(options)]
        subprocess.run(command, check=True, capture_output=True, env={**plain, "NO_ALBUMENTATIONS_UPDATE": "1"})
        stats = [json.loads(path.read_text()) for path in Path(folder, "out").glob("*_stats.json")]
    return _rate([(part["start_time"], part["end_time"], part["successes"]) for part in stats], len(urls))


def _rate(parts: list[tuple[float, float, int]], rows: int) -> float:
    good = sum(part[2] for part in parts)
    if good != rows:
        raise SystemExit(f"{rows - good:,} of {rows:,} urls were not fetched")
    return rows / (max(part[1] for part in parts) - min(part[0] for part in parts))


def _missing(python: Path | None) -> str | None:
    if python is None:
        return "pass --other, a Python with img2dataset"
    try:
        done = subprocess.run([python, "-c", "import img2dataset"], capture_output=True, text=True)
    except OSError as exc:
        return str(exc)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def _address(index: int) -> str:
    return f"127.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255 or 1}" if index else "127.0.0.1"


@contextmanager
def serving() -> Iterator[int]:
    """Serve images on every loopback address, in another process. Yield the port."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_serve, args=(sender,), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.kill()


def _serve(sender: Connection) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(_Images, "0.0.0.0", 0, backlog=4096)
        sender.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def _bodies(count: int) -> list[bytes]:
    """Return random bodies with COYO's distribution of sizes, 50 KB on average."""
    rng = random.Random(0)
    return [rng.randbytes(min(1 << 20, int(rng.lognormvariate(10.3, 1.0)))) for _ in range(count)]


class _Images(asyncio.Protocol):
    """Answers every GET with a body."""

    bodies = _bodies(200)

    def connection_made(self, transport: Any) -> None:
        self._transport, self._asked = transport, b""

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while b"\r\n\r\n" in self._asked:
            head, _, self._asked = self._asked.partition(b"\r\n\r\n")
            body = self.bodies[hash(head.split(b" ", 2)[1]) % len(self.bodies)]
            last = b"connection: close" in head.lower()
            self._transport.write((_CLOSE if last else _KEEP) % len(body) + body)
            if last:
                self._transport.close()


if __name__ == "__main__":
    main()
