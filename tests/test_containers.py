"""Lints what Docker and VS Code read. Docker itself is not needed, and nothing is built."""

import json
from pathlib import Path
import re
import tomllib

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
DEVCONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its argument; lines that go on are joined."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^ *#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))


def test_the_base_image_is_pinned_and_fits_the_project() -> None:
    first, *others = of("FROM")
    version = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-\w+ AS base", first)
    assert version is not None
    assert others == ["base AS workbench"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={version[1]}"
    assert "vllm" in project["optional-dependencies"]


def test_nothing_of_the_workbench_runs_as_root() -> None:
    (user,) = of("USER")
    assert user != "root" and re.search(rf"useradd .*--uid \d+ {user}\b", DOCKERFILE)
    order = [name for name, _ in instructions()]
    assert order.index("USER") < order.index("COPY") < order.index("CMD")
    assert all(f"--chown={user}:{user}" in copy for copy in of("COPY"))
    assert next(rest.split()[0] for rest in of("RUN")) == "apt-get" and "sudo" not in DOCKERFILE
    assert f"/home/{user}/workbench" in of("WORKDIR")
    assert DEVCONTAINER["remoteUser"] == user
    # Docker makes a missing folder of a mount or a WORKDIR as root's, and the user could not write there.
    owned = re.search(rf"install --directory --owner={user} --group={user} (.*)", of("RUN")[0])
    assert owned is not None and {f"/home/{user}/.cache", *of("WORKDIR")} <= set(owned[1].split())
    assert re.findall(r"type=cache,target=(\S+?),", DOCKERFILE) == [f"/home/{user}/.cache/pip"]


def test_layers_are_lean() -> None:
    (packages,) = [run for run in of("RUN") if "apt-get install" in run]
    assert "--no-install-recommends" in packages and packages.count("rm -rf /var/lib/apt/lists") == 1
    assert not of("ADD") and not of("EXPOSE")


def test_no_server_is_opened_to_the_network() -> None:
    assert "0.0.0.0" not in DOCKERFILE + json.dumps(DEVCONTAINER)
    runs = re.findall(r"^ +docker run .*", INSTALL, flags=re.MULTILINE)
    assert len(runs) == 3
    for run in runs:
        assert "--network host" in run and not re.search(r" -p | --publish", run)


def test_what_is_called_exists() -> None:
    commands = json.loads(of("CMD")[0]) + re.findall(r"make ([a-z-]+)", " ".join(of("RUN")))
    assert {"repro", "install"} <= set(commands) and set(commands) - {"make"} <= targets()
    assert DEVCONTAINER["postCreateCommand"].removeprefix("make ") in targets()
    stages = re.findall(r" AS (\w+)", DOCKERFILE)
    assert DEVCONTAINER["build"]["target"] in stages
    assert (ROOT / ".devcontainer" / DEVCONTAINER["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    written = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)", INSTALL))
    assert {"install", "repro", "app", "browser", "gpu-check"} <= written and written <= targets() | {"and"}
    arguments = {rest.partition("=")[0] for rest in of("ARG")}
    assert set(re.findall(r"--build-arg (\w+)=", INSTALL)) == arguments
    ports = [str(port) for port in DEVCONTAINER["forwardPorts"]]
    assert list(DEVCONTAINER["portsAttributes"]) == ports


def test_images_leave_out_what_git_does() -> None:
    def patterns(name: str) -> list[str]:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    expected = []
    for pattern in patterns(".gitignore"):
        sign, path = ("!" if pattern.startswith("!") else ""), pattern.lstrip("!").rstrip("/")
        # Of git, a folder has to come back before its files; Docker looks at files alone.
        if pattern != "!/inputs/**/":
            expected.append(sign + (path[1:] if path.startswith("/") else f"**/{path}"))
    assert patterns(".dockerignore") == expected
