"""Constructors as their source files declare them, read without importing anything.

Help needs names, types, defaults and docstrings. Importing the classes would import Lightning,
which takes seconds.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dsvl_tune.core.package import ROOTS


@dataclass(frozen=True)
class Argument:
    """A parameter of a constructor.

    Attributes:
        name: Its name.
        type: Its annotation as text, aliases of literals written out.
        default: Its default as Python text; None without one.
        help: Its line of the docstring.
    """

    name: str
    type: str
    default: str | None
    help: str


@dataclass(frozen=True)
class Constructor:
    """A class as one can construct it.

    Attributes:
        name: Name of the class.
        summary: First line of its docstring.
        description: The docstring above its arguments.
        arguments: Its own arguments, then those that it passes on to its base.
    """

    name: str
    summary: str
    description: str
    arguments: tuple[Argument, ...]


def trainer_constructor() -> Constructor:
    """Read the constructor of Lightning's Trainer."""
    spec = find_spec("lightning")  # finds the package without importing it
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / "pytorch" / "trainer" / "trainer.py"
    return read_constructor(file, "Trainer")


def module_constructor() -> Constructor:
    """Read the constructor of `FinetuneModule`."""
    return read_constructor(_source_of("dsvl_tune.training.module"), "FinetuneModule")


def data_constructors() -> dict[str, Constructor]:
    """Read the constructors of the package's data modules, by the names of their classes."""
    package = _source_of("dsvl_tune.datamodules")
    names = set(_literal(package, "__all__"))
    found = {}
    for file in sorted(package.parent.glob("*.py")):
        for node in _parse(file).body:
            if isinstance(node, ast.ClassDef) and node.name in names:
                found[node.name] = read_constructor(file, node.name)
    return found


def read_constructor(file: Path, name: str) -> Constructor:
    """Read a class's constructor.

    Args:
        file: Source file of the class.
        name: Name of the class.
    """
    node = _class(file, name)
    init = next(
        item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    )
    doc = ast.get_docstring(node) or ""
    texts = {**_argument_texts(ast.get_docstring(init) or ""), **_argument_texts(doc)}
    arguments = [
        replace(argument, help=texts.get(argument.name, ""))
        for argument in _declared_arguments(file, init)
    ]
    if init.args.kwarg is not None and node.bases:
        base = read_constructor(*_imported(file, ast.unparse(node.bases[0])))
        own = {argument.name for argument in arguments}
        arguments += [argument for argument in base.arguments if argument.name not in own]
    return Constructor(
        name,
        summary=doc.partition("\n")[0],
        description=doc.partition("\n\nArgs:")[0],
        arguments=tuple(arguments),
    )


def _declared_arguments(file: Path, init: ast.FunctionDef) -> Iterator[Argument]:
    """List the arguments of a constructor, without their help."""
    positional = init.args.args[1:]  # without self
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(init.args.defaults))
    defaults += init.args.defaults
    for argument, default in [
        *zip(positional, defaults, strict=True),
        *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True),
    ]:
        yield Argument(
            argument.arg,
            _type_text(file, argument.annotation),
            None if default is None else ast.unparse(default),
            help="",
        )


def _type_text(file: Path, annotation: ast.expr | None) -> str:
    """Write an annotation; a name that stands for a Literal is replaced by its choices."""
    text = "Any" if annotation is None else ast.unparse(annotation)
    for name in set(re.findall(r"\b[A-Z_]\w+\b", text)):
        literal = _literal_alias(file, name)
        if literal:
            text = re.sub(rf"\b{name}\b", literal, text)
    return text.replace("'", '"')


def _literal_alias(file: Path, name: str) -> str | None:
    """Look up a module-level `Name = Literal[...]`, also where this file imports it from."""
    try:
        source, own_name = _imported(file, name)
        value = _assigned(source, own_name)
    except (LookupError, OSError):
        return None
    text = ast.unparse(value)
    return text if text.startswith("Literal[") else None


def _argument_texts(docstring: str) -> dict[str, str]:
    """Read the lines of a Google docstring's `Args` section, by argument."""
    section = re.search(r"^Args:\n(.*?)(?:^\w[\w ]*:\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if section is None:
        return {}
    texts = {}
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc("\n" + section[1])):
        name, _, text = entry.partition(":")
        texts[name.split(" ")[0].strip()] = " ".join(text.split())
    return texts


def _imported(file: Path, name: str) -> tuple[Path, str]:
    """Find the file that a name of another file comes from, and its name there.

    Raises:
        LookupError: The name comes from a package that is not read.
    """
    for node in _parse(file).body:
        if isinstance(node, (ast.ClassDef, ast.Assign)) and name in _defined(node):
            return file, name
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _module_file(file, node), alias.name
    raise LookupError(name)


def _module_file(file: Path, node: ast.ImportFrom) -> Path:
    """Find the file of the module that an import statement names."""
    if node.level == 1:
        return file.parent / f"{node.module}.py"
    if str(node.module).startswith("dsvl_tune."):
        return _source_of(str(node.module))
    raise LookupError(node.module)


def _source_of(module: str) -> Path:
    """Find the source file of a module of this package, in a checkout or installed."""
    parts = module.split(".")[1:]
    for root in ROOTS:
        for path in (
            root.joinpath(*parts).with_suffix(".py"),
            root.joinpath(*parts, "__init__.py"),
        ):
            if path.is_file():
                return path
    raise LookupError(module)


@cache
def _parse(file: Path) -> ast.Module:
    """Parse a source file, once."""
    return ast.parse(file.read_text(encoding="utf-8"))


def _class(file: Path, name: str) -> ast.ClassDef:
    """Find a class in a source file."""
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(name)


def _assigned(file: Path, name: str) -> ast.expr:
    """Find the value of a module-level name."""
    for node in _parse(file).body:
        if isinstance(node, ast.Assign) and name in _defined(node):
            return node.value
    raise LookupError(name)


def _literal(file: Path, name: str) -> list[str]:
    """Evaluate a module-level list of strings."""
    value: list[str] = ast.literal_eval(_assigned(file, name))
    return value


def _defined(node: ast.ClassDef | ast.Assign) -> list[str]:
    """List the names that a statement defines."""
    if isinstance(node, ast.ClassDef):
        return [node.name]
    return [target.id for target in node.targets if isinstance(target, ast.Name)]
