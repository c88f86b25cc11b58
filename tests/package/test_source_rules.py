"""Rules of the source text: annotations, paths in comments, edits of `sys.path`, suppressed warnings, prints."""

import ast
import io
import re
import subprocess
import tokenize

import pytest
from conftest import ROOT

LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
FILES = [ROOT / name for name in LISTED if (ROOT / name).is_file()]
PYTHON = {path: path.read_text() for path in FILES if path.suffix == ".py"}
PACKAGE = {path: text for path, text in PYTHON.items() if path.relative_to(ROOT).parts[0] in ("trainers", "datasets")}
FOLDERS = "trainers|datasets|configs|scripts|tests|docs|examples|third_party"
# Files of users and of other toolboxes, which examples name.
ELSEWHERE = re.compile(r"planets|shallowvpt|colour|confidence|nowhere|vit_b16_(ep|c2)|trainers/clip", re.I)

pytestmark = pytest.mark.skipif(not LISTED, reason="needs a git checkout")


def public_functions(node):
    """Yield the public functions of a module or a class, not those inside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            if not child.name.startswith("_"):
                yield child
        else:
            yield from public_functions(child)


def test_every_public_argument_is_annotated():
    missing = [
        f"{path.relative_to(ROOT)}:{function.lineno} {argument.arg}"
        for path, text in PACKAGE.items()
        for function in public_functions(ast.parse(text))
        for argument in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        if argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    assert not missing


def prose(path):
    """Return the comments and strings of a Python file, else the whole text."""
    if path.suffix != ".py":
        return path.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(PYTHON[path]).readline)
    return "\n".join(token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING))


def test_paths_in_texts_exist():
    texts = [path for path in FILES if path.suffix in (".py", ".md", ".yaml", ".yml", ".toml", ".sh")]
    texts = [path for path in texts if path.parent != ROOT / "tests" / "package"]  # they write such files
    pattern = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/.+-]*\.(?:py|sh|md|ya?ml|ipynb|toml)\b")
    gone = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in texts
        for found in pattern.findall(prose(path))
        if not any((folder / found).exists() for folder in (ROOT, ROOT / "configs")) and not ELSEWHERE.search(found)
    ]
    assert not gone


def test_only_two_files_edit_the_import_path():
    edits = [
        path for path, text in PYTHON.items() if re.search(r"sys\.path(\[.*\] *=|\.(insert|append|extend)\()", text)
    ]
    assert edits == [ROOT / "tests/conftest.py", ROOT / "train.py"]


def test_at_most_five_imports_are_excused():
    excuses = [
        line
        for text in PYTHON.values()
        for line in text.splitlines()
        if re.search(r"# noqa: [A-Z0-9, ]*(E402|F401)", line)
    ]
    assert 0 < len(excuses) <= 5
    assert not re.search(r"E402|F401", (ROOT / "pyproject.toml").read_text())


def test_only_programs_print_and_parse():
    """Elsewhere than in `cli/` and `__main__.py`, messages are logged."""
    names = ("print", "ArgumentParser")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, text in PACKAGE.items()
        if "cli" not in path.parts and path.name != "__main__.py"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names
    ]
    assert not found


def test_engine_names_no_configuration_key():
    keys = re.compile(r"\b(?:TRAINER|OPTIM|DATASET|INPUT|MODEL|TRAIN|TEST|DATALOADER)\.[A-Z]|\bcfg\b|--[a-z]|yacs")
    engine = {path: text for path, text in PACKAGE.items() if path.parent == ROOT / "trainers" / "engine"}
    assert engine and not [(path.name, keys.findall(text)) for path, text in engine.items() if keys.search(text)]


def test_nothing_imports_fcntl():
    pattern = re.compile(r"^\s*(?:import|from) (?:fcntl|resource|pwd|grp|termios)\b", re.M)
    assert not [path for path, text in PACKAGE.items() if pattern.search(text)]


def test_files_of_the_package_are_short():
    assert not [path for path, text in PACKAGE.items() if len(text.splitlines()) > 400]
