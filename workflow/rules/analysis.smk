# Needs: every raw result of this campaign, config/claims.yaml.
# Makes: combined.json, the figures (pdf, png, csv), claims.json and claims.md, peers.md, and the campaign's runs in results/mlflow.db.
# Steps: combine -> figures 6, 7, S1, S2, S3 -> claims -> peers -> MLflow. Nothing is measured here.


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
    params:
        code=sources.code("evaluation.combine"),
    shell:
        "exec python workflow/scripts/combine.py --campaign {input.campaign:q} --log {log:q} --out {output:q}"


rule figure6:
    input:
        combined=f"{RESULTS}/combined.json",
    output:
        pdf=f"{RESULTS}/figures/{FIGURES['figure6']}.pdf",
        png=report(
            f"{RESULTS}/figures/{FIGURES['figure6']}.png",
            caption="../report/figure6.rst",
            category="2. Figures",
            labels={"figure": "6, memory virtualization"},
        ),
        csv=f"{RESULTS}/figures/{FIGURES['figure6']}.csv",
    log:
        f"{RESULTS}/logs/figure6.log",
    priority: 25
    conda:
        "../../envs/analysis.yaml"
    params:
        figure="figure6",
        code=sources.code("evaluation.figures.figure6"),
    shell:
        "exec python workflow/scripts/figure.py {params.figure} --combined {input.combined:q} --log {log:q}"
        " --out {output.pdf:q} {output.png:q} {output.csv:q}"


use rule figure6 as figure7 with:
    output:
        pdf=f"{RESULTS}/figures/{FIGURES['figure7']}.pdf",
        png=report(
            f"{RESULTS}/figures/{FIGURES['figure7']}.png",
            caption="../report/figure7.rst",
            category="2. Figures",
            labels={"figure": "7, resume latency"},
        ),
        csv=f"{RESULTS}/figures/{FIGURES['figure7']}.csv",
    log:
        f"{RESULTS}/logs/figure7.log",
    priority: 24
    params:
        figure="figure7",
        code=sources.code("evaluation.figures.figure7"),


use rule figure6 as figureS1 with:
    output:
        pdf=f"{RESULTS}/figures/{FIGURES['figureS1']}.pdf",
        png=report(
            f"{RESULTS}/figures/{FIGURES['figureS1']}.png",
            caption="../report/figureS1.rst",
            category="2. Figures",
            labels={"figure": "S1, all intervals of a resume"},
        ),
        csv=f"{RESULTS}/figures/{FIGURES['figureS1']}.csv",
    log:
        f"{RESULTS}/logs/figureS1.log",
    priority: 23
    params:
        figure="figureS1",
        code=sources.code("evaluation.figures.figureS1"),


use rule figure6 as figureS2 with:
    output:
        pdf=f"{RESULTS}/figures/{FIGURES['figureS2']}.pdf",
        png=report(
            f"{RESULTS}/figures/{FIGURES['figureS2']}.png",
            caption="../report/figureS2.rst",
            category="2. Figures",
            labels={"figure": "S2, steering"},
        ),
        csv=f"{RESULTS}/figures/{FIGURES['figureS2']}.csv",
    log:
        f"{RESULTS}/logs/figureS2.log",
    priority: 22
    params:
        figure="figureS2",
        code=sources.code("evaluation.figures.figureS2"),


use rule figure6 as figureS3 with:
    output:
        pdf=f"{RESULTS}/figures/{FIGURES['figureS3']}.pdf",
        png=report(
            f"{RESULTS}/figures/{FIGURES['figureS3']}.png",
            caption="../report/figureS3.rst",
            category="2. Figures",
            labels={"figure": "S3, interference of checkpoints"},
        ),
        csv=f"{RESULTS}/figures/{FIGURES['figureS3']}.csv",
    log:
        f"{RESULTS}/logs/figureS3.log",
    priority: 21
    params:
        figure="figureS3",
        code=sources.code("evaluation.figures.figureS3"),


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
    params:
        code=sources.code("evaluation.claims"),
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
    params:
        code=sources.code("evaluation.peers_table"),
    shell:
        "exec python workflow/scripts/peers.py --combined {input.combined:q} --log {log:q} --out {output:q}"


rule mlflow:
    input:
        campaign=f"{RESULTS}/campaign.json",
        weights=f"{RESULTS}/weights.json",
        raw=RAW,
        combined=f"{RESULTS}/combined.json",
        figures=[
            multiext(f"{RESULTS}/figures/{name}", ".pdf", ".png", ".csv")
            for name in FIGURES.values()
        ],
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
        database=DATABASE,
        code=sources.code("evaluation.tracking"),
        # All scales share it, so it is no output; one that was lost is a reason to log again (and once more, when it is there).
        lost=Path(f"{RESULTS}/mlflow.json").exists() and not Path(DATABASE).exists(),
    shell:
        "exec python workflow/scripts/track.py --campaign {input.campaign:q} --database {params.database:q}"
        " --log {log:q} --out {output:q}"
