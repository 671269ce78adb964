"""The site in _docs/: every notebook as a page with its outputs, a reference of all public names, and a search.

The pages are prepared in _proc/, where the repository's layout is kept so that links go on working, and built by Sphinx
without executing anything: `docs.py [folder]`.
"""
import dataclasses
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from check_links import broken
from fastcore.docments import docments
from habits import is_exported, notebooks, rooms
from readme import readme

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("CONTRIBUTING.md", "CHANGELOG.md", "RESEARCH_LOG.md", "data/README.md")
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"
SHORT = 48  # characters of a default value before it is cut


# ---- notebooks

def page(path:Path) -> nbformat.NotebookNode:
    "A notebook as it is read: no hidden cells, no directives; exported cells are marked for the style sheet."
    nb = nbformat.read(path, 4)
    nb.cells = [c for c in nb.cells if not re.search(r"^#\|\s*(hide\b|default_exp|include:\s*false)", c.source, re.M)]
    for n, c in enumerate(nb.cells):
        if c.cell_type != "code":
            if n: c.source = re.sub(r"^# (?=\S)", "## ", c.source, flags=re.M)  # one title a page
            continue
        tags = {"exported": is_exported(c.source), "remove-input": re.search(r"^#\|\s*echo:\s*false", c.source, re.M)}
        c.metadata["tags"] = [tag for tag, holds in tags.items() if holds]
        c.source = DIRECTIVE.sub("", c.source).strip()
        c.outputs = [out for out in c.outputs if WIDGET not in out.get("data", {})]  # alive in JupyterLab only
        for data in (out.get("data", {}) for out in c.outputs):
            if shown := data.get("text/markdown"):  # Sphinx follows the links of texts only
                data["text/markdown"] = re.sub(r"\]\(([\w/]+)\.ipynb\)", r"](\1.html)", shown)
    nb.cells = [c for c in nb.cells if c.source.strip() or c.get("outputs")]
    nb.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                   "language_info": {"name": "python", "pygments_lexer": "python"}}
    return nb


# ---- reference

def cell(text) -> str:
    "A text as a cell of a Markdown table."
    return " ".join(str(text).split()).replace("|", "\\|")


def short(value) -> str:
    "A default value as code, cut where it is long."
    if value is inspect.Parameter.empty or value is dataclasses.MISSING: return ""
    text = f"{type(value).__name__}(...)" if dataclasses.is_dataclass(value) else repr(value)
    return f"`{cell(text if len(text) <= SHORT else text[:SHORT] + '...')}`"


def type_name(kind) -> str:
    "A type hint as code."
    if kind in (inspect.Parameter.empty, None, type(None)): return ""
    text = kind if isinstance(kind, str) else kind.__name__ if isinstance(kind, type) else str(kind)
    return f"`{cell(re.sub(r'[a-z_]+[.](?=[A-Za-z_])', '', text))}`"


def arguments(of) -> list[str]:
    "A Markdown table of what a function takes and returns, from its docments."
    found = docments(of, full=True, returns=True)
    for base in getattr(of, "__mro__", ())[1:]:  # fields that a dataclass inherits are explained where they stand
        if not dataclasses.is_dataclass(base): continue
        for name, d in docments(base, full=True).items():
            if name in found and not found[name].docment: found[name].docment = d.docment
    for f in dataclasses.fields(of) if dataclasses.is_dataclass(of) else ():  # a setting says itself what it means
        if f.name in found and f.metadata.get("help"): found[f.name].docment = f.metadata["help"]
    rows = [f"| `{name}` | {cell(d.docment or '')} | {type_name(d.anno)} | {short(d.default)} |"
            for name, d in found.items() if name not in ("self", "cls", "return")]
    back = found.get("return")
    if back and (back.docment or type_name(back.anno)):
        rows.append(f"| returns | {cell(back.docment or '')} | {type_name(back.anno)} | |")
    return ["", "| argument | meaning | type | default |", "|---|---|---|---|", *rows] if rows else []


def signature(name:str, of) -> str:
    "How a call looks: names only, the table below says the rest."
    try: given = inspect.signature(of).parameters.values()
    except (TypeError, ValueError): return name
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return f"{name}({', '.join(stars.get(p.kind, '') + p.name for p in given if p.name not in ('self', 'cls'))})"


