"""The pages of docs/learn: their code runs, prints what they say, and draws their figures."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

LEARN = Path(__file__).parents[1] / "docs" / "learn"
sys.path.insert(0, str(LEARN))

import pages  # noqa: E402

LARGEST = 100_000  # bytes of a figure

# What the sentences of a page promise of its results, where the page shows no output to compare.


def check_batch_size(names):
    small, medium, whole = (names["results"][batch] for batch in (8, 96, 1440))
    assert [r[2] for r in (small, medium, whole)] == [2700, 225, 15]
    assert min(small[3], medium[3]) > 0.95 > 0.9 > whole[3]


def check_mlp(names):
    curves = {p: c for p, (_, c) in names["results"].items()}
    assert curves[0.5][-1, 0] > curves[0.0][-1, 0]  # dropout hinders learning by heart
    for params, _ in names["results"].values():
        x, y, test = names["x"], names["y"], names["test"]
        assert (names["predict"](params, x[test]).argmax(axis=1) == y[test]).mean() > 0.93


def check_autoencoder(names):
    assert names["error"] < 0.7 * names["linear_error"]


CHECKS = {
    "06-batch-size.md": check_batch_size,
    "09-mlp.md": check_mlp,
    "10-autoencoder.md": check_autoencoder,
}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.stem)
def test_page(page, tmp_path):
    if "sklearn" in page.read_text(encoding="utf-8"):
        pytest.importorskip("sklearn", reason="scikit-learn, whose digits the page uses")
    names = pages.run(page)
    if page.name in CHECKS:
        CHECKS[page.name](names)
    pytest.importorskip("matplotlib", reason="matplotlib, which draws the figures")
    import figures

    drawn = figures.draw(page.name, names, tmp_path)
    for path in drawn:
        committed = LEARN / "figures" / path.name
        assert 0 < path.stat().st_size < LARGEST
        assert 0 < committed.stat().st_size < LARGEST, "python docs/learn/figures.py"


def test_networks():
    """The page about il.MLP."""
    pages.run(LEARN.parent / "mlp.md")


def test_links():
    """Every page and every figure is linked to, and every link leads somewhere."""
    linked = set()
    for page in (LEARN / "README.md", *pages.PAGES):
        text = page.read_text(encoding="utf-8")
        links = {LEARN / link for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)}
        assert all(link.exists() for link in links), page.name
        linked |= links
    assert {*pages.PAGES, *(LEARN / "figures").iterdir()} <= linked


def test_wrong_output_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n")
    assert pages.run(page)["x"] == 1
    page.write_text("```python\nx = 1\nprint(x)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:6 says\n2\n"):
        pages.run(page)


def test_numbers():
    """The numbers of the third page are in it; that its code prints them, test_page finds."""
    text = (LEARN / "03-losses.md").read_text(encoding="utf-8")
    for number in ("1.0", "0.625", "1.5", "-50.0", "2.0794", "0.164252"):
        assert re.search(rf"```text\n[^`]*{re.escape(number)}\b", text), number
    text = (LEARN / "04-backpropagation.md").read_text(encoding="utf-8")
    assert "new w, b 0.53 0.515\n```" in text
