"""What is made of results files: tables, and the likelihood report. Nothing here imports torch.

::

    results.py    lines of results files, checked            findings.py   scores, gains, differences: report.json
    estimates.py  means over sets and bootstrap intervals    sections.py   findings as tables and charts
    charts.py     drawings, as SVG                           runs.py       training, samples and origin of a run
    quality.py    samples beside images: findings, section
    page.py       sections as HTML and Markdown              build.py      the files of a report
"""
