"""Share a finished run or a boosting prompt on the Hugging Face hub.

    caspl push RUN|PROMPT user/name [--private]

Prompts as safetensors, settings and a model card are uploaded, no CLIP weights. Log in with `hf auth login` first.
"""

import tempfile
from pathlib import Path

from . import arguments
from .program import guarded


def push(argv: list[str] | None = None) -> None:
    """Run the command, and print the repository's address."""
    parser = arguments.parser("push", __doc__, keys=False)
    parser.add_argument("run", metavar="RUN|PROMPT", help="folder of a finished run, or a boosting-prompt file")
    parser.add_argument("repository", help="user/name")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    args = arguments.parse(parser, argv, keys=False)
    from ..deploy.bundle import bundle
    from ..deploy.source import local_folder
    from ..storage import hub

    hub.parse(args.repository)
    source = Path(args.run) if Path(args.run).is_file() else local_folder(args.run)
    with tempfile.TemporaryDirectory() as folder:
        for path in bundle(source, Path(folder) / "bundle"):
            print(f"  {path.name}: {path.stat().st_size:,} bytes")
        print(hub.push(Path(folder) / "bundle", args.repository, args.private))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: push(argv))
