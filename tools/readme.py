"""README.md from nbs/index.ipynb: `readme.py` writes it, `readme.py --check` only compares."""
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def readme() -> str:
    "The index notebook as Markdown: hidden cells dropped, `echo: false` cells without their code."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    nb.cells = [c for c in nb.cells if not re.match(r"#\|\s*hide", c.source)]
    for c in nb.cells:
        if re.match(r"#\|\s*echo:\s*false", c.source): c.source = ""
        for out in c.get("outputs", ()):
            if "text/html" in out.get("data", {}) and "text/plain" in out["data"]: del out["data"]["text/html"]
    nb.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"```\w*\s*```\n*", "", text)
    text = re.sub(r"\]\((?![a-z]+:|#)([^)]+)\)", lambda link: f"]({posixpath.normpath('nbs/' + link[1])})", text)  # the notebook's links start in nbs/
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    path, text = ROOT / "README.md", readme()
    if "--check" in sys.argv:
        sys.exit(0 if path.read_text(encoding="utf-8") == text else "README.md is not what nbs/index.ipynb makes: run make readme")
    path.write_text(text, encoding="utf-8")
