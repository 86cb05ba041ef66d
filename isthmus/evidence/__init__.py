"""What came of it: the judge, the comparison, the record, figures and the page.

The first room that knows both attacks and defenses. Nothing here changes a network. `evidence`
measures a repair and returns a `Report`; `write_report` makes report.json and report.html of it. A
new part of a report is a type in `record.py`, from which the schema is generated
(`python -m isthmus.evidence.schema`), and a section of `templates/report.html`. What a metric is
called by a person stands in `labels.py`; how its values are written follows from their unit.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
