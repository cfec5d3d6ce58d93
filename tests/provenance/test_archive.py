"""The archive of an experiment: what goes in comes out, and nothing else."""

import hashlib
import json
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from t3d import params
from t3d.errors import CorruptArtefactError, MissingInputError, PublishError, T3DError
from t3d.provenance import archive, records, verify, writer
from t3d.terminal import status
from tests.conftest import ROOT

SCORE, STUDENT = "data/demo/scores/t3d-seed0/gsm/b8s2", "data/demo/students/t3d-seed0"
TABLE = "results/demo/table1.csv"
RECORD = {"output": TABLE, "shellcmd": "t3d table"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a score and a student, published; then only what git keeps is left."""
    (tmp_path / "params").symlink_to(ROOT / "params")
    (tmp_path / "results" / "demo").mkdir(parents=True)
    (tmp_path / TABLE).write_text("method\n")
    monkeypatch.chdir(tmp_path)
    demo = params.find("demo")
    for path, files in ((SCORE, (".json",)), (STUDENT, ("/training.jsonl", "/model.safetensors"))):
        artefact = path.removeprefix("data/demo/")
        with writer.writing(demo, artefact, f"{path}.manifest.json") as job:
            for name in files:
                (job.folder() / name[1:] if name[0] == "/" else job.file(name)).write_text("{}")
    write_archive()
    (tmp_path / "data").rename(tmp_path / "published")
    return tmp_path


def write_archive():
    archive.write("demo", Path("data").rglob("*.manifest.json"), json.dumps(RECORD) + "\n")


def files(folder):
    """Every file and link below a folder, with its content."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {path.relative_to(folder).as_posix(): path.is_symlink() or path.read_bytes() for path in paths}


def members(project):
    with tarfile.open(project / "results" / "demo" / "published.tar.xz") as tar:
        return [[member, tar.extractfile(member).read()] for member in tar]


def pack(project, content, listed=None, ending=tarfile.NUL * 2 * tarfile.BLOCKSIZE):
    """Write an archive of any members, and an index that fits it or says what is `listed`."""
    folder = project / "results" / "demo"
    with lzma.open(folder / "published.tar.xz", "wb") as file:
        for member, data in content:
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.write(data + tarfile.NUL * (-len(data) % tarfile.BLOCKSIZE))
        file.write(ending)
    listed = {member.name: data for member, data in content} if listed is None else listed
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in listed.items()]
    (folder / "published.sha256").write_text("".join(lines))


def member(name, data=b"x", **fields):
    made = tarfile.TarInfo(name)
    made.size, made.mode = len(data), 0o644
    for key, value in fields.items():
        setattr(made, key, value)
    return [made, data]


def test_what_was_published_comes_back(project):
    here, noted = archive.restore(params.find("demo"))
    published = files(project / "published")
    expected = {f"data/{name}" for name in published if not name.endswith(".safetensors")}
    assert here == expected == {f"data/{name}" for name in files(project / "data")}
    assert all((project / name).read_bytes() == published[name.removeprefix("data/")] for name in here)
    assert {(project / name).stat().st_mode & 0o7777 for name in here} == {0o644}
    # Snakemake compares times of files of which it has no record.
    assert len({os.stat(project / name).st_mtime_ns for name in here}) == 1
    assert noted == {TABLE: {"shellcmd": "t3d table"}}
    records.restore(noted)
    assert records.has(TABLE)
    # Again: all is here.
    assert archive.restore(params.find("demo"))[0] == here


def test_what_the_experiment_no_longer_makes_comes_back_too(project):
    """Its files are here as they were published, nothing calls them wrong, and only a new publication objects."""
    demo = params.find("demo")
    others = {name: table for name, table in demo.tables.items() if "t3d" not in table.students}
    students = {name: student for name, student in demo.students.items() if name != "t3d"}
    without = demo.model_copy(update={"students": students, "tables": others, "figures": {}})
    here, _ = archive.restore(without)
    assert here == {f"data/{name}" for name in files(project / "published") if not name.endswith(".safetensors")}
    assert [path.as_posix() for path in verify.strays(without)] == [
        f"{path}.manifest.json" for path in (SCORE, STUDENT)
    ]
    found = status.look(without)
    assert (found.stale, found.running) == ({}, [])


