"""The import table of the package, and a few rules of the tree, checked on the source itself."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A part and what of ours it may import besides itself, in import order: every part uses only parts above it.
# Anyone may import strict_yaml, config, streams, optimization, spaces and protocols; "iris_wm" alone is the version.
TABLE: dict[str, str] = {
    "strict_yaml": "",
    "config": "",
    "streams": "",
    "optimization": "",
    "spaces": "iris_kernels",
    "two_hot": "",
    "data": "spaces",
    "protocols": "spaces data",
    "checkpoint": "data iris_wm",
    "envs": "",
    "tokenizer": "data iris_kernels",
    "world": "data tokenizer iris_kernels",
    "dream": "data tokenizer world",
    "policy": "data tokenizer world dream iris_kernels",
    "agent": "data checkpoint tokenizer world policy dream",
    "acting": "data envs policy agent",
    "collection": "data envs policy agent acting",
    "evaluation": "data checkpoint envs dream tokenizer world agent acting",
    "visualization": "data",
    "runs": "data checkpoint envs tokenizer world policy dream agent acting collection evaluation iris_wm",
    "training": "data checkpoint envs tokenizer world policy dream agent acting collection evaluation runs"
    " visualization",
    "interop": "tokenizer world policy agent",
    "play": "data envs tokenizer world policy dream agent acting visualization",
    "reports": "data envs tokenizer world dream agent acting evaluation visualization runs",
    "benchmark": "checkpoint runs evaluation visualization",
    "cli": "*",
    "__main__": "cli",
    "__init__": "*",
}
KERNELS = "iris_kernels"
ANYONE = ("strict_yaml", "config", "streams", "optimization", "spaces", "two_hot", "protocols")
FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers"}


def imports(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """(line, imported module, relative level) of every import, those inside functions included.

    `from iris_wm import name` counts as iris_wm.name: what it names may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == "iris_wm":
                yield from ((node.lineno, f"iris_wm.{alias.name}", node.level) for alias in node.names)
            else:
                yield node.lineno, module, node.level


def part_of(module: str) -> str | None:
    """The row of the table that a dotted module belongs to; None if it is not ours."""
    names = module.split(".")
    if names[0] == KERNELS:
        return KERNELS
    if names[0] != "iris_wm":
        return None
    return names[1] if len(names) > 1 and names[1] != "__version__" else "iris_wm"


def import_problems(package: Path, table: Mapping[str, str]) -> list[str]:
    """Every import of `package` that the table does not allow, and every relative one."""
    problems = []
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).parts[0].removesuffix(".py")
        where = path.relative_to(package.parent)
        if part not in table:
            problems.append(f"{where}: part {part!r} is not in the table")
            continue
        allowed = {part, *ANYONE, *table[part].split()}
        for line, module, level in imports(ast.parse(path.read_text())):
            target = part_of(module)
            if level:
                problems.append(f"{where}:{line}: relative import of {module or '.'}")
            elif target is not None and target not in allowed and "*" not in allowed:
                problems.append(f"{where}:{line}: {part} imports {module}")
    return problems


def module_cycles(folders: list[Path]) -> list[list[str]]:
    """Cycles among modules by their imports at module level (those inside functions run later)."""
    graph: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        for path in folder.rglob("*.py"):
            name = ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
            for node in ast.walk(_without_functions(ast.parse(path.read_text()))):
                if isinstance(node, ast.Import):
                    graph[name].update(alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    graph[name].add(node.module)
                    graph[name].update(f"{node.module}.{alias.name}" for alias in node.names)
    cycles: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            cycles.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(graph[name] & graph.keys() - {name}):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return cycles


def _without_functions(tree: ast.Module) -> ast.Module:
    """The module without function bodies and without what only type checkers read."""

    class Remover(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return Remover().visit(tree)


def test_imports_follow_the_table():
    assert not import_problems(ROOT / "iris_wm", TABLE)


def test_the_table_is_in_import_order():
    above = {KERNELS, "iris_wm", *ANYONE}
    for part, allowed in TABLE.items():
        assert set(allowed.split()) - {"*"} <= above, part
        above.add(part)


def test_kernels_import_nothing_of_the_package():
    for path in (ROOT / "kernels" / KERNELS).rglob("*.py"):
        for line, module, level in imports(ast.parse(path.read_text())):
            assert level == 0, f"{path}:{line}: relative import"
            assert module.split(".")[0] != "iris_wm", f"{path}:{line} imports {module}"


def test_no_cycles():
    assert not module_cycles([ROOT / "iris_wm", ROOT / "kernels" / KERNELS])


def test_no_package_where_there_must_be_none():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_module_named_after_nothing():
    for folder in ("iris_wm", "kernels", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            names = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
            assert not names & FORBIDDEN_NAMES, path


def test_tests_mirror_the_package():
    """A folder of tests has the name of a part."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders <= {
        *TABLE,
        "kernels",
        "learning",
        "reliability",
        "security",
        "notebooks",
        "benchmarks",
        "docs",
        "examples",
    }


def test_every_module_opens_with_a_sentence():
    for folder in ("iris_wm", f"kernels/{KERNELS}"):
        for path in (ROOT / folder).rglob("*.py"):
            docstring = ast.get_docstring(ast.parse(path.read_text()))
            assert docstring, f"{path} has no docstring"
            assert docstring.split("\n\n")[0].rstrip().endswith((".", "!", "?", ":")), path


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("world/bad.py", "import iris_wm.agent\n", "world imports iris_wm.agent"),
        (
            "world/bad.py",
            "def f():\n    from iris_wm.checkpoint.folder import resume\n",
            "bad.py:2: world imports",
        ),
        ("data/bad.py", "from iris_wm import envs\n", "data imports iris_wm.envs"),
        ("data/bad.py", "from . import episode\n", "relative import"),
        ("dream/bad.py", "from ..world import transformer\n", "relative import"),
        (
            "training/bad.py",
            "from iris_wm.play.server import serve\n",
            "training imports iris_wm.play.server",
        ),
        ("config.py", "from iris_wm.data.episode import Episode\n", "config imports"),
        ("envs/bad.py", "import iris_kernels\n", "envs imports iris_kernels"),
        ("extras/new.py", "\n", "'extras' is not in the table"),
    ],
)
def test_planted_imports_are_found(tmp_path, path, source, expected):
    file = tmp_path / "iris_wm" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    problems = import_problems(tmp_path / "iris_wm", TABLE)
    assert len(problems) == 1
    assert expected in problems[0]


def test_planted_cycle_is_found(tmp_path):
    package = tmp_path / "iris_wm"
    package.mkdir()
    (package / "a.py").write_text("from iris_wm.b import x\n")
    (package / "b.py").write_text("from iris_wm import c\n")
    (package / "c.py").write_text("import iris_wm.a\n")
    assert module_cycles([package]) == [["iris_wm.a", "iris_wm.b", "iris_wm.c", "iris_wm.a"]]
    (package / "c.py").write_text("def later():\n    import iris_wm.a\n")
    assert not module_cycles([package])


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["iris_wm", "iris_wm.cli", "iris_wm.envs"])
def test_import_brings_neither_lightning_nor_triton(module):
    run_python(
        f"import {module}, sys\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'lightning', 'pytorch_lightning', 'triton'}, sorted(loaded)"
    )


def test_the_agent_needs_no_lightning():
    run_python(
        "import iris_wm.agent, sys\n"
        "assert not {'lightning', 'pytorch_lightning'} & {name.split('.')[0] for name in sys.modules}"
    )
