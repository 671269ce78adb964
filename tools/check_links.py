"""What is broken in a folder of web pages: `check_links.py FOLDER` prints links, images and scripts that lead nowhere.

Links within the folder must exist, with their anchor; links to elsewhere are not followed, but images, scripts and
styles must not come from elsewhere: the pages are to work without a network.
"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    "The links (tag, target) and the anchors of one page."
    def __init__(self, text:str):
        super().__init__()
        self.links:list[tuple[str, str]] = []
        self.anchors:set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        target = attrs.get("src") or attrs.get("href")
        if target: self.links.append((tag, target))


def fault(path:Path, tag:str, target:str, pages:dict[Path, Page]) -> str | None:
    "What is wrong with one link of the page at `path`."
    url = urlsplit(target)
    if url.scheme == "data": return None
    if url.scheme or url.netloc:
        fetched = tag in ("img", "script", "iframe", "source") or tag == "link" and url.path.endswith((".css", ".js"))
        return "fetched from elsewhere" if fetched else None
    file = (path.parent / unquote(url.path)).resolve() if url.path else path
    if not file.is_file(): return "not there"
    anchored = url.fragment and file in pages and tag == "a"
    return "no such anchor" if anchored and unquote(url.fragment) not in pages[file].anchors else None


def broken(folder:Path) -> list[str]:
    "A sentence for every link that leads nowhere."
    pages = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.html"))}
    links = [(path, tag, target) for path, page in pages.items() for tag, target in page.links]
    return [f"{path.relative_to(folder.resolve())}: {target[:120]}: {what}"
            for path, tag, target in links if (what := fault(path, tag, target, pages))]


if __name__ == "__main__":
    if lines := broken(Path(sys.argv[1])): sys.exit("\n".join(lines))
