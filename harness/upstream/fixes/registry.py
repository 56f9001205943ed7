"""Find the known issues, and write the script that shows one on plain Tunix.

A module of this package is an issue if its name does not begin with an underscore and it is not
one of `_NO_ISSUES`; nothing lists them.
"""

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping

from harness.upstream import fixes
from harness.upstream.engine.points import Fix
from harness.upstream.fixes.known_issue import KnownIssue
from harness.upstream.selection import Fixes

_NO_ISSUES = ("known_issue", "registry")
_MAIN = 'if __name__ == "__main__":\n    raise SystemExit(0 if reproduce() else 1)\n'


def collect() -> tuple[KnownIssue, ...]:
    """Import the modules of all issues and return their `ISSUE`s, sorted by id.

    Raises:
      ValueError: An issue has another name than its module.
    """
    found = []
    for each in pkgutil.iter_modules(fixes.__path__):
        if each.name.startswith("_") or each.name in _NO_ISSUES:
            continue
        issue = importlib.import_module(f"{fixes.__name__}.{each.name}").ISSUE
        if _module_of(issue.id) != each.name:
            raise ValueError(f"{each.name}.py holds the issue '{issue.id}': name one as the other")
        found.append(issue)
    return tuple(sorted(found, key=lambda issue: issue.id))


def fixes_of(chosen: Fixes) -> tuple[Fix, ...]:
    """Return the fixes of issues, each once where several issues have it in common.

    Args:
      chosen: Which issues are to be fixed.
    """
    named = dict.fromkeys(issue.fix_id for issue in ISSUES if issue.id in chosen)
    kinds = [importlib.import_module(f"{fixes.__name__}.{_module_of(name)}").Fix for name in named]
    return tuple(kind() for kind in dict.fromkeys(kinds))


def _module_of(name: str) -> str:
    return name.replace("-", "_")


ISSUES: tuple[KnownIssue, ...] = collect()


def script(name: str) -> str:
    """Return a script that reproduces an issue on Tunix, without this harness.

    It holds what the issue's `reproduce` reaches, of its module and of `_prelude`, and nothing
    else. It ends with exit code 0 where the issue shows, 1 where not.

    Args:
      name: Id of the issue.

    Raises:
      ValueError: The issue's module gives a name of `_prelude` another meaning.
    """
    prelude, issue = _Source("_prelude"), _Source(_module_of(name))
    clashes = prelude.definitions.keys() & issue.definitions.keys()
    if clashes:
        raise ValueError(f"'{name}' defines {sorted(clashes)}, as _prelude does: rename it")
    definitions = prelude.definitions | issue.definitions
    used = _reached("reproduce", definitions)
    imports = prelude.imports | issue.imports
    head = _import_lines(imports[each] for each in imports.keys() & used)
    bodies = [
        source.text_of(each)
        for source in (prelude, issue)
        for each in source.definitions
        if each in used
    ]
    return "\n\n".join([issue.docstring, head, *bodies, f"\n{_MAIN}"])


class _Source:
    """What a script may take from a module of this package, by name, in the order of the text.

    Attributes:
      docstring: The module's docstring, as it is written.
      definitions: Functions, classes and constants.
      imports: Imports of one name each, but for those of the harness.
    """

    def __init__(self, module: str):
        self._text = inspect.getsource(importlib.import_module(f"{fixes.__name__}.{module}"))
        docstring, *body = ast.parse(self._text).body
        self.docstring = str(ast.get_source_segment(self._text, docstring))
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, ast.Import | ast.ImportFrom] = {}
        for node in body:
            self._add(node)

    def _add(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                self.definitions[name] = node
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                self.definitions[name] = node
            case ast.Import(names=names):
                for each in names:
                    bound = each.asname or each.name.partition(".")[0]
                    self.imports[bound] = ast.Import([each])
            case ast.ImportFrom(module=str(module), names=names) if _top(module) != "harness":
                for each in names:
                    self.imports[each.asname or each.name] = ast.ImportFrom(module, [each], 0)

    def text_of(self, name: str) -> str:
        """Return the text of a definition, below an empty line more if it is no constant."""
        node = self.definitions[name]
        decorators = getattr(node, "decorator_list", None)
        first = min([node.lineno, *(each.lineno for each in decorators or [])])
        lines = self._text.splitlines()[first - 1 : node.end_lineno]
        return "\n".join(lines if decorators is None else ["", *lines])


def _reached(start: str, definitions: Mapping[str, ast.stmt]) -> set[str]:
    """Return the names that a definition uses, directly or through other definitions."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in definitions:
            inside = ast.walk(definitions[name])
            waiting += [each.id for each in inside if isinstance(each, ast.Name)]
    return found


def _import_lines(imports: Iterable[ast.Import | ast.ImportFrom]) -> str:
    """Return imports as isort would write them: the standard library first, one line a module."""
    lines: dict[str, str] = {}  # the module of each line
    names: dict[str, list[ast.alias]] = {}
    for each in imports:
        (alias,) = each.names
        if isinstance(each, ast.Import):
            lines[ast.unparse(each)] = alias.name
        elif alias.asname:
            lines[ast.unparse(each)] = str(each.module)
        else:
            names.setdefault(str(each.module), []).append(alias)
    for module, aliases in names.items():
        aliases.sort(key=lambda alias: alias.name)
        lines[ast.unparse(ast.ImportFrom(module, aliases, 0))] = module
    groups: tuple[list[str], list[str]] = ([], [])
    for line in sorted(lines, key=lambda line: (line.startswith("from"), line)):
        groups[_top(lines[line]) not in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group)


def _top(module: str) -> str:
    return module.partition(".")[0]
