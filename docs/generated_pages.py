"""Pages that mkdocs makes while it builds: the API, the gallery of examples, and the kill matrix.

Sources are read, never imported, so the pages need neither JAX nor a checkout that runs. mkdocs.yml names this file
under `hooks`; nothing is written into the tree.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

#: Package: the name it is imported under in examples.
PACKAGES = {
    "probinf": "pi",
    "probinf.plots": "pi.plots",
    "probinf.streaming": "pi.streaming",
    "probinf.predictive_coding": "hgf",
    "probinf.predictive_coding.deep": "deep",
    "probinf.validity": "pi.validity",
    "smc": "smc",
    "continual": "continual",
    "transformers_gmm": "transformers_gmm",
}
_SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples", "References")


def on_config(config: Any) -> Any:
    """Put the pages into the navigation."""
    pages = [{package: f"api/{package}.md"} for package in packages()]
    config["nav"] = [*config["nav"], {"Kill matrix": "kill-matrix.md"}, {"Examples": "examples.md"}, {"API": pages}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Make the pages."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "examples.md", content=examples_page()))
    files.append(File.generated(config, "kill-matrix.md", content=kill_matrix_page()))
    for package in packages():
        files.append(File.generated(config, f"api/{package}.md", content=api_page(package)))
    return files


def packages() -> list[str]:
    """Packages with public names."""
    return [name for name in PACKAGES if (_folder(name) / "__init__.py").exists() and any(public_names(name))]


# -- faults ----------------------------------------------------------------------------------------------------------


def kill_matrix_page() -> str:
    """Every fault of the recorded run of `benchmarks.mutants`, and the check that finds it."""
    found = json.loads((ROOT / "benchmarks" / "results" / "mutants.json").read_text())

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:+.2g}"

    def code(value: Any) -> str:
        escaped = str(value).replace("|", "\\|")
        return "" if value is None else f"`{escaped}`"

    lines = ["# Kill matrix", "", "Faults put into the library on purpose, and the first check that finds each, as"]
    lines += ["`python -m benchmarks.mutants` recorded them. Two particles on one program: the relative error of"]
    lines += ["E[Zhat], all that a test of the evidence could see, and the largest error of the measure over Z.", ""]
    lines += ["## Seeded faults", "", "| fault | module | evidence | measure | tier | check |", "| --- " * 6 + "|"]
    for row in found["seeded"]:
        numbers = (number(row["evidence"]), number(row["measure"]))
        cells = (row["fault"], code(row["module"]), *numbers, row["tier"] or "survives", code(row["check"]))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Automatic mutants", "", "| place | change | verdict | tier | check |", "| --- " * 5 + "|"]
    for row in found["automatic"]:
        cells = (code(row["place"]), code(row["change"]), row["verdict"], row["tier"] or "", code(row["check"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


# -- API -------------------------------------------------------------------------------------------------------------


def api_page(package: str) -> str:
    """All public names of a package: signature and docstring."""
    about = ast.get_docstring(_parsed(_folder(package) / "__init__.py")) or ""
    lines = [f"# {package}", "", text(about), ""]
    for name, node in sorted(public_names(package), key=lambda pair: pair[0].lower()):
        lines += entry(PACKAGES[package], name, node)
    return "\n".join(lines) + "\n"


def public_names(package: str) -> Iterator[tuple[str, ast.AST]]:
    """Names that the package's `__init__` offers, with the classes and functions they stand for."""
    for statement in ast.walk(_parsed(_folder(package) / "__init__.py")):
        if not isinstance(statement, ast.ImportFrom) or statement.module is None or statement.level:
            continue
        if statement.module.split(".")[0] not in {name.split(".")[0] for name in PACKAGES}:
            continue
        for alias in statement.names:
            found = _definition(statement.module, alias.name)
            if found is not None and not alias.name.startswith("_"):
                yield alias.asname or alias.name, found


