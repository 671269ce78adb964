"""README.md from nbs/index.ipynb: `readme.py` writes it, `readme.py --check` only compares."""
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def shown(nb):
    "The notebook without hidden and empty cells; of an `echo: false` cell only its outputs are left."
    nb.cells = [c for c in nb.cells if c.source.strip() and not re.match(r"#\|\s*hide", c.source)]
    for c in nb.cells:
        if re.match(r"#\|\s*echo:\s*false", c.source): c.metadata["transient"] = {"remove_source": True}
        for out in c.get("outputs", ()):
            if "text/html" in out.get("data", {}) and "text/plain" in out["data"]: del out["data"]["text/html"]
    nb.metadata["language_info"] = {"name": "python"}
    return nb


def from_root(text):
    "Links that start in nbs/, where the notebook lies, as links that start at the root."
    return re.sub(r"\]\((?![a-z]+:|#)([^)]+)\)", lambda link: f"]({posixpath.normpath('nbs/' + link[1])})", text)


def readme() -> str:
    "The index notebook as Markdown."
    text, _ = MarkdownExporter().from_notebook_node(shown(nbformat.read(ROOT / "nbs" / "index.ipynb", 4)))
    return re.sub(r"\n{3,}", "\n\n", from_root(text)).strip() + "\n"


if __name__ == "__main__":
    path, text = ROOT / "README.md", readme()
    if "--check" not in sys.argv: path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text: sys.exit("README.md is not what the index makes: run make readme")
