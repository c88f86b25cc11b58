"""Generated pages of the manual: a hook of mkdocs, named in mkdocs.yml.

The configuration reference is made from the table of keys in trainers/config, the API reference from docstrings. Neither
is a file in the repository.
"""

import re
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

CONFIGURATION = "configuration.md"
DATASETS = "<!-- datasets -->"  # on docs/data.md
_TAGS = (
    "a|abbr|article|br|code|details|div|em|h[1-6]|hr|li|nav|ol|p|pre|span|strong|summary|table|tbody|td|th|thead|tr|ul"
)
_PLACEHOLDER = re.compile(rf"<(?!/|(?:{_TAGS})\b)([A-Za-z][\w-]*)>")
# Public name: the object that it is.
PUBLIC = {
    "caspl.load": "trainers.deploy.classifier.load",
    "Classifier": "trainers.deploy.classifier.Classifier",
    "Prediction": "trainers.deploy.classifier.Prediction",
    "caspl.inject": "trainers.plugin.api.inject",
    "caspl.boosted": "trainers.plugin.api.boosted",
    "Injection": "trainers.plugin.inject.Injection",
    "caspl.wrap": "trainers.plugin.cascade.wrap",
    "caspl.extend_cfg": "trainers.config.keys.extend_cfg",
    "caspl.activate": "trainers.activate",
}
# Page of the API reference: (title, first sentence, folder).
PAGES = {
    "engine": ("Engine", "CLIP with groups of prompt tokens; depends on torch alone.", "trainers/engine"),
    "backbones": ("Backbones", "Loading CLIPs and their tokenizers.", "trainers/backbones"),
    "method": ("Method", "Phase 1, its losses and templates, and the prompt file.", "trainers/method"),
    "teachers": ("Teachers", "The teachers of phase 1.", "trainers/method/teachers"),
    "hosts": ("Hosts", "The methods that CasPL boosts.", "trainers/hosts"),
    "training": ("Training", "What a run needs.", "trainers/training"),
    "metrics": ("Metrics", "The figures of an evaluation.", "trainers/metrics"),
    "plugin": ("Plug-in", "Boosting prompts in other people's models.", "trainers/plugin"),
    "experiments": ("Experiments", "Protocols, recipes, grids of runs, results.", "trainers/experiments"),
    "results": ("Results", "Tables and plots of finished runs.", "trainers/results"),
    "deploy": ("Deployment", "A finished run as a classifier, and its exports.", "trainers/deploy"),
    "config": ("Configuration", "Keys, merging and checks.", "trainers/config"),
    "storage": ("Storage", "Atomic files, locks, safe reading of tensors.", "trainers/storage"),
    "datasets": ("Datasets", "The base classes of the readers.", "datasets"),
}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the site."""
    from mkdocs.structure.files import File

    runpy.run_path(str(ROOT / "train.py"), run_name="checkout")  # on the path; mkdocs undoes it after loading this file
    for name, content in pages():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the table of datasets."""
    return markdown.replace(DATASETS, datasets()) if DATASETS in markdown else markdown


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Show placeholders in docstrings, such as <folder>, which HTML would hide."""
    return _PLACEHOLDER.sub(r"&lt;\1&gt;", html) if page.file.src_uri.startswith("reference/") else html


def pages() -> Iterator[tuple[str, str]]:
    """Yield (path below docs/, Markdown) of the generated pages."""
    yield CONFIGURATION, configuration()
    yield "reference/caspl.md", public()
    for name, (title, summary, folder) in PAGES.items():
        blocks = [f"::: {module}" for module in modules(folder)]
        yield f"reference/{name}.md", "\n\n".join([f"# {title}", summary, *blocks, ""])


def public() -> str:
    """Return the page of the public names; the pages of their modules are what links lead to."""
    options = "    options: {{heading: {name}, toc_label: {name}, skip_local_inventory: true}}"
    blocks = [f"::: {path}\n" + options.format(name=name) for name, path in PUBLIC.items()]
    return "\n\n".join(["# caspl", "The public names: `import caspl`, then `caspl.load(...)` and so on.", *blocks, ""])


def configuration() -> str:
    """Return the configuration reference."""
    import trainers.hosts  # noqa: F401
    from trainers.config.describe import reference

    return f"""# Configuration reference

This page is generated from the table of keys in `trainers/config/keys.py` and the hosts' files. `caspl train --help` lists
the same keys.

- Set a key as `KEY VALUE` on any command line, or in a YAML file. A list is written as in Python: `INPUT.SIZE "(224, 224)"`.
- The defaults are Dassl's and those of the methods' own repositories. The recipes in `configs/` set the paper's values.
- The column "phase" names the runs that read the key: 1 trains the boosting prompt, 2 trains a host. A key that no
  trainer of the command reads is an error; a key that another setting switches off gets a warning.
- In a command with both phases, plain pairs reach every phase that reads the key, except that optimiser,
  schedule and batch size (`OPTIM.*`, `TRAIN.*`, `DATALOADER.TRAIN_X.*`) reach phase 2 alone; the command prints a line about
  it. `--boost KEY VALUE` sets a key in phase 1 and
  `--adapt KEY VALUE` in phase 2.

{reference()}"""


def datasets() -> str:
    """Return a table of the published datasets, from the facts that their readers declare."""
    import yaml
    from dassl.data.datasets import DATASET_REGISTRY

    from trainers.experiments import places
    from trainers.experiments.protocols import ELEVEN, SHIFTED

    places.load_datasets()
    head = "| dataset | classes; images: train / val / test | folder: content | licence | archive |"
    rows = [head, "| --- | --- | --- | --- | --- |"]
    for name in (*ELEVEN, *SHIFTED):
        kind = DATASET_REGISTRY.get(yaml.safe_load(places.dataset_files()[name].read_text())["DATASET"]["NAME"])
        facts = kind.facts
        counts = " / ".join("-" if number is None else f"{number:,}" for number in facts[1:4])
        licence, archive = facts.licence or "see the page", f"`{facts.archive}`" if facts.archive else "none"
        layout = "<br>".join(line.split(" (")[0] for line in layout_of(kind)).replace("<class>", "&lt;class&gt;")
        layout = layout.replace("<image>", "&lt;image&gt;")
        page = f"[`{name}`]({facts.link})" if facts.link else f"`{name}` (its page is gone)"
        rows.append(
            f"| {page} | {facts.classes:,} classes<br>{counts} "
            f"| `{kind.dataset_dir}/`:<br>{layout} | {licence} | {archive} |"
        )
    return "\n".join(rows)


def layout_of(kind: Any) -> Sequence[str]:
    """Return the expected content of a dataset's folder; a reader describes it without reading anything."""
    return kind.describe_layout(kind.__new__(kind))


def modules(folder: str) -> list[str]:
    """Return the dotted names of a folder's modules."""
    files = sorted(path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
