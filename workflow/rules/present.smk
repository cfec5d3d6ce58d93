# For workflows that cannot make what is missing: their `material` and `can_be_made`, and how to get what is not here.

from t3d.provenance import publish, verify


def material(product):
    """Manifests of what a table or figure is made from; nothing here can make one that is missing."""
    artefacts = lineage.inputs_of_target(E, product, here=True)
    missing = verify.missing_of(E, product, here=True)
    if missing:
        command = publish.remedy(E, missing)
        damaged = [str(path) for path in missing.values() if path.is_file()]
        remedy = f"Fetch them ({command})." if command else "Only the Snakefile makes them."
        if damaged:
            # Nothing is fetched over a file that is here.
            remedy = f"Damaged, so delete: {', '.join(damaged[:3])}{', ...' if damaged[3:] else ''}. {remedy}"
        files = [str(path) for path in missing.values()]
        kind = "missing or damaged" if damaged else "missing"
        raise WorkflowError(
            f"{product.caption!r} cannot be made here: it shows {len(artefacts)} artefacts, and of {len(files)} a file is "
            f"{kind} ({', '.join(files[:3])}{', ...' if files[3:] else ''}). {remedy} Tables and figures that need none of "
            "them can be asked for by name."
        )
    check_unseen()
    return [manifest(artefact) for artefact in artefacts]


@cache
def can_be_made():
    """The default tables and figures that can be made from what is here; all of them if none can, which says why."""
    fits = {name: not verify.missing_of(E, product, here=True) for name, product in lineage.targets(E).items()}
    left = [name for name, whole in fits.items() if not whole]
    if len(left) == len(fits):
        return left
    if left and workflow.is_main_process:
        print(f"Left as they are, since not all they show is here: {', '.join(left)}", file=sys.stderr)
    return [name for name, whole in fits.items() if whole]