def described(name:str, of, level:int=2) -> list[str]:
    "Heading, docstring, and for what can be called its arguments; a class is followed by its public methods."
    heading = f"{'#' * level} {name}"
    if not callable(of) or not hasattr(of, "__name__"): return [heading, "", short(of), ""]
    lines = [heading, "", f"`{signature(name, of)}`", "", inspect.cleandoc(of.__doc__ or ""), *arguments(of), ""]
    public = [m for m in vars(of) if not m.startswith("_")] if inspect.isclass(of) else []
    for method in public:
        kept, bound = vars(of)[method], getattr(of, method)
        if inspect.isroutine(bound) and bound.__doc__: lines += described(f"{name}.{method}", bound, level + 1)
        elif isinstance(kept, property) and kept.__doc__: lines += [f"`{name}.{method}`: {kept.__doc__}", ""]
    return lines


def reference(room:str, notebook:str) -> str:
    "The page of a module: every public name."
    module = importlib.import_module(f"hrm_nb.{room}")
    built = f"Built and explained in [{notebook}](../nbs/{notebook}.ipynb)."
    lines = [f"# hrm_nb.{room}", "", module.__doc__ or "", "", built, ""]
    for name in module.__all__: lines += described(name, getattr(module, name))
    return "\n".join(lines) + "\n"


# ---- the site

def toctree(caption:str, entries:list[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", ":maxdepth: 1", f":caption: {caption}", "", *entries, "```", ""])


def keep(text:str, path:str, target:Path):
    "Write a page that stood at `path` of the repository, and copy the files it links to, so that its links hold."
    kept = target / path
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(text, encoding="utf-8")
    for link in re.findall(r"\]\(([^)#\s:]+)[^)]*\)", text):
        file = (ROOT / path).parent.joinpath(link).resolve()
        if not file.is_relative_to(ROOT) or not file.is_file() or file.suffix in (".ipynb", ".md"): continue
        copy = target / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists(): shutil.copy(file, copy)


def prepare(target:Path):
    "All sources of the site, in a new folder."
    shutil.rmtree(target, ignore_errors=True)
    (target / "_static").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "conf.py", target)
    shutil.copy(ROOT / "docs" / "site.css", target / "_static")
    books = [p.relative_to(ROOT) for p in notebooks() if p.stem != "index"]
    numbered = [p for p in books if p.name[:2].isdigit()]
    experiments = [p for p in books if p not in numbered]
    texts = [name for name in TEXTS if (ROOT / name).exists()]
    notebook_of = {int(p.name[:2]): p.stem for p in numbered}
    for path in books: keep(nbformat.writes(page(ROOT / path)), str(path), target)
    for name in texts: keep((ROOT / name).read_text(encoding="utf-8"), name, target)
    for room, number in rooms().items(): keep(reference(room, notebook_of[number]), f"reference/{room}.md", target)
    contents = [toctree("Notebooks", [f"{p.stem.replace('_', ' ', 1)} <nbs/{p.stem}>" for p in numbered]),
                toctree("Experiments", [str(p.with_suffix("")) for p in experiments]),
                toctree("Reference", [f"{room} <reference/{room}>" for room in rooms()]),
                toctree("Project", [name.removesuffix(".md") for name in texts])]
    keep("\n".join([readme(), *contents]), "index.md", target)


def build(folder:Path, sources:Path=ROOT / "_proc") -> list[str]:
    "Make the site; what is broken in it, a warning of Sphinx included."
    prepare(sources)
    built = sources / "_build" / "html"  # what else is left, lies beside it
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", sources / "_build" / "doctrees"]
    command = [sys.executable, "-m", "sphinx", *options, sources, built]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    shutil.rmtree(folder, ignore_errors=True)
    if built.is_dir(): shutil.move(built, folder)
    return ([done.stderr.strip()] if done.returncode else []) + broken(folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs")
    if faults := build(folder): sys.exit("\n".join(faults))
    print(f"{folder / 'index.html'}: {len(list(folder.rglob('*.html')))} pages")
