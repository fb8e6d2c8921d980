"""Reads sections of a stored tree, such as a run's config.yaml, typed as this version of the code knows them.

A run may come from an older or a newer commit. A key that it lacks has its default, which is what the code did before
the key was added; a key that this version does not know is left out. Nothing is validated: code that needs valid
parameters of this version calls :func:`sdpg.params.parse_params`.
"""

from collections.abc import Mapping
from typing import Any

from sdpg.params.method import MethodParams, OwnTerm
from sdpg.params.section import Imported, Section
from sdpg.params.train import TrainOverrides, TrainParams


def method_of(tree: Mapping[str, Any], name: str) -> MethodParams:
    """Returns the method ``methods.<name>``; one that the tree lacks has no terms, and no field is set."""
    known = _known(MethodParams, tree, "methods", name)
    # Parts of a user's own are described, and not imported: a run may have been made by anybody.
    if isinstance(gate := known.get("gate", ""), list) and gate:
        known["gate"] = [str(name) for name in gate]
    elif not isinstance(gate, str):
        known["gate"] = _described(Imported, gate) or str(gate)
    if "terms" in known:
        terms = known["terms"] if isinstance(known["terms"], Mapping) else {}
        parts = {term: _described(OwnTerm, part) for term, part in terms.items()}
        known["terms"] = {term: part for term, part in parts.items() if part is not None}
    own = _known(TrainOverrides, tree, "methods", name, "train")
    if "train" in known:
        known["train"] = TrainOverrides.model_construct(set(own), **own)
    return MethodParams.model_construct(set(known), **{"title": name, "outcome": "none"} | known)


def _described(kind: type[Imported], part: Any) -> Any:
    """Returns a part of a user's own as a section; None where it names no path, which a later version may know."""
    if not (isinstance(part, Mapping) and isinstance(part.get("path"), str)):
        return None
    return kind.model_construct(**{key: value for key, value in part.items() if key in kind.model_fields})


def train_of(tree: Mapping[str, Any], method: str | None = None) -> TrainParams:
    """Returns the section ``train``, as it holds for a method where one is named; its own sections stay plain."""
    own = {} if method is None else _known(TrainParams, tree, "methods", method, "train")
    return TrainParams.model_construct(**_known(TrainParams, tree, "train") | own)


def fields_read(entry: Any) -> Any:
    """Returns the fields of a method's entry that its terms read, as params.yaml accepts no others.

    An entry that is no mapping is returned as it is.
    """
    if not isinstance(entry, Mapping):
        return entry
    reads = method_of({"methods": {"": entry}}, "").reads
    return {name: value for name, value in entry.items() if reads(name)}


def _known(section: type[Section], tree: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Returns the values at a path of the tree whose keys are fields of the section; empty if no mapping is there."""
    node: Any = tree
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return {key: node[key] for key in section.model_fields if key in node} if isinstance(node, Mapping) else {}
