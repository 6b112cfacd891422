"""Rules make a decision from prediction and header. Pure: nothing here does I/O or knows YAML, spool or network."""

from router.decide.agreement import agreement
from router.decide.decision import decide
from router.decide.kept import kept_from
from router.decide.table import Otherwise, Rule, RuleTable, header_tags

__all__ = ["Otherwise", "Rule", "RuleTable", "agreement", "decide", "header_tags", "kept_from"]
