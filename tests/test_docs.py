"""The documentation runs: its snippets, its links, its names and its reference tables."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, get_args

import pytest
from pydantic import BaseModel

import bytebound
from bytebound.documents import fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "skills").rglob("*.md")])
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
WITHOUT_DOCTESTS = {
    "bytebound.__main__",  # importing it runs the command line
    "bytebound.measure.triton_kernels",  # imported only where Triton is
}

pytestmark = pytest.mark.filterwarnings("error")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: its language, the words after it, its text and the line it starts on."""

    language: str
    options: tuple[str, ...]
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"\s*```(.*)", line)
        if fence and opened is None:
            opened = number, fence[1].strip(), []
        elif fence and opened is not None:
            words = opened[1].split() or [""]
            yield Block(words[0], tuple(words[1:]), "\n".join(opened[2]) + "\n", opened[0] + 1)
            opened = None
        elif opened is not None:
            opened[2].append(line)
    assert opened is None, f"a block opened on line {opened[0] if opened else 0} is not closed"


def pages_with(*languages: str) -> list[Path]:
    """Return the pages that hold a block of one of ``languages``."""
    return [page for page in PAGES if any(b.language in languages for b in blocks(page.read_text(encoding="utf-8")))]


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def run_console(block: Block, page: Path) -> None:
    """Run the commands of a console block (lines that start with ``$``), in the current folder.

    The block's word ``exit=N`` states the exit code of its last command (``exit=0,3``: either); ``exact`` that its output is what
    is shown.
    """
    stated = next((word.removeprefix("exit=") for word in block.options if word.startswith("exit=")), "0")
    wanted = {int(code) for code in stated.split(",")}
    lines = block.text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    assert starts, f"{name_of(page)}:{block.line}: a console block without a command"

    for position, start in enumerate(starts):
        words = shlex.split(lines[start].removeprefix("$ "))
        assert words[0] == "bytebound", (
            f"{name_of(page)}:{block.line}: only bytebound commands are run here: {words[0]}"
        )
        end = starts[position + 1] if position + 1 < len(starts) else len(lines)
        done = run_bytebound(*words[1:])
        expected = wanted if position + 1 == len(starts) else {0}
        assert done.returncode in expected, f"{name_of(page)}: {lines[start]}\n{done.stdout}{done.stderr}"
        assert words[1] == "watch" or "Traceback" not in done.stderr, done.stderr  # a watched program may show its own
        if "exact" in block.options:
            shown = "\n".join(lines[start + 1 : end]).strip()
            assert (done.stdout + done.stderr).strip() == shown, f"{name_of(page)}:{block.line}"


