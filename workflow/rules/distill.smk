# Students: copies of the teacher, or of another student, tuned on its trajectories (or on gold answers, for SFT).


rule student:
    """Train one run of a student."""
    input:
        unpack(inputs("students/{run}")),
    output:
        manifest("students/{run}"),
    log:
        f"{LOGS}/students/{{run}}.log",
    conda:
        "../../environment.yml"
    threads: max(CORES, E.training_processes)
    resources:
        gpu=E.training_processes if E.gpus else 0,
        # Not a parameter: more processes change the speed of a student, and plan none again.
        processes=E.training_processes,
        runtime=lambda w, attempt: JOB_RESOURCES["students"].minutes * attempt,
        mem_mb=lambda w, attempt: JOB_RESOURCES["students"].memory_mb * attempt,
    params:
        experiment=E.name,
        recipe=recipe("students/{run}"),
        # Not an output: Snakemake deletes the outputs of a failed job, and these states are what it resumes from.
        work=f"work/{E.name}",
    shell:
        "t3d distill --experiment {params.experiment} --run {wildcards.run} --teacher {input.teacher}"
        " --student {input.student} --data {input.data} --work {params.work} --processes {resources.processes}"
        " --out {output} 2>&1"
        # A scheduler ends every process of a job: the training saves its state then, and must be heard to the end.
        " | (trap '' TERM; tee {log})"
