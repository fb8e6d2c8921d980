"""Sections of a stored tree, such as a run's config.yaml holds, typed as this version of the code knows them.

A run may be of an older or of a newer commit. A key that it lacks has its default, which is what the code did before
the key came; a key that this version does not know is left out. Nothing is validated: whoever needs that a run's
parameters are those of this version calls :func:`sdpg.params.parse_params`.
"""

from collections.abc import Mapping
from typing import Any

from sdpg.params.method import MethodParams, OwnTerm
from sdpg.params.section import Imported, Section
from sdpg.params.train import TrainParams


def method_of(tree: Mapping[str, Any], name: str) -> MethodParams:
    """Returns the method ``methods.<name>``; one that the tree lacks has no term, and no field that is set."""
    known = _known(MethodParams, tree, "methods", name)
    # Parts of a user's own are described, and not imported: a run may have been made by anybody.
    if not isinstance(gate := known.get("gate", ""), str):
        known["gate"] = _described(Imported, gate) or str(gate)
    terms = known.get("terms")
    parts = {term: _described(OwnTerm, part) for term, part in terms.items()} if isinstance(terms, Mapping) else {}
    known["terms"] = {term: part for term, part in parts.items() if part is not None}
    return MethodParams.model_construct(set(known), **{"title": name, "outcome": "none"} | known)


def _described(kind: type[Imported], part: Any) -> Any:
    """Returns a part of a user's own as a section; None where it names no path, which a later version may know."""
    if not (isinstance(part, Mapping) and isinstance(part.get("path"), str)):
        return None
    return kind.model_construct(**{key: value for key, value in part.items() if key in kind.model_fields})


def train_of(tree: Mapping[str, Any]) -> TrainParams:
    """Returns the section ``train``, whose own sections stay plain."""
    return TrainParams.model_construct(**_known(TrainParams, tree, "train"))


def fields_read(entry: Any) -> Any:
    """Returns of a method's entry what its terms read, as params.yaml takes no more; what is no entry as it is."""
    if not isinstance(entry, Mapping):
        return entry
    reads = method_of({"methods": {"": entry}}, "").reads
    return {name: value for name, value in entry.items() if reads(name)}


def _known(section: type[Section], tree: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Returns the values at a path of the tree whose keys are fields of the section; none where there is no mapping."""
    found: Any = tree
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return {key: found[key] for key in section.model_fields if key in found} if isinstance(found, Mapping) else {}
