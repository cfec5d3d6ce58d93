"""A project in which everything was made, small, and the operations that damage a copy of it."""

import hashlib
import io
import json
import lzma
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import load_file, save_file

from t3d import params
from t3d.evaluation import scores
from t3d.provenance import archive
from t3d.reporting import figures, tables
from tests.artefacts import made
from tests.conftest import ROOT
from tests.started import set_up
from tests.workflow.small import twin

NAMES = {
    "$t": "data/demo/teachers/pocket-sdar",
    "$s": "data/demo/students/sft-seed0",
    "$p": "data/demo/prompts/gsm-test",
    "$r": "data/demo/trajectories/gsm/0-of-1",
    "$a": "data/demo/answers/sft-seed0/gsm/b8s2",
    "$c": "data/demo/scores/sft-seed0/gsm/b8s2",
}
QUESTIONS = '{"q": "What is 1 + 1?", "a": "2"}\n{"q": "What is 2 + 2?", "a": "4"}\n'


def spelled(text: str) -> str:
    """A word of a case with `$a` for the answers, `NAME*300` for 300 letters."""
    for short, path in NAMES.items():
        text = text.replace(short, path)
    before, star, count = text.partition("NAME*")
    digits = count[: len(count) - len(count.lstrip("0123456789"))]
    return before + "n" * int(digits) + count[len(digits) :] if star else text


