"""`caspl demo` in headless Chromium: a picture, the most likely classes, another class list, and a mistake."""

import socket

import pytest
from browser import opened
from deployed import toys, trained
from PIL import Image

from trainers.cli import demo
from trainers.deploy import classifier as deploy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A classifier, the address of its page, and a picture."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'caspl[demo]'")
    root = tmp_path_factory.mktemp("demo")
    toys(root)
    classifier = deploy.load(trained(root, "CasPL_CoOp"))
    Image.new("RGB", (40, 30), (200, 40, 90)).save(root / "picture.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = demo.page(classifier)
    page.launch(server_name="127.0.0.1", server_port=port, quiet=True, prevent_thread_lock=True)
    yield classifier, f"http://127.0.0.1:{port}/", root / "picture.png"
    page.close()


SUBMIT = "[...document.querySelectorAll('button')].find((b) => b.innerText.trim() === 'Submit')"
FIRST = "document.querySelector('[data-testid=label-output-value]')?.innerText.trim()"
EDIT = """(() => {
  const area = document.querySelector('textarea');
  area.value = %r;
  area.dispatchEvent(new Event('input', {bubbles: true}));
  return true;
})()"""


def test_picture_classes_and_edited_list_in_a_browser(served, tmp_path):
    classifier, address, picture = served
    (expected,) = classifier.predict(picture)
    with opened(tmp_path, address) as page:
        page.wait(f"{SUBMIT} && document.querySelector('input[type=file]') ? 1 : 0")
        page.set_file("input[type=file]", picture)
        page.wait("document.querySelector('img[src*=picture]') ? 1 : 0")
        page.value(f"{SUBMIT}.click()")
        assert page.wait(FIRST) == expected.label
        text = page.value("document.body.innerText")
        assert all(name in text for name, _ in expected.top) and len(expected.top) == 5
        (other,) = classifier.with_classes(["a cat", "a dog"]).predict(picture)
        page.value(EDIT % "a cat\na dog")
        page.value(f"{SUBMIT}.click()")
        assert page.wait(f"({FIRST}) !== {expected.label!r} && {FIRST}") == other.label
        page.value(EDIT % ("a " * 90))
        page.value(f"{SUBMIT}.click()")
        assert page.wait("/too long|longer|tokens/.test(document.body.innerText) ? 1 : 0", 20)
