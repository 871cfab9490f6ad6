"""The site of the documentation, as far as it can be told without Sphinx; .ci/run builds it, warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``docs/site/build.py``, which imports what lies beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    for name in ("build", "reference"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__("build")


def test_every_page_has_a_place(build: ModuleType) -> None:
    """Each page of docs/ is in the contents once, and nothing there is missing."""
    listed = [name for names in build.SECTIONS.values() for name in names if not name.startswith("reference/")]
    pages = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {part.removesuffix(".md") for part in build.PARTS if part.endswith(".md")}
    assert sorted(pages) == sorted(listed)


def test_what_is_fetched_from_elsewhere_is_seen(build: ModuleType, tmp_path: Path) -> None:
    """Fonts, scripts, style sheets and pictures of other hosts are; links that a reader may follow are not."""
    (tmp_path / "page.html").write_text(
        '<link href="https://fonts.example/a.css"><script src="//cdn.example/b.js"></script><img src="http://x.example/c.png">'
        '<a href="https://example.org">elsewhere</a><img src="here.png"><script>let x = "https://example.org"</script>'
    )
    (tmp_path / "style.css").write_text('@import "https://x.example/d.css"; a { background: url(//x.example/e.png) }')
    assert [
        "page.html fetches https://fonts.example/a.css",
        "page.html fetches //cdn.example/b.js",
        "page.html fetches http://x.example/c.png",
        "style.css fetches https://x.example/d.css",
        "style.css fetches //x.example/e.png",
    ] == list(build.fetched_from_elsewhere(tmp_path))


def test_text_of_the_program_is_no_markup(build: ModuleType) -> None:
    """Names and sentences that go into a table stay what they are."""
    import reference

    assert r"\|x\| \* \_y\_ \<b\> \[1\]" == reference._text("|x| * _y_ <b> [1]")
    assert "``a \\| b``" == reference._code("a | b")