def make(project: Path) -> None:
    """Make everything that a case begins with: each stage once, a table, the figure, the archive."""
    content = twin()
    for prompts in content["prompt_sets"].values():
        prompts["count"] = 3
    content["trajectories"] = {"gsm": content["trajectories"]["gsm"] | {"shards": 1, "max_new_tokens": 8}}
    content["students"]["sft"]["prompts"] = ["gsm-train"]
    content["students"]["t3d"]["trajectories"] = ["gsm"]
    for student in content["students"].values():
        student["optimizer"] |= {"steps": 1, "warmup_steps": 0}
    for benchmark in content["benchmarks"].values():
        benchmark["max_new_tokens"] = 8
    for product in (content["tables"]["table1"], *content["figures"].values()):
        product["students"] = ["sft"]
        product |= {"benchmarks": ["gsm"]} if "benchmarks" in product else {}
    del content["tables"]["table2"], content["figures"]["commits"]
    pin = {"revision": "0" * 40, "files": {"test.jsonl": hashlib.sha256(QUESTIONS.encode()).hexdigest()}}
    content["sources"] = {"questions": {"repository": "me/questions", "local": "questions"} | pin}
    content["prompt_sets"]["file-test"] = {
        "teacher": "pocket-sdar",
        "domain": "questions",
        "source": "questions",
        "columns": {"question": "q", "answer": "a"},
        "split": "test",
    }
    project.mkdir(parents=True)
    set_up(project, "demo", yaml.safe_dump(content, sort_keys=False))
    (project / "questions").mkdir()
    (project / "questions" / "test.jsonl").write_text(QUESTIONS)
    shutil.copy(ROOT / "params" / "reported.csv", project / "params")
    (project / "workflow").symlink_to(ROOT / "workflow")
    (project / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", project / ".dvc")
    (project / "results" / "demo").mkdir(parents=True)
    os.chdir(project)
    experiment = params.find("demo")
    data = Path("data", "demo")
    kept = []
    for model, benchmark in (("pocket-sdar", "gsm"), ("sft-seed0", "gsm"), ("sft-seed0", "code")):
        answers = made(experiment, data, f"answers/{model}/{benchmark}/b8s2")
        out = data / "scores" / model / benchmark / "b8s2.manifest.json"
        scores.make(experiment, answers, made(experiment, data, f"prompts/{benchmark}-test"), out)
        kept += [out] if benchmark == "gsm" else []
    made(experiment, data, "trajectories/gsm/0-of-1", "prompts/file-test")
    tables.write(experiment, "table1", kept, Path("results", "demo", "table1.csv"))
    student = Path(f"{NAMES['$s']}.manifest.json")
    figures.write(experiment, "training", [student], Path("results", "demo", "figures", "training.pdf"))
    archive.write("demo", data.rglob("*.manifest.json"), "")


class Damage:
    """What the operations of a case do to the project in the working directory."""

    def write(self, path: Path, content: str | bytes, times: int = 1) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes((content if isinstance(content, bytes) else content.encode("latin-1")) * times)

    def cut(self, path: Path, size: int) -> None:
        self.write(path, path.read_bytes()[:size])

    def flip(self, path: Path, places: list[int]) -> None:
        content = bytearray(path.read_bytes())
        for place in places:
            content[place] ^= 0x55
        self.write(path, bytes(content))

    def remove(self, path: Path, _: bool) -> None:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def unlink(self, path: Path, _: bool) -> None:
        target = path.resolve()
        path.unlink()
        shutil.copytree(target, path, ignore=shutil.ignore_patterns("__pycache__", ".venv"))

    def folder(self, path: Path, _: bool) -> None:
        path.mkdir(parents=True)

    def link(self, path: Path, target: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def pipe(self, path: Path, _: bool) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    def mode(self, path: Path, mode: int) -> None:
        path.chmod(mode)

    def copy(self, path: Path, target: str) -> None:
        shutil.copy(path, target)

    def pickle(self, path: Path, _: bool) -> None:
        class Evil:
            def __reduce__(self) -> tuple:
                return (open, ("../evil", "w"))

        self.write(path, pickle.dumps(Evil()))

    def modules(self, folder: Path, names: list[str]) -> None:
        for name in names:
            (folder / f"{name}.py").write_text(
                "open('../evil', 'w')\nopen('../../../evil', 'w')\nraise SystemExit(9)\n"
            )

    def json(self, path: Path, changes: dict[str, Any]) -> None:
        content = changed(json.loads(path.read_text()), changes)
        self.write(path, json.dumps(content).encode())

    def jsonl(self, path: Path, changes: dict[str, Any]) -> None:
        rows = changed([json.loads(line) for line in path.read_text().splitlines()], changes)
        self.write(path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def rows(self, path: Path, count: int) -> None:
        table = pq.read_table(path)
        self._table(path, table.take(pa.array([0] * count, pa.int64())), table)

    def long(self, path: Path, count: int) -> None:
        """One row with as many equal tokens."""
        table = pq.read_table(path).slice(0, 1)
        for name in ("response_ids", "step_map", "confidence"):
            kind = table.schema.field(name).type
            flat = pa.nulls(count, kind.value_type).fill_null(1)
            cell = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), flat)
            table = table.set_column(table.schema.get_field_index(name), name, cell)
        self._table(path, table, table)

    def column(self, path: Path, changes: dict[str, Any]) -> None:
        old = table = pq.read_table(path)
        for name, value in changes.items():
            place = table.schema.get_field_index(name)
            if value == "REMOVED":
                table = table.remove_column(place)
                continue
            kind = table.schema.field(name).type
            values = [value] * len(table)
            try:
                cells = pa.array(values, kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                cells = pa.array(values)
            table = table.set_column(place, name, cells)
        self._table(path, table, old)

    def meta(self, path: Path, text: str | None) -> None:
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata(None if text is None else {"t3d": text}), path)

    def _table(self, path: Path, table: pa.Table, old: pa.Table) -> None:
        pq.write_table(table.replace_schema_metadata(old.schema.metadata), path)

    def tensors(self, path: Path, changes: dict[str, str]) -> None:
        weights = load_file(path)
        for name, how in changes.items():
            tensor = weights.pop(name)
            if how == "half":
                weights[name] = tensor[: len(tensor) // 2].clone()
            elif how == "nan":
                weights[name] = torch.full_like(tensor, float("nan"))
            elif how == "int":
                weights[name] = tensor.int()
        save_file(weights, path, {"format": "pt"})

    def params(self, changes: dict[str, Any]) -> None:
        path = Path("params", "demo.yaml")
        self.write(path, yaml.safe_dump(changed(yaml.safe_load(path.read_text()), changes)).encode())

    def params_text(self, text: str, times: int = 1, digits: int = 0) -> None:
        self.write(Path("params", "demo.yaml"), text.encode("utf-8") * times + b"9" * digits)

    def params_bomb(self, depth: int) -> None:
        lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
        self.params_text("\n".join([*lines, f"seed: *a{depth - 1}\n"]))

    def params_merges(self, depth: int) -> None:
        lines = ["a0: &a0 {x: 1}"]
        lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], x{n}: 1}}" for n in range(1, depth)]
        self.params_text("\n".join([*lines, f"seed: {{<<: *a{depth - 1}}}\n"]))

    def params_long(self, count: int) -> None:
        self.params({"students/sft/label": "LONG"})
        # YAML's writer would take a minute for megabytes.
        self.params_text(Path("params", "demo.yaml").read_text().replace("LONG", "x" * count))

    def archive(self, additions: list[dict[str, Any]]) -> None:
        """Add members to the archive, and to its index; only what git keeps stays here."""
        shutil.rmtree("data/demo")
        packed, index = (Path("results", "demo", f"published.{end}") for end in ("tar.xz", "sha256"))
        with tarfile.open(packed) as tar:
            content = [(member, tar.extractfile(member).read()) for member in tar]
        for addition in additions:
            if addition.get("again"):
                content.append(content[0])
            elif "records" in addition:
                content = [pair for pair in content if pair[0].name != "records.jsonl"]
                text = (addition["records"] * addition.get("times", 1) + "\n").encode()
                content.append(member_of({"name": "records.jsonl"}, text))
            else:
                content.append(member_of(addition, b"" if "type" in addition else b"open('../evil', 'w')\n"))
        with packed.open("wb") as packing:
            part = b""
            for member, data in content:
                part += member.tobuf(tarfile.GNU_FORMAT)
                if zeros := member.size - len(data):
                    # Packed once and repeated: gigabytes take no time.
                    packing.write(lzma.compress(part, preset=0))
                    packing.write(lzma.compress(bytes(1 << 26), preset=0) * -(-zeros >> 26))
                    part = b""
                part += data + tarfile.NUL * (-len(data) % tarfile.BLOCKSIZE)
            packing.write(lzma.compress(part + tarfile.NUL * 2 * tarfile.BLOCKSIZE, preset=0))
        lines = [f"{hashlib.sha256(data).hexdigest()}  {member.name}\n" for member, data in content]
        index.write_text("".join(lines))

    def repack(self, how: str) -> None:
        shutil.rmtree("data/demo")
        packed = Path("results", "demo", "published.tar.xz")
        content = lzma.decompress(packed.read_bytes())
        with tarfile.open(packed, f"w:{how}") as tar, tarfile.open(fileobj=io.BytesIO(content)) as old:
            for member in old:
                tar.addfile(member, old.extractfile(member))


