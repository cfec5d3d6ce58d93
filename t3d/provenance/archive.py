"""`results/<experiment>/published.tar.xz`: what an experiment publishes, small enough for git.

Members are every manifest, receipt, training log, score and factorisation, and Snakemake's records. Beside the archive
lies `published.sha256`, an index of all members in the format of `sha256sum`.

Archives come from other people, so reading one trusts nothing: only plain files with expected names are unpacked, into
a temporary folder, and they are moved into place once every sha256 is the index's and the manifests fit their files.
"""

import hashlib
import io
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from t3d.errors import CorruptArtefactError, MissingInputError, PublishError, T3DError
from t3d.params import NAME, Experiment
from t3d.provenance import advice, records, store
from t3d.provenance.files import atomic_write
from t3d.provenance.lineage import LOG
from t3d.provenance.store import INDEX, MANIFEST, RECEIPT, sha256

RECORDS = "records.jsonl"
"""The member with Snakemake's records (`t3d/provenance/records.py`)."""
# Pocket has 11,566 members of 62 MB. The limits stop an archive that unpacks to more than a disk holds.
_MAX_MEMBERS = 200_000
_MAX_BYTES = 2**30
_BLOCK = tarfile.BLOCKSIZE
_MODE = 0o644
_READ = 2**20
_STREAM = b"\xfd7zXZ\0"
"""How a stream of an xz file begins."""


def paths_of(experiment: str) -> tuple[Path, Path]:
    """The archive of an experiment, and its index."""
    folder = Path("results", experiment)
    return folder / advice.ARCHIVE, folder / INDEX


def write(experiment: str, manifests: Iterable[Path], lines_of_records: str) -> None:
    """Write the archive of an experiment and its index; equal content gives equal files.

    Args:
        experiment: its name.
        manifests: below `data/<experiment>/`, of complete artefacts.
        lines_of_records: content of the member `RECORDS`; the archive is without it if empty.

    Raises:
        PublishError: a file's name does not fit into an archive.
    """
    names = {path.as_posix() for manifest in manifests for path in _files_of(manifest)}
    archive, index = paths_of(experiment)
    lines = []
    with atomic_write(archive) as unfinished:
        with (
            lzma.open(unfinished, "wb", preset=9) as file,
            # Without extensions: a name is in its header, or is refused.
            tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for name in sorted(names | ({RECORDS} if lines_of_records else set())):
                content = lines_of_records.encode() if name == RECORDS else Path(name).read_bytes()
                # Owner and time are 0 unless they are set.
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), _MODE
                try:
                    tar.addfile(member, io.BytesIO(content))
                except ValueError as error:
                    raise PublishError(f"{name} cannot be published ({error}): give it a shorter name.") from error
                lines.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        with atomic_write(index) as other:
            other.write_text("".join(lines))


def _files_of(manifest: Path) -> list[Path]:
    """Files of an artefact that are published: all of a score, of a student its log."""
    read = store.read(manifest)
    whole = read.artefact.startswith(("scores/", "factorisation/"))
    files = [manifest.parent / name for name in read.files if whole or PurePosixPath(name).name == LOG]
    return [manifest, Path(f"{read.base}{RECEIPT}"), *files]


def restore(experiment: Experiment) -> tuple[set[str], records.Records]:
    """Put the files of an experiment's archive into place, all of them checked before the first.

    Returns:
        Files that are here as they were published, and the records in the archive.

    Raises:
        MissingInputError: the archive or its index is not here.
        CorruptArtefactError: the archive is damaged, does not fit its index, or holds what no experiment publishes.
        PublishError: other files are in the way.
    """
    # Beside the destination, so that moving a file is one rename.
    Path("data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{experiment.name}-", dir="data") as name:
        folder = Path(name)
        digests = _unpack(experiment.name, folder)
        _check_manifests(experiment.name, folder, digests)
        noted = records.read(experiment, folder / RECORDS) if digests.pop(RECORDS, None) else {}
        _move(folder, digests)
    return set(digests), noted


