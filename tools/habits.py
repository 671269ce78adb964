"""The habits of this repository as rules: each function returns the sentences that say what breaks it, and where.

`python tools/habits.py` prints them all and fails if there are any; tests/test_habits.py shows that each can fail.
Numbers and names of the rooms come from the notebooks' file names and `default_exp`, so that a renumbered house is
judged as it stands.
"""
import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "hrm_nb"
CELL_LINES, CELL_MEDIAN, LINE_LENGTH, MODULE_LINES = 40, 20, 120, 450
LONG_ROOMS = ("sudoku", "maze", "arc")  # a domain is one room: make, solve, score, draw
DOMAINS = ("patterns", "sudoku", "maze", "arc")
DOMAIN_WORDS = re.compile(r"\b(copy|increment|maze|sudoku|arc)\b", re.IGNORECASE)


# ---- notebooks

def notebooks(root:Path=ROOT) -> list[Path]:
    "Every notebook below nbs/, in the order of its number; the experiments and the index last."
    found = [p for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    return sorted(found, key=lambda p: (not p.name[:2].isdigit(), str(p)))


def code_cells(path:Path) -> list[tuple[int, str]]:
    "(position in the notebook, source) of each code cell; magics are blanked out."
    cells = nbformat.read(path, 4).cells
    return [(i, re.sub(r"^\s*[%!].*$", "", c.source, flags=re.M)) for i, c in enumerate(cells) if c.cell_type == "code"]


def is_exported(source:str) -> bool: return bool(re.search(r"^#\|\s*exports?i?\b", source, re.M))


def only_imports(source:str) -> bool:
    "Imports, comments and directives, nothing that does anything."
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def cell_size_faults(path:Path) -> list[str]:
    "An exported cell of too many lines, or a notebook whose exported cells are long on the whole."
    sizes = [(i, len(source.splitlines())) for i, source in code_cells(path) if is_exported(source)]
    faults = [f"{path.name}, cell {i}: {n} lines, at most {CELL_LINES} are allowed" for i, n in sizes if n > CELL_LINES]
    median = statistics.median(n for _, n in sizes) if sizes else 0
    if median > CELL_MEDIAN:
        faults.append(f"{path.name}: exported cells have a median of {median:g} lines; {CELL_MEDIAN} are allowed")
    return faults


def line_length_faults(path:Path) -> list[str]:
    "Code lines that are too wide, in any cell."
    lines = [(i, n, len(line)) for i, source in code_cells(path) for n, line in enumerate(source.splitlines(), 1)]
    return [f"{path.name}, cell {i}, line {n}: {length} characters, at most {LINE_LENGTH} are allowed"
            for i, n, length in lines if length > LINE_LENGTH]


def unshown_faults(path:Path) -> list[str]:
    "Exported cells after which nothing is checked, shown or drawn before the next one; imports need none and are none."
    faults, waiting = [], None
    for i, source in code_cells(path):
        if only_imports(source): continue
        if not is_exported(source): waiting = None
        elif waiting is None: waiting = i
        else:
            faults.append(f"{path.name}, cell {waiting}: no check, example or picture before the exported cell {i}")
            waiting = i
    if waiting is not None: faults.append(f"{path.name}, cell {waiting}: no check, example or picture after it")
    return faults


def mixed_import_faults(path:Path) -> list[str]:
    "Exported cells in which imports stand beside other code."
    faults = []
    for i, source in code_cells(path):
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body}
        if is_exported(source) and len(kinds) == 2: faults.append(f"{path.name}, cell {i}: imports beside other code")
    return faults


def pictures(path:Path) -> int:
    "How many images the saved outputs of a notebook hold."
    def is_picture(data):
        html = "".join(data.get("text/html", ""))
        return any(kind.startswith("image/") for kind in data) or "<svg" in html or "<img" in html
    return sum(is_picture(out.get("data", {})) for c in nbformat.read(path, 4).cells for out in c.get("outputs", ()))


# ---- rooms

def rooms(root:Path=ROOT) -> dict[str, int]:
    "Name of the exported module -> number of its notebook."
    found = {}
    for path in notebooks(root):
        exported = re.search(r"^#\|\s*default_exp\s+(\w+)", "\n".join(source for _, source in code_cells(path)), re.M)
        if exported and path.name[:2].isdigit(): found[exported[1]] = int(path.name[:2])
    return found


