"""Finds the code that a result depends on: every module of the project that an entry module imports, directly or not.

The digest is taken of the syntax tree, so that comments, docstrings and layout do not count. The module imports no
torch, and none of the modules that it reads.
"""

import ast
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from sdpg import paths
from sdpg.errors import UserError
from sdpg.files import write_json

SOURCE = Path(__file__).parents[2]
"""The folder that holds the package."""
PACKAGES = ("sdpg", "pipelines", "app")
CACHE = paths.STATE / "code.json"
MOST_CACHED = 2000
"""The number of modules in the cache beyond which only those in use are kept."""


@dataclass(frozen=True)
class Code:
    """The modules and data files that the entries reach.

    Attributes:
        modules: modules and data files, each with its digest, by path.
        imports: the modules of the project that each module imports, their packages included.
    """

    modules: dict[str, str]
    imports: dict[str, frozenset[str]]

    @cached_property
    def digest(self) -> str:
        """Returns 32 hex digits that change with any module, and with the path of any."""
        return _hash(json.dumps(self.modules, sort_keys=True).encode())


@dataclass(frozen=True)
class Module:
    """The part of one module's text that the digest of an entry needs.

    Attributes:
        digest: the digest of the module's statements.
        imports: the level (0 for an absolute import) and the dotted name of each import, and of each imported name.
        data: the folders and files that the module names, relative to its own folder.
    """

    digest: str
    imports: list[tuple[int, str]]
    data: list[str]


def read_code(*entries: str) -> Code:
    """Finds all modules that the entries import, also inside functions, and digests them.

    Args:
        entries: dotted names of modules, such as ``pipelines.train``. One outside the project is followed through its
            own top-level package alone.

    Raises:
        UserError: if an entry does not exist, or a module is not valid Python.
    """
    cache = _Cache()
    roots = {entry.split(".")[0]: _entry_root(entry) for entry in entries}
    located: dict[str, list[Path]] = {}

    def locate(name: str) -> list[Path]:
        if name not in located:
            top = name.split(".")[0]
            located[name] = list(_files(roots.setdefault(top, _root(top)), name))
        return located[name]

    digests: dict[str, str] = {}
    imports: dict[str, frozenset[str]] = {}
    waiting = [(file, roots[entry.split(".")[0]]) for entry in entries for file in locate(entry)]
    while waiting:
        file, root = waiting.pop()
        path = file.relative_to(root).as_posix()
        if path in digests:
            continue
        module = cache.read(file)
        digests[path] = module.digest
        package = path.split("/")[:-1]
        reached = {
            target: roots[name.split(".")[0]]
            for name in (_absolute(package, level, imported) for level, imported in module.imports)
            for target in locate(name)
        }
        imports[path] = frozenset(target.relative_to(root).as_posix() for target, root in reached.items())
        waiting += reached.items()
        for data in _data_files(file.parent, module.data):
            digests[Path(os.path.relpath(data, root)).as_posix()] = _hash(data.read_bytes())
    cache.save()
    return Code(dict(sorted(digests.items())), imports)


def source_digest(path: str) -> str:
    """Digests the code behind an own part.

    Args:
        path: ``module:attribute``, as in :class:`sdpg.params.Imported`.

    Raises:
        UserError: if an entry does not exist, or a module is not valid Python; see :func:`read_code`.
    """
    return read_code(path.split(":")[0]).digest


def parse_module(text: str | bytes, name: str) -> Module:
    """Reads the statements, imports and data files of one module's text.

    Raises:
        UserError: if the text is not valid Python; ``name`` is what the error calls the module.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{name} is not valid Python: {error}. Correct it, then run the same command again") from None
    written: list[str] = []
    _write(tree, written)
    imports: dict[tuple[int, str], None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= dict.fromkeys((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            names = [base, *([*base, alias.name] for alias in node.names)]
            imports |= dict.fromkeys((node.level, ".".join(parts)) for parts in names)
    return Module(_hash("".join(written).encode()), list(imports), sorted(set(_named_data(tree))))


def _write(value: Any, out: list[str]) -> None:
    """Writes a syntax tree so that each Python from 3.11 writes the same: empty fields, new or old, are left out."""
    if isinstance(value, ast.AST):
        out.append(type(value).__name__ + "(")
        for field in value._fields:
            part = getattr(value, field, None)
            if isinstance(part, list):
                part = [item for item in part if not _is_text_alone(item)]
            # kind tells u"…" from "…", and type comments are comments; neither changes what the code does.
            if part is not None and part != [] and field not in ("kind", "type_comment", "type_ignores"):
                out.append(field + "=")
                _write(part, out)
        out.append(")")
    elif isinstance(value, list):
        out.append("[")
        for item in value:
            _write(item, out)
        out.append("]")
    else:
        # ascii() is used, because which characters repr() escapes depends on the Unicode tables of the Python version.
        out.append(f"{type(value).__name__}:{value!a},")


def _is_text_alone(node: Any) -> bool:
    """Says whether a statement is a mere string: a docstring of a module, class, function or field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _named_data(node: ast.AST) -> Iterator[str]:
    """Yields the paths that expressions like ``Path(__file__).parent / "templates"`` name, relative to the module's
    folder."""
    path = _below_own_folder(node)
    if path is not None and path.parts[-1:] not in ((), ("..",)):
        yield path.as_posix()
        return
    for child in ast.iter_child_nodes(node):
        yield from _named_data(child)


