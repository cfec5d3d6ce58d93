"""How long did an experiment's jobs hold GPUs? From the receipts of what is here.

    python -m benchmarks.gpu_time pocket --gpus 4

Pocket models leave a GPU mostly idle, so their jobs share one: a moment counts once for every GPU that had a job, not
once for every job.
"""

import argparse
from collections.abc import Iterable
from datetime import datetime
from operator import itemgetter
from typing import Any

import pandas as pd

from t3d.errors import in_a_sentence
from t3d.params import Experiment, find
from t3d.provenance import publish, store
from t3d.provenance.lineage import artefacts_of, targets


def minutes(made: Iterable[dict[str, Any]], gpus: int) -> pd.Series:
    """GPU-minutes of each artefact that a GPU made.

    At every moment as many GPUs count as the running jobs have processes, `gpus` at most; they are divided among these
    jobs. GPUs of different names are different machines.

    Args:
        made: the artefacts' receipts; jobs that are not among them take no share.
        gpus: how many a machine has. If jobs shared one GPU while another was idle, the sum comes out too high.

    Returns:
        Index: the artefacts, without those that were made on a CPU.
    """
    moments: dict[str, list[tuple[float, str, int]]] = {}
    for receipt in made:
        if receipt["device"] != "cpu":
            end = datetime.fromisoformat(receipt["finished"]).timestamp()
            begin, artefact = end - receipt["seconds"], receipt["artefact"]
            moments.setdefault(receipt["device"], []).extend(
                [(begin, artefact, _processes(receipt)), (end, artefact, 0)]
            )
    shares: dict[str, float] = {}
    for of_device in moments.values():
        running: dict[str, int] = {}
        before = 0.0
        for moment, artefact, processes in sorted(of_device, key=itemgetter(0)):
            total = sum(running.values())
            for name, held in running.items():
                shares[name] += (moment - before) / 60 * min(gpus, total) * held / total
            before = moment
            if processes:
                running[artefact] = processes
                shares[artefact] = 0.0
            else:
                del running[artefact]
    return pd.Series(shares, dtype=float)


def _processes(receipt: dict[str, Any]) -> int:
    """GPUs of a job: the processes of training or rollouts, or of answers their device, `4 x NVIDIA H100`."""
    if "decoding" in receipt:
        count, by, _ = receipt["decoding"]["device"].partition(" x ")
        return int(count) if by else 1
    return receipt.get("processes") or receipt.get("speed", {}).get("processes") or 1


def by_stage(experiment: Experiment, gpus: int) -> tuple[pd.DataFrame, pd.Series]:
    """GPU-minutes of all that is behind the tables and figures of which everything is here.

    Returns:
        By kind of artefact: columns jobs and minutes. By product, in the order of `params/`: `default`, then each
        table or figure that is made on request, with what none before it needed.

    Raises:
        MissingInputError: something behind a default table or figure is not here.
        CorruptArtefactError: its manifest or receipt is damaged.
    """
    groups = {"default": list(targets(experiment).values())}
    groups |= {name: [product] for name, product in targets(experiment, on_request=True).items()}
    made: dict[str, dict[str, Any]] = {}
    behind: dict[str, list[str]] = {}
    for name, products in groups.items():
        more = [artefact for artefact in artefacts_of(experiment, products) if artefact not in made]
        of_more = {artefact: store.find_receipt(experiment, artefact) for artefact in more}
        here = {artefact: receipt for artefact, receipt in of_more.items() if receipt is not None}
        if missing := [artefact for artefact in more if artefact not in here]:
            if name == "default":
                publish.check_manifests(experiment, missing)
                # It is here, and cannot be read: this says why.
                store.read_receipt(store.read(store.manifest_path(experiment, missing[0])))
        elif more:
            behind[name] = more
            made |= here
    of_each = minutes(made.values(), gpus)
    kinds = of_each.groupby(of_each.index.str.partition("/").get_level_values(0), sort=False)
    stages = pd.DataFrame({"jobs": kinds.size(), "minutes": kinds.sum()})
    return stages, pd.Series({name: of_each[of_each.index.isin(artefacts)].sum() for name, artefacts in behind.items()})


def main() -> None:
    """Print `by_stage` of the experiment that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="name of a file of params/")
    parser.add_argument("--gpus", type=int, required=True, help="how many the machine had")
    given = parser.parse_args()
    if given.gpus < 1:
        parser.error(f"--gpus {given.gpus}: at least 1")
    with in_a_sentence():
        stages, products = by_stage(find(given.experiment), given.gpus)
        print(stages.round(1).to_string(), products.round(1).to_string(), sep="\n\n")


if __name__ == "__main__":
    main()
