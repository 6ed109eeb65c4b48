"""The documentation site builds without a warning, its links lead somewhere, and it asks nothing of other hosts."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
FETCHED = {("script", "src"), ("img", "src"), ("source", "src"), ("video", "src"), ("iframe", "src")}
"""Attributes whose address a browser fetches by itself; of ``link`` it depends on ``rel``."""


class Page(HTMLParser):
    """What a built page holds: its title, its anchors, where its links lead, and what a browser fetches for it."""

    def __init__(self, path):
        super().__init__()
        self.title, self.anchors, self.links, self.fetched, self.in_title = "", set(), [], [], False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.in_title = tag == "title"
        self.anchors |= {values.get("id"), values.get("name")}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        fetched = [value for name, value in attributes if (tag, name) in FETCHED]
        if tag == "link" and values["rel"] not in ("canonical", "prev", "next"):
            fetched.append(values["href"])
        if "mermaid" in (values.get("class") or "").split():
            fetched.append("https://unpkg.com/mermaid")  # by the theme's script
        self.fetched += fetched

    def handle_data(self, data):
        self.title += data.strip() if self.in_title else ""
        self.in_title = False


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site):
    """The built pages by the name of their file, ``404.html`` apart, whose links start at the root of a server."""
    paths = [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    return {path.relative_to(site).as_posix(): Page(path) for path in paths}


def is_foreign(address):
    return bool(urlsplit(address).netloc)


def test_every_page_has_a_title_of_its_own(pages):
    titles = [page.title for page in pages.values()]
    assert len(pages) > 20
    assert "" not in titles
    assert len(set(titles)) == len(titles)


def test_links_and_anchors_lead_somewhere(pages, site):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            address = urlsplit(urljoin(name, link))
            if address.scheme or address.netloc:
                continue
            target = unquote(address.path) or name
            there = (site / target).is_file()
            anchored = not address.fragment or target not in pages or unquote(address.fragment) in pages[target].anchors
            if not (there and anchored):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_nothing_is_fetched_from_other_hosts(pages):
    assert [(name, address) for name, page in pages.items() for address in page.fetched if is_foreign(address)] == []


def test_what_is_fetched_is_there(pages, site):
    missing = [
        (name, address)
        for name, page in pages.items()
        for address in page.fetched
        if not (address.startswith("data:") or (site / urlsplit(urljoin(name, address)).path).is_file())
    ]
    assert missing == []


def test_styles_and_figures_fetch_nothing_from_other_hosts(site):
    foreign = r"(?:url\(|@import|href=|src=)\s*[\"']?(?:https?:)?//[^\s\"')]+"
    files = [path for ending in ("css", "svg") for path in site.rglob(f"*.{ending}")]
    assert files
    assert [(path.name, hit) for path in files for hit in re.findall(foreign, path.read_text())] == []


def test_the_search_knows_the_pages(site):
    index = (site / "search/search_index.json").read_text()
    assert '"quickstart.html"' in index
    assert "fatr_hf.FATRViTForImageClassification.set_reduction" in index