def _below_own_folder(node: ast.AST) -> Path | None:
    """Returns the path that an expression makes of ``__file__``, relative to the module's folder, or None."""
    match node:
        case ast.Attribute(value=ast.Call(func=ast.Name(id="Path"), args=[ast.Name(id="__file__")]), attr="parent"):
            return Path()
        case ast.Attribute(value=ast.Call(func=ast.Attribute(value=inner, attr="resolve")), attr="parent"):
            return _below_own_folder(ast.Attribute(value=inner, attr="parent"))
        case ast.Attribute(value=inner, attr="parent"):
            path = _below_own_folder(inner)
            return None if path is None else path / ".."
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=str(name))):
            path = _below_own_folder(left)
            return None if path is None else path / name
    return None


def _data_files(folder: Path, named: Sequence[str]) -> Iterator[Path]:
    for name in named:
        place = (folder / name).resolve()
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            hidden = any(part.startswith((".", "__pycache__")) for part in file.relative_to(place).parts)
            if file.is_file() and file.suffix != ".py" and not hidden:
                yield file


def _absolute(package: list[str], level: int, name: str) -> str:
    base = package[: len(package) - level + 1] if level else []
    return ".".join([*base, *([name] if name else [])])


def _files(root: Path, name: str) -> Iterator[Path]:
    """Yields the files of a module and of its packages; a last part that is a name in a module has no file."""
    place = root
    for part in name.split("."):
        place = place / part
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file
                break


def _root(top: str) -> Path:
    """The folder in which a top-level module is looked for: a user's own modules lie in the working folder.

    Stages lie where they are imported from: beside the package in a checkout, and in the project where the package is
    installed.
    """
    if top == "sdpg":
        return SOURCE
    if top in PACKAGES and (spec := importlib.util.find_spec(top)) is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return SOURCE if top in PACKAGES else Path.cwd()


def _entry_root(entry: str) -> Path:
    top = entry.split(".")[0]
    root = _root(top)
    if not any(_files(root, top)) and (spec := importlib.util.find_spec(top)) is not None:
        folders = spec.submodule_search_locations
        root = Path(folders[0] if folders else spec.origin or "").parent
    names = [file.relative_to(root).with_suffix("").parts for file in _files(root, entry)]
    if entry not in {".".join(parts).removesuffix(".__init__") for parts in names}:
        raise UserError(
            f"there is no module {entry}: it is looked for in {Path.cwd()} and among the installed packages; "
            "put it there, or correct the name"
        )
    return root


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class _Cache:
    """Modules that were parsed before, by the digest of their text and of this module.

    A damaged cache is made anew.
    """

    def __init__(self) -> None:
        self.rules = _hash(Path(__file__).read_bytes())
        self.kept: dict[str, Any] = {}
        self.used: dict[str, Any] = {}
        self.parsed = False
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(CACHE.read_text(encoding="utf-8"))
            if stored["rules"] == self.rules:
                self.kept = dict(stored["modules"])

    def read(self, file: Path) -> Module:
        """Returns a file's module, from the cache if the same text was parsed before."""
        text = file.read_bytes()
        key = _hash(text)
        with suppress(KeyError, TypeError, ValueError):
            digest, imports, data = self.kept[key]
            module = Module(digest, [(level, name) for level, name in imports], list(data))
            self.used[key] = self.kept[key]
            return module
        self.parsed = True
        module = parse_module(text, str(file))
        self.used[key] = [module.digest, module.imports, module.data]
        return module

    def save(self) -> None:
        """Writes the cache if it changed; a folder that cannot be written to costs time alone, so it is passed over."""
        if not self.parsed:
            return
        modules = self.kept | self.used
        with suppress(UserError, OSError):
            write_json(CACHE, {"rules": self.rules, "modules": self.used if len(modules) > MOST_CACHED else modules})
