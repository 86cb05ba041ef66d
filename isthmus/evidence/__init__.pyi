from .gather import evidence as evidence
from .judge import Judge as Judge
from .origin import provenance as provenance
from .page import to_html as to_html
from .page import write_report as write_report
from .record import read_report as read_report
