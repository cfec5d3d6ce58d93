# The teacher's own full-step decoding, or that of one of its students, shard by shard.


rule trajectories:
    """Record the full-step decoding of a teacher or a student: one shard."""
    input:
        unpack(inputs("trajectories/{name}/{shard}")),
    output:
        manifest("trajectories/{name}/{shard}"),
    log:
        f"{LOGS}/trajectories/{{name}}/{{shard}}.log",
    conda:
        "../../environment.yml"
    threads: max(CORES, E.decoding_processes)
    resources:
        # Not a parameter: more processes change the speed of decoding, and plan nothing again.
        gpu=E.decoding_processes if E.gpus else 0,
        runtime=lambda w, attempt: JOB_RESOURCES["trajectories"].minutes * attempt,
        mem_mb=lambda w, attempt: JOB_RESOURCES["trajectories"].memory_mb * attempt,
    params:
        experiment=E.name,
        recipe=recipe("trajectories/{name}/{shard}"),
    shell:
        "t3d rollout --experiment {params.experiment} --name {wildcards.name} --shard {wildcards.shard}"
        " --teacher {input.teacher} --prompts {input.prompts} --student {input.student} --out {output} 2>&1 | tee {log}"
