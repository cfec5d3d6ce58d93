# For workflows that cannot make what is missing: `material` of common.smk, and how to get what is not here.

from t3d.versions.publish import WHAT


def material(product):
    """Manifests of what a table or figure is made from; nothing here can make one that is missing."""
    artefacts = lineage.material_of(E, product, here=True)
    missing = [manifest(artefact) for artefact in artefacts if not Path(manifest(artefact)).is_file()]
    if missing:
        kinds = {artefact.partition("/")[0] for artefact in artefacts}
        what = [what for what, there in WHAT.items() if kinds <= set(there)]
        remedy = f"Fetch them: t3d pull {what[0]} --experiment {E.name}" if what else "Only the Snakefile makes them."
        raise WorkflowError(
            f"{len(missing)} of the {len(artefacts)} files it is made from are not here: {', '.join(missing[:3])}"
            f"{', ...' if missing[3:] else ''}. {remedy}"
        )
    return [manifest(artefact) for artefact in artefacts]