def modules(root:Path=ROOT) -> dict[str, str]:
    "Name -> source of every module of the package."
    return {p.stem: p.read_text(encoding="utf-8") for p in sorted((root / PACKAGE).glob("*.py")) if p.stem != "_modidx"}


def imported_rooms(source:str) -> Iterator[tuple[int, str, str, str]]:
    "(line, room, name taken from it or '', name it is bound to here) of each import of the package itself, anywhere."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, (PACKAGE if node.level else "", node.module)))
            for a in node.names:
                if module == PACKAGE: yield node.lineno, a.name, "", a.asname or a.name
                elif module.startswith(PACKAGE + "."): yield node.lineno, module.split(".")[1], a.name, ""
        elif isinstance(node, ast.Import):
            for a in node.names:
                if a.name.startswith(PACKAGE + "."): yield node.lineno, a.name.split(".")[1], "", a.asname or a.name
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called, named = ast.unparse(node.func), node.args[0].value
            if called.split(".")[-1] in ("import_module", "__import__") and re.match(rf"{PACKAGE}\.|\.", str(named)):
                yield node.lineno, str(named).removeprefix(PACKAGE).split(".")[1], "", ""


def import_direction_faults(name:str, source:str, order:dict[str, int]) -> list[str]:
    "Imports of rooms that do not have a smaller number."
    return [f"{name}, line {line}: imports {room}, which is number {order[room]}, from number {order[name]}"
            for line, room, _, _ in imported_rooms(source) if room in order and order[room] >= order[name]]


def private_name_faults(name:str, source:str) -> list[str]:
    "Names with a leading underscore taken from another room, by import or through the module."
    def private(taken): return taken == "*" or taken.startswith("_") and not taken.endswith("__")
    found = list(imported_rooms(source))
    faults = [f"{name}, line {line}: takes {taken} from {room}"
              for line, room, taken, _ in found if taken and private(taken)]
    bound = {as_: room for _, room, taken, as_ in found if as_}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and private(node.attr) and (room := bound.get(ast.unparse(node.value))):
            faults.append(f"{name}, line {node.lineno}: takes {node.attr} from {room}")
    return faults


def _at_module_level(body:list[ast.stmt]) -> Iterator[ast.stmt]:
    "Statements that run on import: those of `if`, `for`, `with` and `try` too, those of functions and classes not."
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
        for part in ("body", "orelse", "finalbody"): yield from _at_module_level(getattr(node, part, []))
        for handler in getattr(node, "handlers", ()): yield from _at_module_level(handler.body)


def _targets(node:ast.stmt) -> list[ast.expr]:
    "What a statement assigns to, tuples taken apart."
    if isinstance(node, (ast.AnnAssign, ast.AugAssign)): return [node.target]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [t for target in targets for t in (target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target])]


def method_faults(name:str, source:str) -> list[str]:
    "Functions given to a class after its definition, and functions outside a class that take `self`."
    faults = []
    for node in _at_module_level(ast.parse(source).body):
        where = f"{name}, line {node.lineno}"
        late = [t for t in _targets(node) if isinstance(t, ast.Attribute)]
        faults += [f"{where}: {ast.unparse(t)} is set after its class" for t in late]
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "setattr":
            faults.append(f"{where}: setattr outside a function")
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = (node.args.posonlyargs + node.args.args)[:1]
            if first and first[0].arg == "self": faults.append(f"{where}: {node.name} takes self outside a class")
    return faults


def module_length_faults(name:str, source:str) -> list[str]:
    "Rooms that grew too long."
    lines = len(source.splitlines())
    if lines <= MODULE_LINES or name in LONG_ROOMS: return []
    return [f"{name}: {lines} lines, at most {MODULE_LINES} are allowed"]


def _docstrings(tree:ast.AST) -> set[int]:
    "The identities of the nodes that are docstrings, or strings that stand alone."
    alone = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return {id(value) for value in alone if isinstance(value, ast.Constant)}


def is_general(name:str, number:int) -> bool:
    "Whether a room is to know of no kind of puzzle: all but the domains, recipes, results, benchmarks, command line."
    return name not in DOMAINS and (number < 25 or 30 <= number <= 31)


