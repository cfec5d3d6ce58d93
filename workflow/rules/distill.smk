# Students: copies of the teacher, tuned on its trajectories (or on gold answers, for SFT).


def student_of(run):
    return E.students[E.runs[run][0]]


def training_data(wildcards):
    student = student_of(wildcards.run)
    if student.prompts:
        return [manifest(f"prompts/{student.prompts}")]
    shards = shard_names(E.trajectories[student.trajectories].shards)
    return [manifest(f"trajectories/{student.trajectories}/{shard}") for shard in shards]


rule student:
    input:
        teacher=lambda w: manifest(f"teachers/{E.teacher_of(student_of(w.run))}"),
        data=training_data,
    output:
        manifest("students/{run}"),
    log:
        f"{LOGS}/students/{{run}}.log",
    params:
        recipe=lambda w: recipe(f"students/{w.run}"),
        # Not an output: Snakemake deletes the outputs of a failed job, and these states are what it resumes from.
        work=f"work/{E.name}",
    threads: CORES
    resources:
        gpu=E.gpus,
    shell:
        "t3d distill --experiment {E.name} --run {wildcards.run} --teacher {input.teacher}"
        " --work {params.work} --out {output} {input.data} 2>&1 | tee {log}"
