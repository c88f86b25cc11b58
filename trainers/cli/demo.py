"""Try a finished run in the browser: drop a picture, see the most likely classes, edit the class list.

    caspl demo RUN [--port 7860]

Needs the extra `demo` (Gradio).
"""

from typing import TYPE_CHECKING, Any

from . import arguments
from .predict import add_run, loaded
from .program import guarded

if TYPE_CHECKING:
    from ..deploy.classifier import Classifier


def demo(argv: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    parser = arguments.parser("demo", __doc__, keys=False)
    add_run(parser)
    parser.add_argument("--port", type=int, default=7860, help="of the local server (default 7860)")
    args = arguments.parse(parser, argv, keys=False)
    page(loaded(args)).launch(server_name="127.0.0.1", server_port=args.port, share=False, quiet=True)


def page(classifier: "Classifier") -> Any:
    """Return the Gradio page of a classifier.

    Raises:
        ValueError: Gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f"gradio cannot be imported ({error}): pip install 'caspl[demo]'") from error
    known = {"\n".join(classifier.class_names): classifier}

    def classify(image: Any, names: str) -> dict[str, float]:
        if image is None:
            return {}
        wanted = "\n".join(filter(None, map(str.strip, names.splitlines())))
        if wanted not in known:
            try:
                made = classifier.with_classes(wanted.splitlines())
            except ValueError as error:
                raise gradio.Error(str(error)) from error
            known.clear()
            known[wanted] = made
        return dict(known[wanted].predict(image)[0].top)

    picture = gradio.Image(type="pil", label="Picture")
    names = gradio.Textbox("\n".join(classifier.class_names), lines=10, max_lines=20, label="Classes, one a line")
    found = gradio.Label(num_top_classes=5, label="Most likely classes")
    return gradio.Interface(
        classify, [picture, names], found, title="CasPL", flagging_mode="never", analytics_enabled=False
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: demo(argv))
