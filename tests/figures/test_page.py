"""The page: every figure that was asked for, in order, beside its image."""

import html

import pytest

from aefast import figures
from aefast.figures.page import Shown, write_page


def test_the_page_holds_titles_sentences_and_images(tmp_path):
    shown = [Shown("First & last", "It <holds> 3 %.", "first.png"), Shown("B", "b.", "b.png")]
    page = write_page(shown, tmp_path).read_text()
    assert page.index("First &amp; last") < page.index("first.png") < page.index("b.png")
    assert "It &lt;holds&gt; 3 %." in page


def test_a_figure_is_shown_with_its_image(tmp_path):
    shown = []
    (tmp_path / "out").mkdir()
    for name in ("pca.png", "index.html"):  # what somebody else may have planted
        (tmp_path / "out" / name).symlink_to(tmp_path / "victim")
    page = figures.run(["pca"], tmp_path / "out", shown.append)
    assert not (tmp_path / "victim").exists()
    assert [figure.image for figure in shown] == ["pca.png"]
    assert (page.parent / "pca.png").stat().st_size > 10_000
    assert html.escape(shown[0].sentence) in page.read_text()


@pytest.mark.parametrize("name", figures.NAMES + figures.ON_REQUEST)
def test_every_name_is_a_module_with_a_title(name):
    module = figures.find(name)
    assert module.TITLE
    assert len(module.SIZE) == 2