def domain_word_faults(name:str, source:str) -> list[str]:
    "Strings that name a kind of puzzle, and imports of its room; published repositories (owner/name) are excepted."
    tree = ast.parse(source)
    prose = _docstrings(tree)
    faults = [f"{name}, line {line}: imports {room}" for line, room, _, _ in imported_rooms(source) if room in DOMAINS]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in prose: continue
        if name == "published" and re.fullmatch(r"[\w.-]+/[\w.-]+", node.value): continue
        if word := DOMAIN_WORDS.search(node.value):
            faults.append(f"{name}, line {node.lineno}: the string {node.value[:60]!r} holds {word[0]!r}")
    return faults


# ---- the order of imports

def _section(module:str, level:int) -> int:
    top = module.split(".")[0]
    if level or top == PACKAGE: return 3
    return 0 if top == "__future__" else 1 if top in sys.stdlib_module_names else 2


def _rank(name:str) -> tuple[int, str]:
    "Constants, then classes, then the rest, as isort orders the names that one line takes."
    return 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name


def _place(node:ast.Import | ast.ImportFrom) -> tuple[int, int, str]:
    "Where an import belongs in its block: section, `import` before `from`, alphabet."
    if isinstance(node, ast.Import): return _section(node.names[0].name, 0), 0, node.names[0].name.lower()
    module = node.module or ""
    return _section(module, node.level), 1, "." * node.level + module.lower()


def _is_sorted(node:ast.Import | ast.ImportFrom) -> bool:
    "Whether the names of one import are in order and, with `import`, of one section."
    names = [a.name for a in node.names]
    if isinstance(node, ast.ImportFrom): return names == sorted(names, key=_rank)
    return names == sorted(names, key=str.lower) and len({_section(n, 0) for n in names}) == 1


def import_order_faults(name:str, source:str) -> list[str]:
    "Imports out of order: standard library, others, the package; `import` before `from`; names by alphabet."
    faults = []
    bodies = [node.body for node in ast.walk(ast.parse(source)) if isinstance(getattr(node, "body", None), list)]
    for body in bodies:
        last = None
        for node in body:
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                last = None
                continue
            where = f"{name}, line {node.lineno}: {ast.unparse(node)[:60]}"
            if not _is_sorted(node): faults.append(f"{where}: names not in order")
            if last is not None and _place(node) < last: faults.append(f"{where}: belongs further up")
            last = _place(node)
    return faults


# ---- all of them

def notebook_faults(root:Path) -> dict[str, list[str]]:
    "What breaks the rules of cells, rule by rule."
    books = notebooks(root)
    drawn = [p for p in books if p.name[:2].isdigit() and 10 <= int(p.name[:2]) <= 31]
    def each(rule): return [fault for path in books for fault in rule(path)]
    return {
        "exported cells are short": each(cell_size_faults),
        "no code line is too wide": each(line_length_faults),
        "each exported cell is followed by a check, an example or a picture": each(unshown_faults),
        "imports stand alone": each(mixed_import_faults),
        "rooms 10 to 31 show pictures": [f"{p.name}: no image in its outputs" for p in drawn if not pictures(p)],
    }


def package_faults(root:Path) -> dict[str, list[str]]:
    "What breaks the rules of rooms, rule by rule."
    order, package = rooms(root), modules(root)
    house = {n: s for n, s in package.items() if n in order}
    general = {n: s for n, s in house.items() if is_general(n, order[n])}
    tools = {f"tools/{p.name}": p.read_text(encoding="utf-8") for p in sorted((root / "tools").glob("*.py"))}
    cells = {f"{p.name}, cell {i}": source for p in notebooks(root) for i, source in code_cells(p)}
    def each(rule, sources, *more): return [f for name, source in sources.items() for f in rule(name, source, *more)]
    return {
        "methods are inside their classes": each(method_faults, package),
        "imports run towards smaller numbers": each(import_direction_faults, house, order),
        "private names stay in their room": each(private_name_faults, package | tools),
        "modules are short": each(module_length_faults, package),
        "kinds of puzzles are named in their rooms only": each(domain_word_faults, general),
        "imports are in order": each(import_order_faults, package | tools | cells),
    }


def faults(root:Path=ROOT) -> dict[str, list[str]]:
    "What breaks each rule in the repository."
    return notebook_faults(root) | package_faults(root)


def main() -> int:
    "Print what breaks the rules."
    found = {rule: lines for rule, lines in faults().items() if lines}
    for rule, lines in found.items(): print(f"{rule}: {len(lines)} not so", *lines, sep="\n    ")
    return int(bool(found))


if __name__ == "__main__": sys.exit(main())
