"""Every command in README, CONTRIBUTING and docs/ is known, and its flags and keys are."""

import json
import re
import shlex
from pathlib import Path

import documents
import pytest
import titled
from conftest import ROOT
from documents import PAGES

import trainers.hosts
from scripts.benchmark import program as bench
from trainers.__main__ import COMMANDS
from trainers.config import FIELDS

assert trainers.hosts  # declares the hosts' keys
ALL = [command for page in PAGES for command in documents.commands(page)]
SHELLS = {path.name: path.stem.replace("_", "-") for path in (ROOT / "scripts" / "caspl").glob("*.sh")}
PROGRAMS = {"train.py": "train", "scripts/data.py": "data", "scripts/results.py": "results"}
LANGUAGES = {"bash", "python", "text", "yaml", "bibtex"}
OTHERS = {  # program: accepted first words
    "pip": ("install",),
    "git": ("clone",),
    "python": ("-m", "train.py", "scripts/", "examples/"),
    "mkdocs": ("build",),
    "pre-commit": ("install", "run"),
    "cd": ("",),
}


def check_pairs(pairs, known=FIELDS):
    """Check KEY VALUE pairs against the table of keys."""
    assert len(pairs) % 2 == 0, pairs
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        assert key in known, f"unknown key {key}"
        problem = known[key].problem(known[key].convert(value))
        assert not problem, f"{key} {value}: {problem}"


def check_caspl(words):
    """Parse a command of this package completely, with its keys."""
    assert words[0] in COMMANDS, f"unknown command {words[0]}"
    args = documents.parse(words).namespace
    for name in ("opts", "boost", "adapt"):
        check_pairs(getattr(args, name))


def check_extras(words):
    """Check that the extras of `pip install` exist."""
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    known = set(re.findall(r"^(\w+) = ", section, re.M))
    for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= known, extras


def check(words):
    """Check a command line; every program that pages may use is listed here."""
    words = [word for index, word in enumerate(words) if index or not re.match(r"[A-Z_]+=", word)]
    program, rest = Path(words[0]).name, words[1:]
    if program == "caspl":
        check_caspl(rest)
    elif program == "bash":
        assert (ROOT / rest[0]).is_file(), rest[0]
        if Path(rest[0]).name in SHELLS:
            check_caspl([SHELLS[Path(rest[0]).name], *rest[1:]])
    elif program == "torchrun" or (program == "python" and rest[0] in PROGRAMS):
        start = next(index for index, word in enumerate(rest) if word in PROGRAMS)
        check_caspl([PROGRAMS[rest[start]], *rest[start + 1 :]])
    else:
        assert program in OTHERS and rest[0].startswith(OTHERS[program]), f"unknown program {words}"
        if rest[0] == "scripts/bench.py":
            bench.parse(rest[1:])
        elif rest[0].startswith(("scripts/", "examples/")):
            source = (ROOT / rest[0]).read_text()
            assert all(word in source for word in rest if word.startswith("--")), rest
        check_extras(rest if program == "pip" else [])


def problems(lines):
    """Return what is wrong with a list of commands."""
    wrong = []
    for line in lines:
        try:
            check(shlex.split(line) if isinstance(line, str) else line.words)
        except (AssertionError, SystemExit, ValueError, KeyError) as error:
            wrong.append(f"{line}: {error!r}")
    return wrong


def test_commands_of_all_pages_are_known():
    assert len(ALL) > 40
    assert not problems(ALL)


@pytest.mark.parametrize(
    "line",
    [
        "caspl base3new shapes 1",
        "caspl base2new shapes 1 --hosts coop",
        "caspl base2new shape 1",
        "caspl base2new shapes 1 OPTIM.LRR 0.1",
        "caspl base2new shapes 1 OPTIM.LR fast",
        "bash scripts/caspl/nowhere.sh",
        "bash scripts/caspl/few_shot.sh shapes 1 1 --host coop --nothing",
        "torchrun --nproc_per_node 4 train.py --trainr CasPL",
        "python scripts/bench.py --nothing",
        "pip install '.[nothing]'",
        "conda install caspl",
    ],
)
def test_wrong_commands_fail(line):
    assert problems([line])


