"""Figures from combined.json: matplotlib is imported by these modules alone (not here), and by nobody else."""

from evaluation.combine import RESUME_RULES

# rule, and module of this package → name of its files
FIGURES = {
    "figure6": "figure6_memory_virtualization",
    "figure7": "figure7_resume_latency",
    "figureS1": "figureS1_resume_intervals",
    "figureS2": "figureS2_steering",
    "figureS3": "figureS3_interference",
}
# measuring rule → the figure that shows what it measured
FIGURE_OF = dict.fromkeys(RESUME_RULES, "figure7") | {
    "oversubscription": "figure6",
    "eager": "figure6",
    "steering": "figureS2",
    "checkpoint_cost": "figureS3",
}
