"""Reads sections of a stored tree, such as a run's config.yaml, typed as this version of the code knows them.

A run may come from an older or a newer commit. A key that it lacks has its default, which is what the code did before
the key was added; a key that this version does not know is left out. Nothing is validated: code that needs valid
parameters of this version calls :func:`sdpg.params.parse_params`.
"""

from collections.abc import Mapping
from typing import Any

from sdpg.params.method import MethodParams, OwnTerm
from sdpg.params.section import Imported, Section
from sdpg.params.train import TrainParams


def method_of(tree: Mapping[str, Any], name: str) -> MethodParams:
    """Returns the method ``methods.<name>``; one that the tree lacks has no terms, and no field is set."""
    known = _known(MethodParams, tree, "methods", name)
    # A user's own parts are described, and not imported: the run may come from anybody.
    if isinstance(gate := known.get("gate"), Mapping):
        known["gate"] = Imported.model_construct(**gate)
    if isinstance(terms := known.get("terms"), Mapping):
        known["terms"] = {term: OwnTerm.model_construct(**values) for term, values in terms.items()}
    return MethodParams.model_construct(set(known), **{"title": name, "outcome": "none"} | known)


def train_of(tree: Mapping[str, Any]) -> TrainParams:
    """Returns the section ``train``; its own sections stay plain mappings."""
    return TrainParams.model_construct(**_known(TrainParams, tree, "train"))


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
