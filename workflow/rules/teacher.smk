# The untouched model, and the questions in its own tokens.


rule fetch:
    """Fetch pinned files of the hub, and check them.

    It runs where Snakemake runs: the nodes of many clusters see no network.
    """
    output:
        manifest("sources/{name}"),
    log:
        f"{LOGS}/sources/{{name}}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
        recipe=recipe("sources/{name}"),
        # Not an output: an interrupted download goes on from here.
        work=f"work/{E.name}/sources",
    shell:
        "t3d fetch --experiment {params.experiment} --name {wildcards.name} --work {params.work} --out {output}"
        " 2>&1 | tee {log}"


rule teacher:
    """Take a teacher from the repository or the hub, pretrain it, or convert it from an autoregressive model."""
    input:
        unpack(inputs("teachers/{name}")),
    output:
        manifest("teachers/{name}"),
    log:
        f"{LOGS}/teachers/{{name}}.log",
    conda:
        "../../environment.yml"
    threads: lambda w: CORES if E.teachers[w.name].is_trained else 1
    resources:
        # Pretraining takes one GPU, a conversion one per process.
        gpu=lambda w: (
            {"pretrain": E.gpus, "convert": E.training_processes if E.gpus else 0}.get(E.teachers[w.name].source, 0)
        ),
        runtime=lambda w, attempt: JOB_RESOURCES["teachers"].minutes * attempt,
        mem_mb=lambda w, attempt: JOB_RESOURCES["teachers"].memory_mb * attempt,
    params:
        experiment=E.name,
        recipe=recipe("teachers/{name}"),
    shell:
        "t3d teacher --experiment {params.experiment} --name {wildcards.name} --out {output}"
        " --source {input.source} --teacher {input.teacher} --shards {input.shards} 2>&1 | tee {log}"


rule generations:
    """Draw an autoregressive teacher's own answers, which its conversion learns from: one shard."""
    input:
        unpack(inputs("generations/{name}/{shard}")),
    output:
        manifest("generations/{name}/{shard}"),
    log:
        f"{LOGS}/generations/{{name}}/{{shard}}.log",
    conda:
        "../../environment.yml"
    threads: max(CORES, E.decoding_processes)
    resources:
        # Not a parameter: more processes change the speed of decoding, and plan nothing again.
        gpu=E.decoding_processes if E.gpus else 0,
        runtime=lambda w, attempt: JOB_RESOURCES["generations"].minutes * attempt,
        mem_mb=lambda w, attempt: JOB_RESOURCES["generations"].memory_mb * attempt,
    params:
        experiment=E.name,
        recipe=recipe("generations/{name}/{shard}"),
    shell:
        "t3d generate --experiment {params.experiment} --name {wildcards.name} --shard {wildcards.shard}"
        " --teacher {input.teacher} --prompts {input.prompts} --out {output} 2>&1 | tee {log}"


rule verdicts:
    """Judge one shard of these answers, for a conversion that learns from right ones only; no model, no GPU."""
    input:
        unpack(inputs("verdicts/{name}/{shard}")),
    output:
        manifest("verdicts/{name}/{shard}"),
    log:
        f"{LOGS}/verdicts/{{name}}/{{shard}}.log",
    conda:
        "../../environment.yml"
    # Programs run on every core that there is.
    threads: CORES
    resources:
        runtime=lambda w, attempt: 60 * attempt,
        mem_mb=lambda w, attempt: 8000 * attempt,
    params:
        experiment=E.name,
        recipe=recipe("verdicts/{name}/{shard}"),
    shell:
        "t3d judge --experiment {params.experiment} --name {wildcards.name} --shard {wildcards.shard}"
        " --teacher {input.teacher} --prompts {input.prompts} --answers {input.answers} --out {output} 2>&1 | tee {log}"


rule prompts:
    """Draw the questions of a prompt set, in the tokens of a teacher."""
    input:
        unpack(inputs("prompts/{name}")),
    output:
        manifest("prompts/{name}"),
    log:
        f"{LOGS}/prompts/{{name}}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiment=E.name,
        recipe=recipe("prompts/{name}"),
    shell:
        "t3d prompts --experiment {params.experiment} --name {wildcards.name} --out {output}"
        " --teacher {input.teacher} --shards {input.shards} --source {input.source} --prompts {input.prompts} 2>&1 | tee {log}"