def _unpack(experiment: str, folder: Path) -> dict[str, str]:
    """Unpack an archive into an empty folder; returns the sha256 of each member, all of them the index's."""
    index = _read_index(experiment)
    archive, listing = paths_of(experiment)
    digests: dict[str, str] = {}

    def unpack(name: str, file: IO[bytes], size: int) -> None:
        if name not in index:
            raise _damaged(experiment, f"{listing} does not list {name!r}")
        digests[name] = _copy(file, size, folder / name)
        if digests[name] != index[name]:
            raise _damaged(experiment, f"{name} does not match its sha256 in {listing}")

    try:
        walk(archive, unpack, partial(_damaged, experiment), _MAX_BYTES)
    except (FileExistsError, NotADirectoryError) as error:
        raise _damaged(experiment, "it holds a file and a folder of the same name") from error
    if missing := sorted(index.keys() - digests.keys()):
        raise _damaged(experiment, f"{listing} lists {missing[0]}, which it does not hold")
    return digests


def walk(
    archive: Path,
    take: Callable[[str, IO[bytes], int], object],
    damaged: Callable[[str], T3DError],
    most: int,
) -> None:
    """Go through the members of a `tar.xz`, in its order.

    Args:
        archive: the file.
        take: is called with each member's name, a file and a number of bytes, and reads these bytes from the file.
        damaged: the error for a reason.
        most: bytes of all members together.

    Raises:
        T3DError: `damaged`, of what is no archive, ends too early or goes on after its end, or holds a name twice or
            anything but plain files of mode 644.
    """
    seen: set[str] = set()
    total = 0
    try:
        with archive.open("rb") as packed, io.BufferedReader(_Unpacked(packed)) as file:
            # Headers are read one by one: `tarfile` itself would follow extensions of any size.
            while any(block := _read(file, _BLOCK)):
                member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
                total += member.size
                if member.type != tarfile.REGTYPE or member.mode != _MODE:
                    raise damaged(f"{member.name!r} is not a plain file of mode {_MODE:o}")
                if member.name in seen:
                    raise damaged(f"it holds {member.name} twice")
                if member.size < 0 or total > most:
                    raise damaged(f"it unpacks to more than {most} bytes")
                seen.add(member.name)
                take(member.name, file, member.size)
                _read(file, -member.size % _BLOCK)
            rest = file.read(tarfile.RECORDSIZE)
            if any(rest) or file.read(1):
                raise damaged("it goes on after its end")
    except (lzma.LZMAError, EOFError, tarfile.HeaderError, UnicodeError) as error:
        raise damaged(f"it cannot be read: {error}") from error


