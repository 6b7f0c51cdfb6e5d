"""The manifests are what their readers take: Ray's autoscaler, KubeRay, and this package's own command line."""

import copy
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.runtime_env import Environment
from jobs import __version__, cli
from jobs.config import PoolConfig
from jobs.recipe import load_recipe

ROOT = Path(__file__).parents[2]
CLUSTER, DATA = ROOT / "cluster", ROOT / "tests" / "data"
KUBERAY = [CLUSTER / "kuberay" / "raycluster" / "raycluster.yaml", CLUSTER / "kuberay" / "rayjob" / "rayjob.yaml"]
RAY_UP = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def name(path: Path) -> str:
    return path.name


def kuberay_check(manifest: dict[str, Any]) -> None:
    """Against KubeRay's fields and, inside pod templates, Kubernetes' own. Raises jsonschema.ValidationError."""
    defs = {k: v for file in sorted(DATA.glob("kube*.json")) for k, v in json.loads(file.read_text())["$defs"].items()}
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/io.ray.v1.{manifest['kind']}", "$defs": defs}).validate(manifest)


@pytest.mark.parametrize("path", RAY_UP, ids=name)
def test_ray_up_takes_the_file(path: Path) -> None:
    config = prepare_config(read(path))
    validate_config(config)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert config["max_workers"] == sum(kind["max_workers"] for kind in types.values())
    assert all(kind["min_workers"] for label, kind in types.items() if label != "head")
    for node in (kind["node_config"] for kind in types.values()):  # Ray's own choice has a driver of 2023: too old
        assert "nvidia" in (
            node["ImageId"] if "ImageId" in node else node["disks"][0]["initializeParams"]["sourceImage"]
        )
    config["available_node_types"]["gpu"]["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


@pytest.mark.parametrize("path", KUBERAY, ids=name)
def test_kuberay_takes_the_manifest(path: Path) -> None:
    kuberay_check(read(path))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("spec", "shutdownAfterJobFinish"), True),
        (("spec", "entrypoint"), ["python"]),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "maxReplicas"), "8"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 1, "template", "spec", "toleration"), []),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "envFrom", 0, "secret"), {}),
    ],
)
def test_a_mistake_in_a_manifest_would_be_seen(at: tuple[str | int, ...], value: Any) -> None:
    manifest = copy.deepcopy(read(KUBERAY[1]))
    place = manifest
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        kuberay_check(manifest)


def test_the_job_runs_on_the_cluster_of_the_other_manifest_and_goes_with_it() -> None:
    lasting, job = (read(path)["spec"] for path in KUBERAY)
    assert job["rayClusterSpec"] == lasting
    assert job["shutdownAfterJobFinishes"]
    assert job["ttlSecondsAfterFinished"] > 0
    assert lasting["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in lasting["workerGroupSpecs"]}
    limits = {
        label: group["template"]["spec"]["containers"][0]["resources"]["limits"] for label, group in groups.items()
    }
    assert [label for label in limits if "nvidia.com/gpu" in limits[label]] == ["gpu"]
    assert all(0 < group["minReplicas"] <= group["maxReplicas"] for group in groups.values())


def test_the_job_runs_a_command_of_ours_on_a_recipe_of_ours() -> None:
    folder = KUBERAY[1].parent
    job = read(KUBERAY[1])["spec"]
    words = shlex.split(job["entrypoint"])
    assert words[:4] == ["python", "-P", "-m", "coyo_jobs"]
    args = cli._parser().parse_args(words[4:])
    (made,) = read(folder / "kustomization.yaml")["configMapGenerator"]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert head["volumes"][0]["configMap"]["name"] == made["name"]
    assert args.recipe == f"{mount['mountPath']}/{made['files'][0]}"
    recipe = load_recipe(folder / made["files"][0])
    assert recipe.output.path.startswith("s3://")
    groups = {group["groupName"]: group for group in job["rayClusterSpec"]["workerGroupSpecs"]}
    assert recipe.compute.gpus == PoolConfig(min=groups["gpu"]["minReplicas"], max=groups["gpu"]["maxReplicas"])
    assert yaml.safe_load(job["runtimeEnvYAML"]) == Environment().to_ray()


@pytest.mark.parametrize("path", [KUBERAY[0], *RAY_UP], ids=name)
def test_the_command_that_submits_to_a_manifests_cluster_parses(path: Path) -> None:
    text = re.sub(r" \\\n# +", " ", path.read_text())
    (command,) = re.findall(r"^# .*coyo-jobs (submit.*)", text, re.MULTILINE)
    cli._parser().parse_args(shlex.split(command))


def test_versions_and_images_are_said_once_and_are_these() -> None:
    """A worker of another version of Ray never joins; Ray's is pinned in pyproject.toml."""
    assert f'"ray[data]=={".".join(ray.__version__.split(".")[:2])}.*"' in (ROOT / "pyproject.toml").read_text()
    assert read(KUBERAY[0])["spec"]["rayVersion"] == ray.__version__
    images = read(CLUSTER / "kuberay" / "images" / "kustomization.yaml")["images"]
    named = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in images}
    assert {label: image.rpartition(":")[2] for label, image in named.items()} == {
        "coyo-jobs-cpu": f"{__version__}-cpu", "coyo-jobs-gpu": f"{__version__}-gpu",
    }  # fmt: skip
    for path in RAY_UP:
        assert sorted(re.findall(r"image: (\S+)", path.read_text())) == sorted(named.values())
    for path in KUBERAY:
        assert set(re.findall(r"image: (\S+)", path.read_text())) == set(named)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("path", KUBERAY, ids=name)
def test_kustomize_puts_the_images_in(path: Path) -> None:
    made = subprocess.run(["kubectl", "kustomize", path.parent], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"image: (\S+)", made)) == {
        f"registry.example.com/coyo-jobs:{__version__}-{kind}" for kind in ("cpu", "gpu")
    }
    for manifest in yaml.safe_load_all(made):
        if manifest["apiVersion"] == "ray.io/v1":
            kuberay_check(manifest)
