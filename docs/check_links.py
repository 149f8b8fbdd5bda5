"""Checks that every link of a built site that leads into it leads somewhere.

python docs/check_links.py FOLDER
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
  """Collects what a page links to, and what may be linked to in it."""

  def __init__(self):
    super().__init__()
    self.links: list[str] = []
    self.anchors: set[str] = set()

  def handle_starttag(self, tag, attrs):
    del tag
    for name, value in attrs:
      if name in ("href", "src") and value:
        self.links.append(value)
      if name in ("id", "name") and value:
        self.anchors.add(value)


def broken_links(folder: Path) -> list[str]:
  """Returns "page: link" for each link into the site that leads nowhere; asks no other host."""
  pages = {}
  for path in sorted(folder.rglob("*.html")):
    if "_static" not in path.relative_to(folder).parts:
      pages[path.resolve()] = page = _Page()
      page.feed(path.read_text())
  broken = []
  for path, page in pages.items():
    for link in page.links:
      parts = urlsplit(link)
      if parts.scheme or parts.netloc:
        continue
      there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
      missing = not there.is_file()
      if not missing and parts.fragment and there in pages:
        missing = unquote(parts.fragment) not in pages[there].anchors | {"", "top"}
      if missing:
        broken.append(f"{path.relative_to(folder.resolve())}: {link}")
  return broken


def main() -> None:
  """Ends with 1 and a line for each broken link."""
  folder = Path(sys.argv[1])
  if not (folder / "index.html").is_file():
    sys.exit(f"{folder} holds no site.")
  broken = broken_links(folder)
  if broken:
    sys.exit("\n".join(broken))


if __name__ == "__main__":
  main()
