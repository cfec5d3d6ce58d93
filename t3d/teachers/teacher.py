"""Where an untouched model comes from: shipped weights, pretraining on the spot, a folder or a GGUF file of the hub, or
the conversion of an autoregressive one."""

import json
import shutil
from pathlib import Path

from t3d.errors import ParameterError
from t3d.params import Experiment
from t3d.provenance import store, writer

# What loads PyTorch and transformers is imported where it is needed: a shipped teacher is copied, and that is done four
# seconds sooner without them.


def make(experiment: Experiment, name: str, out: Path, *sources: Path) -> None:
    """Make teacher `name` of an experiment at `out` (a manifest's path).

    Args:
        experiment: whose teachers have `name`.
        name: its key.
        out: manifest to write; the folder lies beside it, and until it is complete the states of its pretraining.
        sources: manifests of what it is made from: the fetched folder of a teacher of the hub; or the
            autoregressive model that is converted, and its answers.

    Raises:
        ParameterError: the experiment has no such teacher, or the fetched folder holds another kind of model.
        DataError: `sources` are not what it is made from.
        MissingInputError, CorruptArtefactError: shipped or fetched weights are not complete.
    """
    if name not in experiment.teachers:
        raise ParameterError(f"experiment {experiment.name} has no teacher {name!r}: {', '.join(experiment.teachers)}")
    spec = experiment.teachers[name]
    artefact = f"teachers/{name}"
    inputs = store.read_inputs(experiment, artefact, sources)
    if spec.source == "convert":
        from t3d.teachers import convert

        convert.make(experiment, name, out, inputs)
        return
    device = "cpu"
    if spec.source == "pretrain":
        from t3d.distributed.checkpoints import Checkpoints
        from t3d.distributed.gpus import pick_device
        from t3d.teachers import pretrain

        device = pick_device(experiment)
    checkpoints = None
    if spec.hub is not None:
        if (packed := _gguf_of(inputs[0])) is not None:
            if not spec.autoregressive:
                raise ParameterError(f"teachers.{name}: {packed} is an autoregressive model; set `attention: causal`.")
        else:
            check_folder(inputs[0].folder(), spec.autoregressive, spec.mask_token)
    with writer.writing(experiment, artefact, out, inputs=inputs, device=device) as job:
        if spec.hub is not None and packed is not None:
            from t3d.models import gguf_file

            job.receipt["gguf"] = gguf_file.dequantise(packed, job.folder())
            job.facts["gguf"] = {"file": packed.name, "sha256": store.sha256(packed)}
            check_folder(job.folder(), is_autoregressive=True)
        elif spec.hub is not None:
            from t3d.prompts.sources import link_or_copy

            for file in inputs[0].files:
                target = job.folder() / Path(file).relative_to(inputs[0].base.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(inputs[0].path.parent / file, target)
            if spec.mask_token is not None:
                settings = job.folder() / "tokenizer_config.json"
                named = (json.loads(settings.read_text()) if settings.exists() else {}) | {
                    "mask_token": spec.mask_token
                }
                # It may be the source's own file, which stays as it is.
                settings.unlink(missing_ok=True)
                settings.write_text(json.dumps(named | {"mask_token": spec.mask_token}, indent=2) + "\n")
        elif spec.pretraining is not None:
            identity = writer.run_key(experiment, artefact, inputs)
            # Of one process at a time: the states that another has begun to write would be removed.
            checkpoints = Checkpoints(Path(str(out).removesuffix(store.MANIFEST) + ".states"), identity)
            job.receipt["training"] = pretrain.pretrain(
                spec.pretraining,
                experiment.seed,
                device,
                job.folder(),
                autoregressive=spec.autoregressive,
                checkpoints=checkpoints,
            )
        else:
            assert spec.path is not None
            shipped = store.read(spec.path + store.MANIFEST, kind="teachers")
            shutil.copytree(shipped.folder(), job.folder(), dirs_exist_ok=True)
            job.receipt["shipped"] = {"manifest": str(shipped.path), "sha256": shipped.digest()}
    if checkpoints is not None:
        checkpoints.remove()


def _gguf_of(source: store.Manifest) -> Path | None:
    """The GGUF file of a source; None if it holds none.

    Raises:
        ParameterError: it holds several.
    """
    names = [name for name in source.files if name.endswith(".gguf")]
    if len(names) > 1:
        raise ParameterError(f"{source.path} lists {', '.join(names)}: name the one file to use in `files`.")
    return source.folder().parent / names[0] if names else None


def check_folder(folder: Path, is_autoregressive: bool = False, mask_token: str | None = None) -> None:
    """Check that a folder holds a whole SDAR: settings, tokenizer, and weights of the right names and shapes.

    The weights' headers are read, not the weights: seconds instead of minutes, and before any GPU waits for them.

    Args:
        folder: as published.
        is_autoregressive: it is to hold a whole Qwen2 or Qwen3 instead.
        mask_token: the mask token, if the folder does not name it.

    Raises:
        MissingInputError: a file is missing.
        ParameterError: it is another kind of model, or its tokenizer lacks the mask token or the chat template.
        CorruptArtefactError: a weight is missing, unexpected or of another shape; the message names it.
    """
    from t3d.models import autoregressive
    from t3d.models.folder import load_tokenizer, stop_ids
    from t3d.models.sdar import SDARForCausalLM, check_weights

    if is_autoregressive:
        autoregressive.load_tokenizer(folder)
    else:
        load_tokenizer(folder, mask_token)
    stop_ids(folder)
    check_weights(autoregressive.class_of(folder) if is_autoregressive else SDARForCausalLM, folder)
