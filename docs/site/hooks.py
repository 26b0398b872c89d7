"""What MkDocs needs to make a site of pages that are read on a code host too.

The README, the log and the like become pages, links out of docs/ become words, drawings become part of their page, and two
pages are made from the code and its results.
"""

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import works
from mkdocs.structure.files import File

PROJECT = Path(__file__).parents[2]
# Pages of the project's root, by their names on the site.
ROOT = {
    "README.md": "index.md",
    "LOG.md": "log.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
SOURCES = {page: name for name, page in ROOT.items()}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    made = {page: (PROJECT / name).read_text() for name, page in ROOT.items()}
    made["works.md"] = works.page(PROJECT / "docs" / "results")
    # `make docs` has it written before: the types in it want the libraries of the project itself.
    made["reference.md"] = Path(os.environ["FACET_REFERENCE"]).read_text()
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    text = LINK.sub(lambda found: link(found, source=source, page=page.file.src_uri), markdown)
    return re.sub(r"<!-- .*? -->\n", "", text)


def link(found: re.Match[str], *, source: str, page: str) -> str:
    """One link or picture of `source`, a file of the project, as it must stand on `page` of the site."""
    bang, words, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, hash_, anchor = target.partition("#")
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if bang and place.startswith("docs/drawings/"):
        return (PROJECT / place).read_text().replace("\n", "")
    if place in ROOT:
        place = ROOT[place]
    elif place.startswith("docs/") and (PROJECT / place).is_file():
        place = place.removeprefix("docs/")
    else:
        # Code and folders are no part of the site; a dead link is for `strict` to find.
        return words if (PROJECT / place).exists() else found[0]
    # On a code host a path says where to look; here the page's name does.
    words = re.sub(r"^(?:docs/)?(?:\w+/)*(\w+)\.md$", lambda name: name[1].replace("_", " "), words)
    return f"{bang}[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{hash_}{anchor})"
