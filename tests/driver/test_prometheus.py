"""Prometheus sees what a run counts, and the dashboard asks for nothing else."""

import json
import re
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import ray

from jobs.driver import prometheus
from jobs.driver.prometheus import Metrics, idle_share, totals
from jobs.driver.resources import Resources
from jobs.driver.run_state import RunState, Tally
from tests.support.processes import until

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"


def on(calls: int) -> Resources:
    """One actor that has so many calls under way at once."""
    return Resources("cpu", 1, 0.5, calls, 1, 1, 32, 1024)


def seen(rows: int) -> RunState:
    annotate = Tally(rows, 8.0, first=100.0, last=110.0, phases={"forward": 5.0, "queue": 1.0})
    stages = {"decode": Tally(rows, 3.0), "annotate": annotate}
    return RunState(stages, reasons=Counter(truncated=rows // 10))


def shown() -> dict[str, float]:
    """What the node's metrics port says of us, by name and tags."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=120).read().decode()
    found = {}
    for name, tags, value in re.findall(r"^(ray_coyo_jobs_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        ours = re.findall(r'(output|stage|reason|phase)="([^"]*)"', tags)
        found[" ".join([name, *(value for _, value in sorted(ours))])] = float(value)
    return found


def test_totals_are_those_of_the_stages_the_reasons_and_the_phases() -> None:
    assert totals(seen(40)) == {
        ("coyo_jobs_rows", "decode"): 40, ("coyo_jobs_busy_seconds", "decode"): 3.0,
        ("coyo_jobs_rows", "annotate"): 40, ("coyo_jobs_busy_seconds", "annotate"): 8.0,
        ("coyo_jobs_rejects", "truncated"): 4,
        ("coyo_jobs_phase_seconds", "forward"): 5.0, ("coyo_jobs_phase_seconds", "queue"): 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(("calls", "share"), [(1, 0.5), (2, 0.75)])
def test_a_device_waits_when_no_call_is_under_way(calls: int, share: float) -> None:
    assert idle_share(seen(40), on(calls)) == pytest.approx(share)
    assert idle_share(RunState(), on(calls)) == 0.0


def test_what_is_counted_arrives_at_the_metrics_port_once(ray_session: None, tmp_path: Path) -> None:
    said, output = Metrics(f"{tmp_path}/größe 1", 7, on(2)), f"{tmp_path}/gr%C3%B6%C3%9Fe 1"  # Ray takes ASCII only

    def ours() -> dict[str, float]:
        return {name.replace(f" {output}", ""): value for name, value in shown().items() if output in name}

    for rows in (10, 40, 40, 50):
        said.update(seen(rows))
    until(lambda: ours().get("ray_coyo_jobs_rows_total decode", 0) >= 50)
    found = ours()
    assert found["ray_coyo_jobs_rows_total decode"] == 50
    assert found["ray_coyo_jobs_rejects_total truncated"] == 5
    assert found["ray_coyo_jobs_shards_left"] == 7
    assert found["ray_coyo_jobs_device_waiting_ratio"] == pytest.approx(0.75)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_(coyo_jobs_\w+)", target["expr"])
    }
    counters = {f"{name}_total" for name in prometheus.COUNTERS}
    assert asked == counters | set(prometheus.GAUGES)
    for panel in dashboard["panels"]:
        query = panel["targets"][0]["expr"]
        tags = {tag for name, (_, tag) in prometheus.COUNTERS.items() if f"{name}_total" in query}
        assert set(re.findall(r"by \((\w+)\)", query)) == tags
