"""The pages of the documentation: every block of Python runs, every command and link exists."""

import html
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

import aefast
from tests.distributed import paging, worlds

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "aefast" / "docs"
README = ROOT / "README.md"

# Every page; none if the tests are run on an installed package, which has no pages.
PAGES = sorted(DOCS.rglob("*.md"))
PROGRAMS = [
    page
    for page in PAGES
    # Its programs run in test_programs.py.
    if "```python\n" in page.read_text(encoding="utf-8") and page.stem != "your-program"
]

PEERS = {"accelerate", "lightning", "pyod", "rbms", "sae_lens"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PROGRAMS, ids=name_of)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch):
    for package in ("sklearn", "safetensors"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for name, value in worlds.environment(0, 1, worlds.free_port()).items():
        monkeypatch.setenv(name, value)  # what torchrun sets
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        if not lacking(block):
            exec(block, names)
    if "dist" in names:
        time.sleep(0.2)  # gloo's thread frees its last work, for which it needs the interpreter


@pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree")
def test_the_page_on_several_devices_runs_as_written_on_two_ranks(tmp_path):
    """Its loops train as one process does."""
    program = blocks(DOCS / "how-to" / "several-devices.md", "python")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (one,) = worlds.run(1, paging.states, program, tmp_path / "one")
    for rank in worlds.run(2, paging.states, program, tmp_path / "two"):
        for name, value in one.items():
            assert (rank[name] - value).norm() <= 1e-6 * value.norm(), name


def lacking(block: str) -> list[str]:
    """The optional libraries that a block imports and that are not installed."""
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", block, re.MULTILINE))
    return [name for name in sorted(imported & PEERS) if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree")
def test_every_guide_has_a_program_an_equation_a_picture_and_its_sources():
    guides = sorted((DOCS / "guide").glob("*.md"))
    assert len(guides) == 9
    for guide in guides:
        text = guide.read_text(encoding="utf-8")
        for part in ("```python", "$$", "trained-figure}", "## Sources", "aefast."):
            assert part in text, f"{guide.name} lacks {part}"


def commands(page: Path) -> list[list[str]]:
    """The words of each line in a page's shell blocks that calls aefast."""
    lines = "\n".join(blocks(page, "sh")).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("aefast ")]


@pytest.mark.parametrize(
    "page", [page for page in (README, *PAGES) if page.exists() and commands(page)], ids=name_of
)
def test_every_command_of_a_page_is_one_with_these_options(page):
    typer_main = pytest.importorskip("typer.main")
    from aefast.cli import app

    for words in commands(page):
        command, rest = typer_main.get_command(app), list(words)
        while hasattr(command, "commands"):
            name = rest.pop(0) if rest[0] in command.commands else "run"  # bench's own
            command = command.commands[name]
        command.make_context("aefast", rest)  # which raises where an option is none of its own


def stand_ins(folder: Path) -> None:
    """Pictures in place of the figures, which take minutes to train."""
    from matplotlib.figure import Figure

    from aefast.figures import NAMES, find
    from aefast.figures.page import Shown, write_page

    folder.mkdir()
    Figure(figsize=(1, 1)).savefig(folder / "blank.png")
    for name in NAMES:
        shutil.copy(folder / "blank.png", folder / f"{name}.png")
    write_page([Shown(find(name).TITLE, "So it is.", f"{name}.png") for name in NAMES], folder)


@cache
def anchors(page: Path) -> set[str]:
    return set(re.findall(r'\bid="([^"]*)"', page.read_text(encoding="utf-8")))


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether the target of a page's link exists: the file, and the anchor in it."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.is_file() and (not anchor or anchor in anchors(target))


@pytest.mark.slow
@pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree")
def test_the_site_is_built_without_a_warning_and_takes_nothing_from_a_network(tmp_path):
    for package in ("sphinx", "furo", "myst_parser", "latex2mathml", "matplotlib", "sklearn"):
        pytest.importorskip(package)
    figures = importlib.import_module("aefast.figures")
    stand_ins(tmp_path / "figures")
    site = tmp_path / "site"
    options = ["-W", "--keep-going", "-q", "-D", f"trained_figures={tmp_path / 'figures'}"]
    command = [sys.executable, "-m", "sphinx", *options, "-d", tmp_path / "cache", DOCS, site]
    built = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert built.returncode == 0, built.stderr
    pages = sorted(site.rglob("*.html"))
    (site / "benchmarks.html").touch()  # the report, which `make docs` adds
    assert {str(page.relative_to(DOCS).with_suffix(".html")) for page in PAGES} <= {
        str(page.relative_to(site)) for page in pages
    }
    for page in pages:
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text)
        loaded = [address for tag in tags for address in re.findall(r'(?:src|href)="([^"]*)"', tag)]
        assert not [address for address in loaded if re.match(r"(\w+:)?//", address)], page
        for image in re.findall(r'<img[^>]* src="([^"]*)"', text):
            assert (page.parent / image).is_file(), f"{page.name} shows {image}"
        links = re.findall(r'<a\b[^>]*\bhref="([^":]*)"', text)
        assert not [link for link in links if not leads_somewhere(page, html.unescape(link))], page
    for guide in (site / "guide").glob("*.html"):
        assert (
            '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"' in guide.read_text()
        )
    gallery = (site / "gallery.html").read_text(encoding="utf-8")
    links = re.findall(r'<a [^>]*href="guide/[\w-]+\.html#figure-(\w+)"><span><img ', gallery)
    assert links == list(figures.NAMES)
    assert (site / "searchindex.js").is_file()
    api = (site / "api" / "functional.html").read_text(encoding="utf-8")
    results = aefast.ops.result_types(aefast.ops.public_functions())
    assert api.count("viewcode-link") == len(aefast.functional.__all__) + len(results)


@pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="needs the source tree")
def test_the_citation_has_the_keys_that_its_format_requires_and_the_packages_version():
    from aefast import __version__

    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    citation = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", text, re.MULTILINE))
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert citation["version"] == __version__
    assert re.search(r"^authors:\n  - name: \S", text, re.MULTILINE)
