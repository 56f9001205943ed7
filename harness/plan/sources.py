"""A digest of every source that could reach a compiled program, found by following imports."""

import ast
import functools
import hashlib
import importlib.util
import pathlib

_PACKAGE = pathlib.Path(__file__).parents[1]
_START = "harness.plan.worker"


def reached(package: pathlib.Path, start: str) -> list[pathlib.Path]:
    """List the modules of a package that a module imports, directly or through others.

    Imports inside functions count, and so does a module's name given as a literal to
    `import_module`. A module that calls `iter_modules` imports all that lie beside it.

    Args:
      package: The package's folder; its name is the name of the package.
      start: The module to begin with, by its full name.

    Returns:
      Paths, sorted; the module itself and the `__init__` of every package above are
      among them.
    """
    found: set[pathlib.Path] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = _path(package, name)
        if path is None or path in found:
            continue
        found.add(path)
        # Importing a module imports the packages that hold it.
        waiting.append(name.rpartition(".")[0])
        parent = name if path.name == "__init__.py" else name.rpartition(".")[0]
        source = path.read_text(encoding="utf-8")
        waiting += imports(source, parent)
        if "iter_modules(" in source:
            waiting += [f"{parent}.{each.stem}" for each in path.parent.glob("*.py")]
    return sorted(found)


def digest(package: pathlib.Path = _PACKAGE, start: str = _START) -> str:
    """Digest the code, but for its comments and layout, that `reached` finds.

    Args:
      package: The package's folder.
      start: The module to begin with.

    Returns:
      Hexadecimal digits.
    """
    found = hashlib.sha256()
    for path in reached(package, start):
        code = _code(path.read_text(encoding="utf-8"))
        found.update(f"{path.relative_to(package).as_posix()}\0{code}\0".encode())
    return found.hexdigest()


# By the text, so that an edit is seen; several stores of one process read the same files.
@functools.cache
def _code(source: str) -> str:
    """Digest the code of a module, but for its comments and layout."""
    return hashlib.sha256(ast.dump(ast.parse(source)).encode()).hexdigest()


@functools.cache
def installed(name: str) -> str | None:
    """Digest the Python files of an installed package, whose version says too little.

    A checkout of Tunix that is being worked on keeps its version while its programs
    change.

    Args:
      name: The package, as it is imported.

    Returns:
      Hexadecimal digits, `None` where it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    found = hashlib.sha256()
    for folder in spec.submodule_search_locations or ():
        root = pathlib.Path(folder)
        for path in sorted(root.rglob("*.py")):
            found.update(path.relative_to(root).as_posix().encode() + b"\0")
            found.update(path.read_bytes() + b"\0")
    return found.hexdigest()


def _path(package: pathlib.Path, name: str) -> pathlib.Path | None:
    parts = name.split(".")
    if parts[0] != package.name:
        return None
    path = package.joinpath(*parts[1:])
    for each in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if each.is_file():
            return each
    return None


@functools.cache
@functools.cache
def imports(source: str, package: str = "harness") -> frozenset[str]:
    """Return the names that a module's text imports, wherever in it, as absolute as can be.

    `from a import b` counts as `a` and as `a.b`, and a literal given to
    `import_module` counts too.

    Args:
      source: The text.
      package: The package that relative imports start from.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
                names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
            case ast.Call(args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
                    names.add(name)
    return frozenset(names)
