"""Figures from combined.json: matplotlib is imported by these modules alone (not here), and by nobody else."""

# rule, and module of this package → name of its files
FIGURES = {
    "figure6": "figure6_memory_virtualization",
    "figure7": "figure7_resume_latency",
    "figureS1": "figureS1_resume_intervals",
    "figureS2": "figureS2_steering",
    "figureS3": "figureS3_interference",
}
