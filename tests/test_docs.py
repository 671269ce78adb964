"The site: every notebook a page, nothing on it leads nowhere; and the checker of links finds what is broken."
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts and p.stem != "index")


@pytest.fixture(scope="module")
def tools():
    "A function name -> module of tools/."
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module
    sys.path.remove(str(ROOT / "tools"))


def test_the_site(tools, tmp_path):
    "One test, since the site is built once: about fifteen seconds."
    site = tmp_path / "_docs"
    assert tools("docs").build(site, tmp_path / "_proc") == []
    pages = {str(p.relative_to(site)): p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    for path in NOTEBOOKS: assert str(path.relative_to(ROOT).with_suffix(".html")) in pages
    places = [pages["index.html"].index(f'href="nbs/{p.stem}.html"') for p in NOTEBOOKS if p.name[:2].isdigit()]
    assert places == sorted(places), "notebooks in the order of their numbers"
    for text in ("CONTRIBUTING", "CHANGELOG", "RESEARCH_LOG"): assert f"{text}.html" in pages
    act = next(text for name, text in pages.items() if name.endswith("_act.html"))
    assert "cell_input" in act and "cell_output" in act and 'name="viewport"' in act
    assert not [name for name, text in pages.items() if "#| export" in text and "CONTRIBUTING" not in name]
    assert list((site / "_images").glob("*.png"))
    reference = pages["reference/model.html"]
    assert 'id="reasonerconfig"' in reference and "<p>meaning</p>" in reference and "SwiGLU expansion" in reference
    words = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "stablemax" in words and "_act" in words


@pytest.mark.parametrize("link, what", [
    ('<a href="b.html#here">', None), ('<a href="#top">', None), ('<a href="https://example.org/x">', None), ('<img src="data:image/png;base64,x">', None),
    ('<a href="c.html">', "not there"), ('<a href="b.html#gone">', "no such anchor"), ('<img src="x.png">', "not there"),
    ('<script src="https://example.org/x.js">', "fetched from elsewhere"), ('<link href="//example.org/x.css">', "fetched from elsewhere"),
])
def test_broken_links_are_found(tools, tmp_path, link, what):
    (tmp_path / "a.html").write_text(f'<b id="top">{link}')
    (tmp_path / "b.html").write_text('<b id="here">')
    faults = tools("check_links").broken(tmp_path)
    assert [f.split(": ")[-1] for f in faults] == ([what] if what else [])
