"""Reads the YAML 1.2 that this project writes, with libyaml, some twenty times faster than ruamel.yaml does.

PyYAML's own loader follows YAML 1.1, where `no` is false and `1e-06` a string; the scalars below are those of 1.2.
"""

import re
from typing import Any, ClassVar

import yaml

from sdpg.params.tree import why_too_large

SCALARS = {
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^[-+]?[0-9]+$", list("-+0123456789")),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {}


for _name, (_pattern, _first) in SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)


def parse_yaml(text: str) -> Any:
    """Returns the plain containers of a YAML document.

    Raises:
        yaml.YAMLError: if the text is malformed, or deeper or larger than the YAML files of this project may be.
    """
    try:
        if reason := why_too_large(yaml.parse(text, _Loader)):
            raise yaml.YAMLError(f"it {reason}")
        return yaml.load(text, _Loader)  # a safe loader: plain containers only
    # PyYAML lets them through: a number of thousands of digits, half a surrogate pair, `!!bool` of another word.
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None
