# Needs: every raw result of this campaign, config/claims.yaml.
# Makes: combined.json, the two figures (pdf, png, csv), claims.json and claims.md, peers.md, and the campaign's runs in results/mlflow.db.
# Steps: combine -> figure 6 -> figure 7 -> claims -> peers -> MLflow. Nothing is measured here.


rule combine:
    input:
        campaign=f"{RESULTS}/campaign.json",
        raw=RAW,
    output:
        f"{RESULTS}/combined.json",
    log:
        f"{RESULTS}/logs/combine.log",
    priority: 30
    conda:
        "../../envs/analysis.yaml"
    shell:
        "exec python workflow/scripts/combine.py --campaign {input.campaign:q} --log {log:q} --out {output:q}"


rule figure6:
    input:
        combined=f"{RESULTS}/combined.json",
    output:
        pdf=f"{FIGURE6}.pdf",
        png=report(
            f"{FIGURE6}.png",
            caption="../report/figure6.rst",
            category="2. Figures",
            labels={"figure": "6, memory virtualization"},
        ),
        csv=f"{FIGURE6}.csv",
    log:
        f"{RESULTS}/logs/figure6.log",
    priority: 25
    conda:
        "../../envs/analysis.yaml"
    shell:
        "exec python workflow/scripts/figure6.py --combined {input.combined:q} --log {log:q}"
        " --out {output.pdf:q} {output.png:q} {output.csv:q}"


rule figure7:
    input:
        combined=f"{RESULTS}/combined.json",
    output:
        pdf=f"{FIGURE7}.pdf",
        png=report(
            f"{FIGURE7}.png",
            caption="../report/figure7.rst",
            category="2. Figures",
            labels={"figure": "7, resume latency"},
        ),
        csv=f"{FIGURE7}.csv",
    log:
        f"{RESULTS}/logs/figure7.log",
    priority: 20
    conda:
        "../../envs/analysis.yaml"
    shell:
        "exec python workflow/scripts/figure7.py --combined {input.combined:q} --log {log:q}"
        " --out {output.pdf:q} {output.png:q} {output.csv:q}"


rule claims:
    input:
        combined=f"{RESULTS}/combined.json",
        claims="config/claims.yaml",
    output:
        json=f"{RESULTS}/claims.json",
        md=f"{RESULTS}/claims.md",
    log:
        f"{RESULTS}/logs/claims.log",
    priority: 15
    conda:
        "../../envs/analysis.yaml"
    shell:
        "exec python workflow/scripts/claims.py --combined {input.combined:q} --claims {input.claims:q}"
        " --log {log:q} --out {output.json:q} {output.md:q}"


rule peers:
    input:
        combined=f"{RESULTS}/combined.json",
    output:
        f"{RESULTS}/peers.md",
    log:
        f"{RESULTS}/logs/peers.log",
    priority: 14
    conda:
        "../../envs/analysis.yaml"
    shell:
        "exec python workflow/scripts/peers.py --combined {input.combined:q} --log {log:q} --out {output:q}"


rule mlflow:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
        raw=RAW,
        combined=f"{RESULTS}/combined.json",
        figures=[*rules.figure6.output, *rules.figure7.output],
        claims=rules.claims.output,
        peers=rules.peers.output,
    output:
        f"{RESULTS}/mlflow.json",
    log:
        f"{RESULTS}/logs/mlflow.log",
    priority: 10
    conda:
        "../../envs/analysis.yaml"
    params:
        database="results/mlflow.db",
    shell:
        "exec python workflow/scripts/track.py --campaign {input.campaign:q} --database {params.database:q}"
        " --log {log:q} --out {output:q}"