def test_equal_content_gives_equal_files(project):
    before = files(project / "results")
    (project / "published").rename(project / "data")
    for path in sorted((project / "data").rglob("*"), reverse=True):
        path.chmod(0o755)
        os.utime(path, (1, 1))
    write_archive()
    assert files(project / "results") == before


def test_the_index_is_one_that_sha256sum_reads(project):
    lines = (project / "results" / "demo" / "published.sha256").read_text().splitlines()
    assert f"{hashlib.sha256(b'{}').hexdigest()}  {SCORE}.json" in lines
    assert [line.split("  ")[1] for line in lines] == [member.name for member, _ in members(project)]


def test_other_files_are_not_overwritten(project):
    score = project / f"{SCORE}.json"
    score.parent.mkdir(parents=True)
    score.write_text("mine")
    with pytest.raises(
        PublishError, match=rf"1 of the files here\. .* Move or delete them, then pull again:\n  {SCORE}.json$"
    ):
        archive.restore(params.find("demo"))
    assert files(project / "data") == {f"{SCORE}.json".removeprefix("data/"): b"mine"}
    score.unlink()
    score.mkdir()
    with pytest.raises(PublishError, match=rf"{SCORE}.json$"):
        archive.restore(params.find("demo"))


def refused(project, why, kind=CorruptArtefactError):
    before = files(project)
    with pytest.raises(kind, match=why) as caught:
        archive.restore(params.find("demo"))
    assert isinstance(caught.value, T3DError)
    assert files(project) == before
    assert not list((project / "data").iterdir())
    assert not list(project.parent.glob("evil*"))


@pytest.mark.parametrize(
    "name",
    [
        *("data/demo/../../../evil.py", "data/demo/scores/../../../evil.py", "../evil.py", "/tmp/evil.py", "evil.py"),
        *("data/other/evil.json", "data/demo", "data/demo/", "data/demo//evil.json", "data/demo/./evil.json"),
        *("data/demo/.dvcignore", "data/demo/evil.json\n", "data/demo/evil\n.json", "data/demo/evil\\..\\x"),
        *("results/demo/table1.csv", ".dvc/config"),
    ],
)
def test_names_outside_the_experiments_folder_are_refused(project, name):
    pack(project, [*members(project), member(name)])
    refused(project, r"published.sha256, line \d+: not the sha256 and name of one more file .* restore it")


# Links, devices, a folder, a pipe, a contiguous and a sparse file, and extensions of a header, by their codes.
OTHERS = [{"type": bytes([code])} for code in b"1234567SLx"]


@pytest.mark.parametrize("fields", [*OTHERS, {"mode": 0o4644}, {"mode": 0o755}])
def test_what_is_not_a_plain_file_is_refused(project, fields):
    size = 0 if "type" in fields else 1
    pack(project, [*members(project), member(f"{SCORE}.txt", b"x" * size, linkname="/etc/passwd", **fields)])
    refused(project, "is not a plain file of mode 644. Nothing was changed; restore it and its index")


def changed(content, name, data):
    """Members with other content in one of them."""
    return [member(made.name, data if made.name == name else old) for made, old in content]


def edited(content, name, old, new):
    (data,) = [data for made, data in content if made.name == name]
    assert old in data
    return changed(content, name, data.replace(old, new))


MANIFEST = f"{SCORE}.manifest.json"


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (lambda content: [*content, content[0]], "it holds .* twice"),
        (
            lambda content: [*content, member("data/demo/scores/strange.json")],
            "no manifest in it lists data/demo/scores/s",
        ),
        (lambda content: [*content, member(f"{SCORE}.json/x")], "it holds a file and a folder of the same name"),
        (
            lambda content: changed(content, f"{SCORE}.json", b"[]"),
            f"{SCORE}.json does not match its sha256 in {MANIFEST}",
        ),
        (lambda content: changed(content, MANIFEST, b"\xff"), f"{MANIFEST} is not a manifest"),
        (lambda content: changed(content, MANIFEST, b"[1]"), f"{MANIFEST} is not a manifest"),
        (lambda content: edited(content, MANIFEST, b"t3d-seed0/gsm/b8s2", b"x"), f"{MANIFEST} is the manifest of '"),
        (lambda content: changed(content, "records.jsonl", b"[1]\n"), "records.jsonl, line 1: .* not a record of exp"),
        (
            lambda content: changed(content, "records.jsonl", b'{"output": 1}\n'),
            "records.jsonl, line 1: 1 is not an output",
        ),
        (
            lambda content: changed(content, "records.jsonl", b'{"output": "../x"}\n'),
            "records.jsonl, line 1: '../x' is not an output of experiment demo",
        ),
    ],
)
def test_contents_that_no_experiment_publishes_are_refused(project, attack, why):
    pack(project, attack(members(project)))
    refused(project, why)


