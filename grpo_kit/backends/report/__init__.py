"""`kit.report`: a run as a page to send and a model card, written from its files alone.

`facts` gathers what both tell, `settings` its settings and the commands that make it again; `page.html` with its style
and script, and `card.md`, are how they look.
"""

from grpo_kit.backends.report.write import report as report
