"""Tells people what needs them, by mail, webhook or chat: that it began, that it goes on, that it is over.

Begin with `notifier`. What is looked at stands in `conditions`, what is told and when in `ledger`, how in `outbox` and
`sending`. No value of a patient or a study is told, only names of the configuration and numbers.
"""

from router.notify.notifier import Notifier
from router.notify.sending import Tried, masked, try_addresses, why_not

__all__ = ["Notifier", "Tried", "masked", "try_addresses", "why_not"]