class _Unpacked(io.RawIOBase):
    """What an xz file holds. `lzma.open` says nothing of bytes behind its end; this refuses them."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill some of a buffer; 0 at the end of the last stream, behind which is nothing."""
        content = b""
        while not content:
            ended = self._stream.eof
            wants = ended or self._stream.needs_input
            packed = self._stream.unused_data + (self._packed.read(_READ) if wants else b"")
            if ended and not packed:
                return 0
            if ended and not packed.startswith(_STREAM):
                raise lzma.LZMAError("it goes on after its end")
            if wants and not packed:
                raise EOFError("it ends too early")
            if ended:
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            content = self._stream.decompress(packed, len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _read_index(experiment: str) -> dict[str, str]:
    """Member -> sha256. Every name is below the experiment's folder, or is `RECORDS`."""
    archive, index = paths_of(experiment)
    for path in (archive, index):
        if not path.is_file():
            raise _missing(experiment, path)
    # Names are those that parameters may have: all stay below the experiment's folder.
    line = re.compile(rf"([0-9a-f]{{64}})  (data/{re.escape(experiment)}(?:/{NAME})+|{RECORDS})\n")
    found: dict[str, str] = {}
    # The length of a line is limited; a binary file has characters that match no line.
    with index.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, text in enumerate(iter(lambda: file.readline(4096), ""), start=1):
            match = line.fullmatch(text)
            if match is None or match[2] in found or number > _MAX_MEMBERS:
                raise CorruptArtefactError(
                    f"{index}, line {number}: not the sha256 and name of one more file of experiment {experiment}; "
                    f"restore it (git checkout {index})."
                )
            found[match[2]] = match[1]
    return found


def _missing(experiment: str, path: Path) -> MissingInputError:
    if advice.in_git(path):
        return MissingInputError(f"{path} is missing: restore it (git checkout {path}).")
    make = f"make and publish the experiment (t3d publish --experiment {experiment})"
    if any(other.is_file() for other in paths_of(experiment)):
        return MissingInputError(
            f"{path} is missing: get it from whoever published experiment {experiment}, or {make}."
        )
    others = ", ".join(advice.published()) or "none"
    return MissingInputError(
        f"experiment {experiment} was not published: there is no {path}. Published are: {others}. To pull "
        f"{experiment}, {make}."
    )


def _read(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError("it ends too early")
    return content


def _copy(file: IO[bytes], size: int, path: Path) -> str:
    """Write the next `size` bytes of an archive to a new file; returns their sha256."""
    digest = hashlib.sha256()
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    with path.open("xb") as out:
        for start in range(0, size, _READ):
            content = _read(file, min(_READ, size - start))
            digest.update(content)
            out.write(content)
    return digest.hexdigest()


def _check_manifests(experiment: str, folder: Path, digests: dict[str, str]) -> None:
    """Check that files are what manifests say, and that there are no others. A manifest's files may be elsewhere."""
    known = {RECORDS}
    for name in (name for name in digests if name.endswith(MANIFEST)):
        try:
            manifest = store.read(folder / name)
            files = {str(PurePosixPath(name).parent / file): entry["sha256"] for file, entry in manifest.files.items()}
        except T3DError as error:
            raise _damaged(experiment, f"{name} is not a manifest") from error
        if name != f"data/{experiment}/{manifest.artefact}{MANIFEST}":
            raise _damaged(experiment, f"{name} is the manifest of {manifest.artefact!r}")
        if wrong := [file for file, digest in files.items() if digests.get(file, digest) != digest]:
            raise _damaged(experiment, f"{wrong[0]} does not match its sha256 in {name}")
        known |= {name, name.removesuffix(MANIFEST) + RECEIPT, *files}
    if strange := sorted(digests.keys() - known):
        raise _damaged(experiment, f"no manifest in it lists {strange[0]}")


def _move(folder: Path, digests: dict[str, str]) -> None:
    """Move unpacked files to where their names say, manifests last; nothing if another file is in the way."""
    new, different = [], []
    parents = {parent for name in digests for parent in Path(name).parents}
    in_the_way = {parent for parent in parents if parent.is_file()}
    for name, digest in digests.items():
        path = Path(name)
        if path.is_file():
            different += [name] if sha256(path) != digest else []
        elif path.exists() or not in_the_way.isdisjoint(path.parents):
            different.append(name)
        else:
            new.append(name)
    if different:
        shown = "\n  ".join([*different[:10], *(["..."] if different[10:] else [])])
        raise PublishError(
            f"not as they were published: {len(different)} of the files here. Nothing was changed. Move or delete "
            f"them, then pull again:\n  {shown}"
        )
    # One time for all, or Snakemake would take what was moved later for newer.
    now = time.time()
    for parent in {Path(name).parent for name in new}:
        parent.mkdir(parents=True, exist_ok=True)
    for name in sorted(new, key=lambda name: name.endswith(MANIFEST)):
        os.utime(folder / name, (now, now))
        # Across file systems too: data/<experiment> may be a link to a larger disk.
        shutil.move(folder / name, name)


def _damaged(experiment: str, why: str) -> CorruptArtefactError:
    archive, index = paths_of(experiment)
    return CorruptArtefactError(
        f"{archive} is not as it was published: {why}. Nothing was changed; restore it and its index (git checkout "
        f"{archive} {index}), and if git's are the same, ask whoever published them."
    )
