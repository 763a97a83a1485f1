# Needs: campaign.json, weights.json; provision is measured before, by its priority.
# Makes: raw/eager.json, raw/recompute.json, raw/manual_{activation,full,pageable}.json.
# Steps: eager sessions to the real out-of-memory -> recompute -> manual offload, three ways. One at a time.


rule eager:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/eager.json",
    log:
        f"{RESULTS}/logs/eager.log",
    priority: 90
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="eager",
        texts=TEXTS,
        settings=part(
            "eager",
            "budget.device",
            "budget.overhead",
            "oversubscription.prompt_tokens",
        ),
    shell:
        MEASURE


rule recompute:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/recompute.json",
    log:
        f"{RESULTS}/logs/recompute.log",
    priority: 80
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="recompute",
        texts=TEXTS,
        settings=part("resume"),
    shell:
        MEASURE


rule manual_offload:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/manual_{{mode}}.json",
    log:
        f"{RESULTS}/logs/manual_{{mode}}.log",
    priority: 70
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="manual_{mode}",
        texts=TEXTS,
        settings=part("resume"),
    shell:
        MEASURE
