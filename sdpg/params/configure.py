"""Writes profiles, presets and choices of methods, seeds and benchmarks into params.yaml, and shows what changes.

An overlay (profiles/*.yaml, presets/*.yaml) is a part of the tree. Its values replace those in params.yaml, key by key;
the text ``(unset)`` removes a key, and below ``data.benchmarks`` the overlay's set replaces the whole set. An overlay
that is ``based_on`` another holds only what differs from it.
"""

from collections.abc import Mapping, Sequence
import difflib
import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from sdpg.errors import UserError
from sdpg.files import check_name, write_text
from sdpg.params import PARAMS_FILE, parse_params, read_yaml

CATALOGUE = Path("catalogue.yaml")
"""The file of public benchmarks, each in the form of a row of ``data.benchmarks``."""
UNSET = "(unset)"
WHOLE = {
    ("data", "train"),
    ("data", "benchmarks"),
    ("base", "model"),
    ("prompts", "chat_template_kwargs"),
    ("rollout", "vllm"),
    ("reward", "format"),
    ("reward", "length"),
    ("train", "lora"),
}
"""The nodes that an overlay replaces as a whole, because their keys depend on one another."""


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    # By default ruamel writes null as an empty value, and every such line would count as changed.
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def merge(tree: Any, overlay: Mapping[str, Any], path: tuple[str, ...] = (), onto_overlay: bool = False) -> None:
    """Applies an overlay to a tree in place; comments and order of a ruamel tree survive.

    ``onto_overlay`` says that the tree is an overlay itself, which goes on saying which keys are to be removed.
    """
    for key, value in overlay.items():
        here = (*path, key)
        if value == UNSET and not onto_overlay:
            tree.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(tree.get(key), Mapping) and here not in WHOLE:
            merge(tree[key], value, here, onto_overlay)
        elif tree.get(key) != value:
            tree[key] = value


def read_overlay(kind: str, name: str, root: Path = Path(), above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Reads ``<kind>s/<name>.yaml`` on top of what it is based on.

    Args:
        kind: profile or preset.
        name: the file's name, without its ending.
        root: the project's folder.
        above: the names of the overlays that are based on this one.

    Raises:
        UserError: if there is no file of that name, and the message lists those there are; if an overlay is based on
            itself.
    """
    if name in above:
        raise UserError(
            f"{kind}s are based on one another: {' → '.join((*above, name))}; correct based_on in one of them"
        )
    check_name(name, kind)
    folder = root / f"{kind}s"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UserError(f"there is no {kind} {name!r}; there are: {known}")
    overlay = read_yaml(path)
    if (base := overlay.pop("based_on", None)) is None:
        return overlay
    tree = read_overlay(kind, base, root, (*above, name))
    merge(tree, overlay, onto_overlay=True)
    return tree


def configure(
    root: Path = Path(),
    profile: str | None = None,
    preset: str | None = None,
    methods: str | None = None,
    seeds: str | None = None,
    benchmarks: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> str:
    """Changes params.yaml and returns the change as a diff; empty where nothing changes.

    Args:
        root: the project's folder.
        profile: the name of a file in profiles/.
        preset: the name of a file in presets/.
        methods: ``all``, or names separated by spaces or commas.
        seeds: the number of seeds, counted from 0.
        benchmarks: names separated by spaces or commas, from the catalogue or of rows that params.yaml has already.
        changes: an overlay that is laid over all of them.

    Raises:
        UserError: if a name is unknown or the resulting tree is not valid; the file is then left as it was.
    """
    path = root / PARAMS_FILE
    yaml = _yaml()
    read_yaml(path)  # raises if the file is missing or malformed
    before = path.read_text(encoding="utf-8")
    tree = yaml.load(before)
    for kind, name in (("preset", preset), ("profile", profile)):
        if name:
            merge(tree, {**read_overlay(kind, name, root), kind: name})
    if benchmarks:
        tree["data"]["benchmarks"] = _chosen_benchmarks(tree["data"]["benchmarks"], benchmarks, root)
    if methods:
        tree["run"]["methods"] = _flow(list(tree["methods"]) if methods == "all" else _names(methods))
    if seeds:
        if not seeds.isdecimal() or int(seeds) < 1:
            raise UserError(f"--seeds {seeds} is not a number of seeds: give 1, 2, 3, …")
        tree["run"]["seeds"] = _flow(list(range(int(seeds))))
    merge(tree, changes or {})
    parse_params(YAML(typ="safe").load(_dump(yaml, tree)), str(path))
    after = _dump(yaml, tree)
    if YAML(typ="safe").load(before) == YAML(typ="safe").load(after):
        return ""
    write_text(path, after)
    return "".join(
        difflib.unified_diff(
            before.splitlines(True), after.splitlines(True), "params.yaml (before)", "params.yaml", n=1
        )
    )


def _names(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _chosen_benchmarks(present: Mapping[str, Any], text: str, root: Path) -> CommentedMap:
    """Returns the rows of ``data.benchmarks`` by name; one that params.yaml has stays as it is, as its revision may be
    pinned."""
    read_yaml(root / CATALOGUE)  # raises if the file is missing or malformed
    known = {**_yaml().load((root / CATALOGUE).read_text(encoding="utf-8")), **present}
    chosen = CommentedMap()
    for name in _names(text):
        if name not in known:
            raise UserError(
                f"--benchmarks names {name!r}; there are: {', '.join(sorted(known))}. A further one is a row in "
                f"{CATALOGUE}, or under data.benchmarks in {PARAMS_FILE}"
            )
        chosen[name] = known[name]
    return chosen


def _dump(yaml: YAML, tree: Any) -> str:
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def _flow(values: Sequence[Any]) -> Any:
    sequence = CommentedSeq(values)
    sequence.fa.set_flow_style()
    return sequence