def test_every_titled_command_is_planned_run_or_listed():
    source = (ROOT / "tests" / "package" / "test_documents_titled.py").read_text()
    tests = set(re.findall(r"^def (test_\w+)", source, re.M))
    assert not titled.problems(tests)
    assert tests == {*titled.RUN.values(), "test_commands_that_need_data_are_planned"}


def test_missing_and_superfluous_tests_are_found(monkeypatch):
    monkeypatch.delitem(titled.RUN, "caspl demo")
    monkeypatch.setitem(titled.NOT_RUN, "docker run", "not installed")
    found = titled.problems(set(titled.RUN.values()))
    assert {problem.split(":")[0] for problem in found} == {"no test", "no command"}


def test_commands_are_in_fenced_blocks():
    assert not [line for page in PAGES for line in documents.uncollected(page)]


def test_every_fence_is_collected():
    for page in PAGES:
        fences = [line for line in page.read_text().splitlines() if line.lstrip().startswith(("```", "~~~"))]
        assert len(fences) == 2 * len(documents.blocks(page)), page.name
        assert {block.language for block in documents.blocks(page)} <= LANGUAGES, page.name


@pytest.mark.parametrize("text", ["    caspl nowhere\n", "```text\n$ python x.py\n```\n", "```\npip install x\n```\n"])
def test_command_outside_of_a_bash_block_is_found(text, tmp_path):
    (tmp_path / "page.md").write_text(f"Words.\n\n{text}")
    assert documents.uncollected(tmp_path / "page.md")


def test_programs_of_all_pages_are_python():
    for page in PAGES:
        for block in documents.blocks(page):
            if block.language == "python":
                compile(block.text, page.name, "exec")


def test_commands_in_running_text_are_known():
    wrong = []
    for page in PAGES:
        for text in documents.inline(page):
            words = text.split()
            name = next((word for word in words[1:2] if words[0] == "caspl"), "")
            if name and name not in COMMANDS and not name.startswith(("<", "--")):
                wrong.append(f"{page.name}: {text}")
            elif name in COMMANDS:
                known = documents.options(documents.parser_of(name)) | {"--boost", "--adapt"}
                wrong += [f"{page.name}: {text}" for word in words if word.startswith("--") and word not in known]
    assert not wrong


def test_keys_in_running_text_exist():
    pattern = re.compile(
        r"`((?:TRAINER|OPTIM|DATALOADER|DATASET|INPUT|MODEL|TRAIN|TEST)\.[A-Z0-9_.]*[A-Z0-9_])\b(?![.*])"
    )
    nodes = {".".join(key.split(".")[:depth]) for key in FIELDS for depth in (1, 2, 3)}
    found = {(page.name, key) for page in PAGES for key in pattern.findall(page.read_text())}
    assert len(found) > 20
    assert not {(page, key) for page, key in found if key not in FIELDS and key not in nodes}


def test_files_in_running_text_exist():
    pattern = re.compile(
        r"`((?:docs|trainers|datasets|configs|scripts|tests|examples|third_party|\.ci|\.github)/[\w./-]+)`"
    )
    found = {(page.name, path) for page in PAGES for path in pattern.findall(page.read_text())}
    elsewhere = {("extend.md", "configs/datasets/planets.yaml")} | {each for each in found if each[0] == "toolbox.md"}
    assert len(found) > 20
    assert not {(page, path) for page, path in found - elsewhere if not (ROOT / path).exists()}


def test_troubleshooting_quotes_messages_of_the_code():
    sources = [path for folder in ("trainers", "datasets") for path in (ROOT / folder).rglob("*.py")]
    text = "".join(" ".join(path.read_text().split()) for path in sources)
    text = re.sub(r"""["'] f?["']""", "", text)  # strings over several lines
    text = re.sub(r"\{[^{}]*\}", "\0", text)
    rows = re.findall(r"^\| (`[^|]*) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    parts = [part for row in rows for quoted in re.findall(r"`([^`]+)`", row) for part in re.split(r"\.\.\.", quoted)]
    parts = [part.strip(" ,;:()") for part in parts]
    assert len(parts) > 30
    assert not [part for part in parts if part and part not in text]


def test_notebooks_are_stored_without_outputs():
    notebooks = [json.loads(path.read_text()) for path in (ROOT / "examples").glob("*.ipynb")]
    cells = [cell for notebook in notebooks for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(notebooks) == 3
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None]
