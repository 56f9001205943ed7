"""The page of the pytest fixtures and options, read from the plugin's source."""

import ast
import inspect

from harness import pytest_plugin
from harness.docs import markdown


def page() -> str:
    """Return the page: a table of the fixtures, and one of the options."""
    tree = ast.parse(inspect.getsource(pytest_plugin))
    made = [node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_fixture(node)]
    names = {node.name for node in made}
    fixtures = [
        [
            markdown.code(node.name),
            " ".join((ast.get_docstring(node) or "").split()),
            ", ".join(markdown.code(each.arg) for each in node.args.args if each.arg in names),
        ]
        for node in made
    ]
    return markdown.page(
        "Fixtures",
        "The pytest plugin that comes with the package has these fixtures. Each is made from "
        "those in the last column, so that overriding one changes all that rest on it.",
        markdown.table(("fixture", "what it is", "made from"), fixtures),
        "## Options",
        markdown.table(("option", "what it does"), _options(tree)),
    )


def _is_fixture(node: ast.FunctionDef) -> bool:
    return any("pytest.fixture" in ast.unparse(each) for each in node.decorator_list)


def _options(tree: ast.Module) -> list[list[str]]:
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".addoption")):
            continue
        named = {each.arg: each.value for each in node.keywords}
        text = named.get("help")
        found.append(
            [
                markdown.code(ast.literal_eval(node.args[0])),
                str(ast.literal_eval(text)) if text is not None else "",
            ]
        )
    return found
