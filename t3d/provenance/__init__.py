"""What was made, from what, and whether it still fits. The words, each with one meaning:

- An *artefact* is what one job makes: a file or a folder below `data/<experiment>/`. Its name is its path there without
  a suffix: `sources/math500`, `teachers/pocket-sdar`, `prompts/gsm-train`, `generations/gsm-ar/0-of-1`,
  `verdicts/gsm-ar/0-of-1`, `trajectories/gsm/0-of-2`, `students/t3d-seed0`, `answers/t3d-seed0/gsm/b8s2`,
  `scores/...` alike, `factorisation/t3d-seed0/gsm`. The first part is its kind.
- The *manifest* beside it lists its files with their sha256, its inputs and its recipes. Equal runs write equal
  manifests, so a manifest stands for its artefact: on command lines, in rules, in other manifests (`store.py`).
- The *receipt* beside it has what differs between equal runs: time, device, versions, speed (`environment.py`).
- The *recipe* of an artefact is the parameters that decide its content; the digest of it is in the manifest
  (`recipes.py`).
- The *lineage* says what each artefact, table and figure is made from (`lineage.py`); jobs are held to it (`store.py`,
  `writer.py`).
- A *fault* is why an artefact does not fit: it is missing, damaged, or made with other parameters or from other inputs
  (`verify.py`). A *stray* is an artefact that the experiment no longer makes.
- A *record* is what Snakemake noted of a job; without it Snakemake does not see that a parameter changed (`records.py`,
  `unseen.py`).
- An *origin* is one step on the way from a cell of a table back to the teacher (`trace.py`).
- The *archive* of an experiment has what is published in git; the rest goes through DVC (`archive.py`, `remote.py`,
  `publish.py`).
"""