def _definition(module: str, name: str) -> ast.AST | None:
    """The class or function of a module, followed through the `__init__` of a subpackage."""
    folder = _folder(module)
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if not path.exists():
        return None
    for node in _parsed(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module not in (None, module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(str(node.module), alias.name)
    return None


def entry(prefix: str, name: str, node: ast.AST) -> list[str]:
    """One name: heading, signature, docstring; of classes the public methods too."""
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    signature = f"{prefix}.{name}({_arguments(node)})"
    lines = [f"## {name}", "", "```python", _wrapped(signature), "```", "", text(ast.get_docstring(node) or ""), ""]
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            about = ast.get_docstring(method) if isinstance(method, ast.FunctionDef) else None
            if isinstance(method, ast.FunctionDef) and about and not method.name.startswith("_"):
                is_property = any("property" in ast.unparse(d) for d in method.decorator_list)
                call = method.name if is_property else f"{method.name}({_arguments(method)})"
                lines += [f"**`.{call}`**", "", text(about), ""]
    return lines


def _arguments(node: ast.ClassDef | ast.FunctionDef) -> str:
    """What is written between the parentheses, without `self`."""
    if isinstance(node, ast.FunctionDef):
        found = ast.unparse(node.args)
        return re.sub(r"^(self|cls)(, |$)", "", found)
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _arguments(part)
    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
    return ", ".join(_field(f) for f in fields if not f.target.id.startswith("_"))  # pyright: ignore[reportAttributeAccessIssue]


def _field(field: ast.AnnAssign) -> str:
    """A field of a class as an argument; of `field(default=...)` the default."""
    value = field.value
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        value = next((k.value for k in value.keywords if k.arg in ("default", "default_factory")), None)
    shown = f"{ast.unparse(field.target)}: {ast.unparse(field.annotation)}"
    return shown if value is None else f"{shown} = {ast.unparse(value)}"


def _wrapped(signature: str) -> str:
    """A long signature with an argument a line."""
    if len(signature) <= 100:
        return signature
    head, _, rest = signature.partition("(")
    depth, parts, current = 0, [], ""
    for char in rest[:-1]:
        depth += char in "([{"
        depth -= char in ")]}"
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    return "\n".join([f"{head}(", *(f"    {part}," for part in (*parts, current.strip()) if part), ")"])


def text(docstring: str) -> str:
    """A docstring with Google's sections as Markdown."""
    lines: list[str] = []
    section = ""
    block: list[str] = []

    def flush() -> None:
        content = inspect.cleandoc("\n".join(["", *block])) if block else ""
        if section:
            lines.extend(["", f"*{section}*", "", *_section(section, content), ""])
        else:
            lines.extend(re.sub(r"::$", ":", line) for line in content.splitlines())
        block.clear()

    for line in inspect.cleandoc(docstring).splitlines():
        if line.rstrip(":") in _SECTIONS and line.endswith(":"):
            flush()
            section = line[:-1]
        elif section and line and not line.startswith(" "):
            flush()
            section = ""
            block.append(line)
        else:
            block.append(line)
    flush()
    return "\n".join(lines).strip()


def _section(section: str, content: str) -> list[str]:
    if section.startswith("Example"):
        return content.splitlines() if "```" in content else ["```python", content, "```"]
    if section in ("Returns", "Yields", "References"):
        return content.splitlines()
    items: list[str] = []
    for line in content.splitlines():
        found = re.match(r"([\w*, .]+): (.*)", line)
        if found and not line.startswith(" "):
            items.append(f"- `{found[1]}`: {found[2]}")
        else:
            items.append("    " + line.strip() if line.strip() else "")
    return items


# -- examples --------------------------------------------------------------------------------------------------------


def examples() -> dict[str, tuple[str, str]]:
    """Name of every example: its question, and the command that runs it."""
    found = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        tree = _parsed(path)
        if not any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            continue  # shared by others
        about = ast.get_docstring(tree) or ""
        found[path.stem] = (about.splitlines()[0], f"python -m examples.{path.stem}")
    return found


def examples_page() -> str:
    """The gallery: one line and one command each."""
    lines = [
        "# Examples",
        "",
        "Programs from a checkout; `--help` lists the options. Exact answers stand beside theirs where those exist.",
        "",
    ]
    for name, (question, command) in examples().items():
        lines += [f"## {name}", "", question, "", "```", command, "```", ""]
    return "\n".join(lines)


def _folder(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
