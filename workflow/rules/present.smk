# For workflows that cannot make what is missing: `material` of common.smk, and how to get what is not here.

from t3d.versions import faults
from t3d.versions.publish import WHAT


def material(product):
    """Manifests of what a table or figure is made from; nothing here can make one that is missing."""
    check_unseen()
    artefacts = lineage.material_of(E, product, here=True)
    missing = faults.missing_of(E, product, here=True)
    if missing:
        kinds = {artefact.partition("/")[0] for artefact in artefacts}
        what = [what for what, there in WHAT.items() if kinds <= set(there)]
        remedy = f"Fetch them: t3d pull {what[0]} --experiment {E.name}" if what else "Only the Snakefile makes them."
        files = [str(path) for path in missing.values()]
        raise WorkflowError(
            f"{product.caption!r} cannot be made here: it shows {len(artefacts)} artefacts, and of {len(files)} a file is "
            f"missing ({', '.join(files[:3])}{', ...' if files[3:] else ''}). {remedy} Tables and figures that need none of "
            "them can be asked for by name."
        )
    return [manifest(artefact) for artefact in artefacts]