def run_bytebound(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in the current folder, without a network and without colour."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    settings = {"NO_COLOR": "1", "COLUMNS": "110", "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    settings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(  # noqa: S603 - our own command with words from our own pages
        [sys.executable, "-m", "bytebound", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
        env={**os.environ, **proxies, **settings},
    )


def needed(block: Block) -> list[str]:
    """Return the packages without which a block cannot run."""
    return [name for word in block.options if word.startswith("needs=") for name in word[6:].split(",")]


@pytest.mark.parametrize("page", pages_with("python", "console"), ids=name_of)
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    """Every python and console block of a page runs, top to bottom, in one empty folder beside the examples.

    A toml block whose first line is ``# FILE`` is written to that file first. A block whose words hold ``needs=A,B`` is
    left out where one of those packages is not installed. What is measured is kept in the same folder.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BYTEBOUND_DB", raising=False)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    module = ModuleType("__main__")

    for block in blocks(page.read_text(encoding="utf-8")):
        if any(find_spec(name) is None for name in needed(block)):
            continue
        title = re.match(r"# ([\w.-]+\.toml)\b", block.text) if block.language == "toml" else None
        if title:
            (tmp_path / title[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            run_console(block, page)
        elif block.language == "python":
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(page), "exec"), module.__dict__)  # noqa: S102 - our own page


@pytest.mark.parametrize("page", pages_with("pycon"), ids=name_of)
def test_worked_numbers_are_exact(page):
    """Every number of a pycon block is what the code gives today."""
    examples = "".join(b.text for b in blocks(page.read_text(encoding="utf-8")) if b.language == "pycon")
    found = doctest.DocTestParser().get_doctest(examples, {}, name_of(page), str(page), 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    runner.run(found, out=said.append)
    tried, failed = runner.tries, runner.failures

    assert failed == 0, "".join(said)
    assert tried > 0


def modules() -> list[str]:
    """Return the names of all our modules."""
    found = pkgutil.walk_packages(bytebound.__path__, "bytebound.")
    return sorted(name for name in (info.name for info in found) if name not in WITHOUT_DOCTESTS)


def test_every_doctest_of_the_package_holds():
    """Every example in a docstring is true."""
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    for name in modules():
        module = importlib.import_module(name)
        for found in finder.find(module, name):
            runner.run(found, out=said.append)

    assert runner.failures == 0, "".join(said)
    assert runner.tries > 20, "the examples were not found"


def anchors(text: str) -> set[str]:
    """Return the anchors a page's headings make."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_internal_links_resolve(page):
    """Every link to a file or heading of this repository leads somewhere inside it."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page

        assert place.is_relative_to(ROOT), f"{target} leads outside"
        assert place.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{target} names no heading"


def test_files_named_in_prose_exist():
    """A path of the repository that a page names in code marks exists."""
    for page in PAGES:
        for path in re.findall(
            r"`((?:src|tests|docs|examples|validation|benchmarks)/[\w./-]+)`", page.read_text("utf-8")
        ):
            assert (ROOT / path).exists(), f"{name_of(page)} names {path}"


def homes(text: str) -> list[str]:
    """Return the dotted names in square brackets of the equations page; ``a.b, c`` means ``a.b`` and ``a.c``."""
    found = []
    for inside in re.findall(r"\[([a-z_]+\.[\w., ;]+)\](?!\()", text):
        stem = ""
        for part in re.split(r"[,;] *", inside):
            full = part if "." in part or not stem else f"{stem}.{part}"
            stem = full.rpartition(".")[0]
            found.append(full)
    return found


def resolve(dotted: str) -> object:
    """Return what ``dotted`` names under the package.

    Raises:
        AttributeError: there is no such thing.
    """
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module("bytebound." + ".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    message = f"bytebound.{dotted} is no module"
    raise AttributeError(message)


def test_equations_say_where_they_live():
    """Every [module.function] on the equations page exists."""
    names = homes((ROOT / "docs" / "equations.md").read_text(encoding="utf-8"))
    missing = []
    for name in names:
        try:
            resolve(name)
        except AttributeError as error:
            missing.append(f"{name}: {error}")

    assert missing == []
    assert len(names) > 20


def test_the_readme_shows_figures_of_the_accuracy_page():
    """Every row of a table and every weak spot under "How wrong is it?" stands in docs/accuracy.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## How wrong is it\?$(.*?)(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    known = {line.strip() for line in (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").splitlines()}
    shown = [line for line in section[1].splitlines() if line.startswith(("| ", "- "))]

    assert len(shown) > 10
    assert [line for line in shown if line not in known] == []


def first_cells(page: str) -> set[str]:
    """Return what stands in code marks or bare in the first cell of every table row of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\| (.+?) \|", text, flags=re.MULTILINE)
    return {name for cell in cells for name in [cell, *re.findall(r"`([^`]+)`", cell)]}


def test_the_truth_page_is_complete():
    """Every column, metric, regime, trust, protocol and reason of measured rows is on docs/truth.md."""
    from bytebound.documents.truth import METRICS, REGIMES, TRUSTS
    from bytebound.documents.validation import PROTOCOLS
    from bytebound.truth import REASONS
    from bytebound.truth.table import COLUMNS, LOAD, MORE_WORK

    wanted = {*COLUMNS, *MORE_WORK, *LOAD, *METRICS, *REGIMES, *TRUSTS, *PROTOCOLS, *REASONS}

    assert wanted - first_cells("truth.md") == set()


RECORDS: dict[str, type[BaseModel]] = {
    "The top of the file": fleet.Fleet,
    "limits": fleet.Limits,
    "pool": fleet.Pool,
    "roadmap": fleet.RoadmapEvent,
    "workload": fleet.Workload,
    "workload.demand": fleet.Demand,
    "workload.objective": fleet.Objective,
    "workload.deployment": fleet.Deployment,
    "workload.job": fleet.Job,
    "Lengths": fleet.Lengths,
}


def documented(heading: str) -> dict[str, str]:
    """Return key -> default as the fleet page's section says."""
    text = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/fleet.md has no section {heading!r}"
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", section[1], flags=re.MULTILINE)
    assert len({key for key, _ in rows}) == len(rows), f"a key is documented twice under {heading!r}"
    return {key: default.strip().strip("`") for key, default in rows}


def default_of(record: type[BaseModel], name: str) -> str:
    """Return a field's default as the fleet page writes it."""
    field = record.model_fields[name]
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ("", ()) or isinstance(value, BaseModel):
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("heading", RECORDS)
def test_fleet_reference_is_complete(heading):
    """Every key of every record is in docs/fleet.md with its default, and no other key is."""
    record = RECORDS[heading]
    fields = {field.alias or name: default_of(record, name) for name, field in record.model_fields.items()}

    assert documented(heading) == fields


def test_every_fleet_record_has_a_section():
    """A record added to the fleet file is documented too."""
    reached: set[type[BaseModel]] = set()

    def visit(kind: object) -> None:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in reached:
            reached.add(kind)
            for field in kind.model_fields.values():
                visit(field.annotation)
        for inner in get_args(kind):
            visit(inner)

    visit(fleet.Fleet)

    assert reached == set(RECORDS.values())


def test_fleet_page_examples_are_read():
    """The whole-file example of docs/fleet.md is a fleet, and every fragment is TOML with known keys."""
    found = [b.text for b in blocks((ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")) if b.language == "toml"]
    whole, fragments = found[0], "\n".join(found[1:])
    start = 'name = "all"\nstart = "2026-12"\n'
    training = '[[workload]]\nname = "job"\nkind = "train"\nmodel = "x"\npool = "serving"\n'
    joined = start + fragments.replace("[workload.job]", training + "[workload.job]")

    assert fleet.parse_fleet(whole).workload[0].demand.requests == 20
    assert fleet.parse_fleet(joined).pool[0].name == "serving"


def test_units_of_the_fleet_page_are_read():
    """Every quantity shown in the fleet page's table of units can be read."""
    from bytebound.units import parse

    text = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    dimensions = {
        "time": "seconds", "rate of requests": "requests per second", "money": "US dollars",
        "price": "US dollars per hour", "power": "watts", "share": "fraction",
    }  # fmt: skip
    for label, dimension in dimensions.items():
        row = re.search(rf"^\| {label} \| (.*?) \|", text, flags=re.MULTILINE)
        assert row is not None
        for shown in re.findall(r'`"?([^`"]+)"?`', row[1]):
            assert parse(shown, dimension) > 0


def verbs() -> dict[str, set[str]]:
    """Return verb -> its flags, as the command line has them."""
    from bytebound.cli import app

    names = [name for name in app if not name.startswith("-")]
    return {
        name: {flag for argument in app[name].assemble_argument_collection() for flag in argument.names}
        for name in names
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_named_in_prose_exist(page):
    """Every ``bytebound VERB --flag`` a page names is a verb of the command line, with that flag."""
    known = verbs()
    text = page.read_text(encoding="utf-8")
    everywhere = {flag for flags in known.values() for flag in flags} | {"--help", "--version"}

    for line in re.findall(r"bytebound ([a-z]+ [^`\n]*|[a-z]+)(?=`|\n)", text):
        if not re.search(rf"(?:`|\$ )bytebound {re.escape(line)}", text):
            continue
        verb, _, rest = line.partition(" ")
        assert verb in known, f"no verb {verb!r}"
        own = f"{rest} ".split(" -- ")[0]  # what follows is a command of the user's
        assert set(re.findall(r"--[a-z][a-z-]*", own)) <= known[verb], line
    for flag in re.findall(r"`(--[a-z][a-z-]*)", text):
        assert flag in everywhere, f"no verb has {flag}"


def test_the_readme_names_every_verb_that_answers_a_question():
    """A verb the README does not name is a verb nobody finds."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [name for name in verbs() if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_hold_nothing_of_one_machine(page):
    """No page names a folder of the machine it was written on, or leaves work for later."""
    text = page.read_text(encoding="utf-8")

    assert not re.search(r"/(?:work|home|root|tmp|Users)/|\bTODO\b|\bFIXME\b", text)
    assert text.endswith("\n")
    assert text.startswith(("# ", "---\n"))


def test_the_readme_begins_with_the_two_commands():
    """``make demo`` and ``make test`` are the first thing in the README."""
    first = next(blocks((ROOT / "README.md").read_text(encoding="utf-8")))

    assert [line.split("#")[0].strip() for line in first.text.strip().splitlines()] == ["make demo", "make test"]


def test_a_wrong_snippet_is_noticed(tmp_path, monkeypatch):
    """The checks above can fail: a command that exits 2 where 0 is stated, and a number that is not so."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "README.md"
    wrong = Block("console", (), "$ bytebound estimate no-such-model --on h100-sxm\n", 1)

    with pytest.raises(AssertionError, match="no-such-model"):
        run_console(wrong, page)
    with pytest.raises(AttributeError):
        resolve("ledger.no_such_formula")


def test_one_version_everywhere():
    """The package, the changelog and the citation state the same version."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE)
    assert version is not None

    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## [{version[1]}] - " in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_source_that_asks_for_credit_gets_it():
    """Each row of the sources table under a Creative Commons licence is named in NOTICE with that licence."""
    notice = (ROOT / "NOTICE").read_text("utf-8")
    table = (ROOT / "src" / "bytebound" / "facts" / "data" / "SOURCES.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| .+? \| (CC BY[\w.\- ]*\d\.\d)(.*?) \|$", table, flags=re.MULTILINE)

    assert len(rows) >= 3
    for source, licence, _ in rows:
        name = re.search(r"Epoch AI|gpurentalprices\.com|stas00/ml-engineering|AWS Neuron", source)
        assert name is not None, f"NOTICE does not know {source}"
        assert name[0] in notice
        assert licence in notice


def test_the_licence_is_apache():
    """The licence file is the text that pyproject.toml names."""
    text = (ROOT / "LICENSE").read_text("utf-8")

    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
