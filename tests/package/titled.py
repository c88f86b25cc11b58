"""The commands of README and docs/ with a title, which states what they need, and how each is tested."""

import shlex
import sys

import documents

TITLED = list(dict.fromkeys(c.words for page in documents.PAGES for c in documents.commands(page) if c.title))

# How a command begins: its test in test_documents_titled.py.
RUN = {
    "caspl train --eval-only": "test_run_in_miniature_is_evaluated_again",
    "caspl results": "test_tables_and_plots_of_runs",
    "caspl push": "test_run_and_prompt_are_pushed_and_loaded",
    "caspl predict hf-hub:": "test_run_and_prompt_are_pushed_and_loaded",
    "caspl demo": "test_page_is_served_until_ctrl_c",
    "caspl data check": "test_miniature_data_are_checked",
    "caspl data fetch": "test_miniature_data_are_fetched_from_a_local_server",
    "torchrun": "test_torchrun_trains_in_two_processes",
    "python train.py": "test_toolbox_trains_and_evaluates",
    "python scripts/bench.py": "test_benchmark_of_small_sizes",
    "python -m scripts.shapes.train_clips": "test_small_clip_is_trained_for_some_steps",
    "pip install": "test_project_is_installed",
    "python -m pip wheel": "test_release_is_built_and_installed",
    "python -m venv": "test_release_is_built_and_installed",
    "/tmp/try/bin/": "test_release_is_built_and_installed",
    "bash scripts/test.sh": "test_script_runs_a_test",
}

# What no test runs: why.
NOT_RUN = {
    "bash .ci/run": "it runs the tests",
    "bash scripts/gpu_check.sh": "it takes minutes; .ci/run runs it with --device cpu --quick",
    "bash scripts/compatibility.sh": "it installs two versions of PyTorch from the network",
    "pre-commit install": "pre-commit is not a dependency; test_front_door.py compares its hooks with .ci/run",
}


def planned(words) -> bool:
    """Return whether a command is planned: it trains or verifies, and needs data or weights."""
    return words[0] == "caspl" and "--eval-only" not in words and documents.takes(words[1], "--dry-run")


def titled(start: str) -> list[tuple[str, ...]]:
    """Return the commands that begin so, to the test that `RUN` names."""
    assert RUN[start] == sys._getframe(1).f_code.co_name
    return [words for words in TITLED if shlex.join(words).startswith(start)]


def problems(test_names) -> list[str]:
    """Return commands without a test, and tests and exceptions without a command."""
    lines = [shlex.join(words) for words in TITLED if not planned(words)]
    listed = [*RUN, *NOT_RUN]
    wrong = [f"no test: {line}" for line in lines if not line.startswith(tuple(listed))]
    wrong += [f"no command: {start}" for start in listed if not any(line.startswith(start) for line in lines)]
    return wrong + [f"no such test: {name}" for name in RUN.values() if name not in test_names]
