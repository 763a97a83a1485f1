# Needs: campaign.json, weights.json; provision is measured before, by its priority.
# Makes: raw/djinn_resume.json, raw/oversubscription.json, raw/steering.json.
# Steps: each rule starts its own server (or uses the config's `server`), measures, and ends it. One at a time.


rule djinn_resume:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/djinn_resume.json",
    log:
        f"{RESULTS}/logs/djinn_resume.log",
    priority: 60
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="djinn_resume",
        texts=TEXTS,
        settings=part("resume", "budget.host"),
    shell:
        MEASURE


rule oversubscription:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/oversubscription.json",
    log:
        f"{RESULTS}/logs/oversubscription.log",
    priority: 58
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="oversubscription",
        texts=TEXTS,
        settings=part("oversubscription", "budget"),
    shell:
        MEASURE


rule steering:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/steering.json",
    log:
        f"{RESULTS}/logs/steering.log",
    priority: 40
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="steering",
        texts=TEXTS,
        settings=part(
            "activation_steering",
            "resume.prompt_tokens",
            "resume.samples",
            "budget.host",
        ),
    shell:
        MEASURE