def member_of(fields: dict[str, Any], data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(fields["name"])
    made.size, made.mode = fields.get("zeros", len(data)), int(fields.get("mode", "644"), 8)
    made.type, made.linkname = fields.get("type", "0").encode(), fields.get("link", "")
    return made, data


def changed(content: Any, changes: dict[str, Any]) -> Any:
    """Set what `a/b` names; `~1` stands for a slash in a key, SAME a/b for a copy of what that names."""

    def parent(path: str) -> tuple[Any, Any]:
        *outer, last = [spelled(key).replace("~1", "/") for key in path.split("/")]
        at = content
        for key in outer:
            at = at[int(key) if isinstance(at, list) else key]
        return at, int(last) if isinstance(at, list) else last

    for path, value in changes.items():
        at, key = parent(path)
        if value == "REMOVED":
            del at[key]
        elif isinstance(value, str) and value.startswith("SAME "):
            same, of = parent(value[5:])
            at[key] = same[of]
        else:
            at[key] = value
    return content


def damage(operations: dict[str, Any]) -> None:
    """Do what a case says in the working directory, then let manifests and pins fit again what was changed."""
    before = {path: path.read_bytes() for path in manifests()}
    once = {key: operations.pop(key) for key in ("times", "digits") if key in operations}
    for operation, value in operations.items():
        name, _, path = operation.partition(" ")
        if name == "params" or name in ("archive", "repack"):
            name, arguments = "_".join(filter(None, (name, path))), [value]
        else:
            arguments = [Path(spelled(path)), spelled(value) if name == "copy" else value]
        getattr(Damage(), name)(*arguments, **once)
    touched = {spelled(operation.split(" ")[1]) for operation in operations if " " in operation}
    seal(before, touched)
    pin()


def manifests() -> list[Path]:
    return [path for path in Path("data", "demo").rglob("*.manifest.json") if path.is_file()]


def seal(before: dict[Path, bytes], touched: set[str]) -> None:
    """Write into manifests what their files are now, and into the manifests made from them what those are now."""
    for path in manifests():
        if str(path) in touched:
            continue
        content = json.loads(path.read_text())
        for name, entry in content["files"].items():
            file = path.parent / name
            if file.is_file() and str(file) in touched:
                data = file.read_bytes()
                entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in before.items()}
    for _ in range(8):
        for path in manifests():
            now = hashlib.sha256(path.read_bytes()).hexdigest()
            if path in digests and now != digests[path]:
                for other in manifests():
                    text = other.read_text(errors="surrogateescape")
                    if digests[path] in text:
                        other.write_text(text.replace(digests[path], now), errors="surrogateescape")
                digests[path] = now


def pin() -> None:
    """Let the parameters pin the file of questions as it is."""
    path, questions = Path("params", "demo.yaml"), Path("questions", "test.jsonl")
    old = hashlib.sha256(QUESTIONS.encode()).hexdigest()
    if path.is_file() and questions.is_file() and path.stat().st_size < 1e6:
        new = hashlib.sha256(questions.read_bytes()).hexdigest()
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
