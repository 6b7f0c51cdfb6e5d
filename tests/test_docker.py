"""docker/ says what pyproject.toml says. `make soak` builds the image too, which takes minutes."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import __version__, cli

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([^#=\s]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def instructions(name: str) -> list[str]:
    """What follows each of these instructions, with its lines joined."""
    joined = re.sub(r"\\\n", "", DOCKERFILE)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def test_the_image_takes_every_version_from_constraints() -> None:
    """A worker of another version of Ray never joins. Only the base is named: its Python is one that we support."""
    installs = [command for run in instructions("RUN") for command in run.split("&&") if "pip install" in command]
    assert len(installs) == 3
    for command in installs:
        assert re.search(r"--constraint constraints.txt|cat torch.txt|--no-deps \.$", command)
    assert not re.findall(r"[\w\]][=<>~]=\d", DOCKERFILE)
    (ray,) = (name for name in PROJECT["dependencies"] if name.startswith("ray["))
    (cluster,) = PROJECT["optional-dependencies"]["cluster"]
    assert ray.partition("==")[2] == cluster.partition("==")[2] == f"{PINS['ray'].rpartition('.')[0]}.*"
    (base,) = re.findall(r"^ARG BASE=.*python:(\d+\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert PROJECT["requires-python"] == f">={base}"


def test_the_image_runs_the_command_as_nobody_special() -> None:
    """By number: a pod with runAsNonRoot does not start an image that names its user."""
    (user,) = instructions("USER")
    assert any(
        f"useradd --create-home --uid {user} --gid users --shell /bin/bash ray" in run for run in instructions("RUN")
    )
    assert int(user) > 0
    last = DOCKERFILE.rstrip().splitlines()[-1]
    assert last == 'CMD ["coyo-jobs", "--help"]'
    assert list(PROJECT["scripts"]) == ["coyo-jobs"]
    assert not instructions("ENTRYPOINT"), "ray up runs the image with `bash`"


def test_torch_comes_before_whatever_changes_more_often() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    order = [last.index(text) for text in ("torch.txt)+${TORCH}", "COPY pyproject.toml", "COPY jobs", "ARG WEIGHTS")]
    assert order == sorted(order)


def test_only_what_the_image_needs_reaches_the_engine() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*", "what is not named stays out: .git, .venv, data and caches"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {word for copy in instructions("COPY") if "--from" not in copy for word in copy.split()[:-1]}
    assert let_in == copied
    assert all((ROOT / name).exists() for name in let_in)
    assert "**/__pycache__" in lines


def test_the_images_are_named_for_this_version() -> None:
    said = DOCKERFILE + (FOLDER / "compose.yaml").read_text() + (ROOT / "README.md").read_text()
    tags = re.findall(r"coyo-jobs:(\d\S*?)-(cpu|gpu)", said)
    assert {tag for tag, _ in tags} == {__version__}
    assert {device for _, device in tags} == {"cpu", "gpu"}


def test_compose_is_a_head_two_workers_and_an_s3_server() -> None:
    services = COMPOSE["services"]
    assert list(services) == ["s3", "head", "worker-1", "worker-2"]
    assert services["worker-1"] == services["worker-2"]
    image, _, tag = services["s3"]["image"].rpartition(":")
    assert (image, tag) == ("docker.io/motoserver/moto", PINS["moto"])
    head, worker = services["head"], services["worker-1"]
    assert head["image"] == worker["image"]
    assert head["environment"] == worker["environment"]
    assert (FOLDER / head["build"]["context"] / head["build"]["dockerfile"]).resolve() == FOLDER / "Dockerfile"
    assert not [name for name, service in services.items() if "ports" in service], "there is no token"


def test_nodes_meet_where_the_head_listens() -> None:
    starts = {name: shlex.split(COMPOSE["services"][name]["command"]) for name in ("head", "worker-1")}
    (port,) = (word.partition("=")[2] for word in starts["head"] if word.startswith("--port="))
    assert f"--address=head:{port}" in starts["worker-1"]
    entry = COMPOSE["services"]["s3"]["entrypoint"]
    assert COMPOSE["services"]["head"]["environment"]["AWS_ENDPOINT_URL"] == f"http://s3:{entry[-1]}"


def test_every_command_of_the_demo_parses() -> None:
    commands = re.findall(r"^coyo-jobs (.*)$", (FOLDER / "demo.sh").read_text(), re.MULTILINE)
    words = [shlex.split(command.split(">")[0]) for command in commands]
    assert [each[0] for each in words] == ["init", "run", "status", "verify"]
    for each in words:
        cli._parser().parse_args(each)


def test_the_folder_does_not_hide_the_docker_sdk() -> None:
    """moto needs it; an __init__.py in docker/ would be found first."""
    found = importlib.util.find_spec("docker")
    assert found is not None
    assert found.origin is not None
    assert FOLDER not in Path(found.origin).parents


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_image_builds_and_runs() -> None:
    """COYO_JOBS_BUILD_ARGS has what buildah needs beside, such as --build-arg BASE=... where there is no registry."""
    if not shutil.which("buildah") or os.geteuid():
        pytest.skip("needs root and Debian's buildah")
    tag = f"coyo-jobs:{__version__}-cpu"
    more = shlex.split(os.environ.get("COYO_JOBS_BUILD_ARGS", ""))
    build = ["buildah", "bud", "--layers", "--format", "docker", "--file", "docker/Dockerfile", "--tag", tag]
    subprocess.run([*build, *more, "."], cwd=ROOT, check=True)
    container = subprocess.run(["buildah", "from", tag], capture_output=True, text=True, check=True).stdout.strip()
    try:
        look = "coyo-jobs --version; id -un; ray --version"
        shown = subprocess.run(
            ["buildah", "run", container, "--", "bash", "-c", look], capture_output=True, text=True, check=True
        )
    finally:
        subprocess.run(["buildah", "rm", container], check=True)
    assert shown.stdout.split("\n")[:3] == [f"coyo-jobs {__version__}", "ray", f"ray, version {version('ray')}"]