def test_an_index_that_does_not_fit_is_refused(project):
    content = members(project)
    listed = {made.name: data for made, data in content}
    pack(project, content, listed=listed | {f"{SCORE}.json": b"other"})
    refused(project, f"published.tar.xz is not as it was published: {SCORE}.json does not match its sha256 in .*sha256")
    pack(project, content, listed={name: data for name, data in listed.items() if name != f"{SCORE}.json"})
    refused(project, f"published.sha256 does not list '{SCORE}.json'")
    pack(project, content, listed=listed | {f"{SCORE}.txt": b"x"})
    refused(project, f"lists {SCORE}.txt, which it does not hold")
    index = project / "results" / "demo" / "published.sha256"
    text = index.read_text()
    for damaged in (text + text, text + "x\n", text[:-1], "\0" * 10_000, "\ud800" + text):
        index.write_bytes(damaged.encode("utf-8", "surrogatepass"))
        refused(project, r"published.sha256, line \d+: not the sha256 and name of one more file")
    index.unlink()
    refused(project, r"published.sha256 is missing: get it from whoever published", MissingInputError)


def test_a_damaged_archive_is_refused(project):
    path = project / "results" / "demo" / "published.tar.xz"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"", b"PK", whole[:100] + b"x" + whole[101:]):
        path.write_bytes(damaged)
        refused(project, "published.tar.xz is not as it was published: it cannot be read: ")
    for behind in (b"x", whole[-100:], bytes(512)):
        path.write_bytes(whole + behind)
        refused(project, "published.tar.xz is not as it was published: .*: it goes on after its end. Nothing was")
    path.write_bytes(whole)
    content = members(project)
    pack(project, content, ending=b"")
    refused(project, "it cannot be read: it ends too early")
    pack(project, content, ending=tarfile.NUL * tarfile.BLOCKSIZE + b"more")
    refused(project, "it goes on after its end")
    path.unlink()
    refused(project, "published.tar.xz is missing: .*t3d publish --experiment demo", MissingInputError)


def test_an_archive_that_was_packed_in_parts_is_read(project):
    """Some programs compress a file's parts on several cores, each to a stream of its own."""
    path = project / "results" / "demo" / "published.tar.xz"
    plain, part = lzma.decompress(path.read_bytes()), 2_000
    streams = [lzma.compress(plain[start : start + part]) for start in range(0, len(plain), part)]
    assert len(streams) > 5
    path.write_bytes(b"".join(streams))
    content = {made.name: data for made, data in members(project)}
    found = {}
    archive.walk(path, lambda name, file, size: found.setdefault(name, file.read(size)), AssertionError, 2**30)
    assert found == content
    path.write_bytes(b"".join(streams[:2]))
    refused(project, "it cannot be read: it ends too early")


@pytest.mark.parametrize("size", [2**31, 2**40, -1])
def test_a_size_beyond_the_limit_is_refused_before_it_is_read(project, size):
    content = members(project)
    content[0][0].size = size
    pack(project, content)
    refused(project, "it unpacks to more than 1073741824 bytes")


def test_many_small_files_are_bounded_too(project, monkeypatch):
    monkeypatch.setattr(archive, "_MAX_BYTES", 2_000)
    pack(project, [*members(project), *(member(f"{SCORE}.{number}", bytes(500)) for number in range(10))])
    refused(project, "it unpacks to more than 2000 bytes")
    monkeypatch.setattr(archive, "_MAX_MEMBERS", 5)
    refused(project, "published.sha256, line 6: ")
