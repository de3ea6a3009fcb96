"""When to ask again, and after how long: decided from what came back, without asking."""

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from fewbits.effects import Answer, Broken

FIRST_S = 0.5
LONGEST_S = 20.0
LONGEST_ASKED_S = 120.0
MISTAKE = 500
PASSING_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
PASSING_CODES = frozenset({"in_progress", "upload_locked", "not_inspected", "storage_full"})


def passes(outcome: Answer | Broken, code: str = "") -> bool:
    """Whether this kind of failure may go away by itself; `code` is the problem's.

    A service says what its own mistake is. A 500 that says nothing comes of one that is being stopped.
    """
    if isinstance(outcome, Broken):
        return True
    unexplained = outcome.status == MISTAKE and not code
    return outcome.status in PASSING_STATUSES or code in PASSING_CODES or unexplained


def delay(outcome: Answer | Broken, attempt: int, jitter: float) -> float | None:
    """Seconds until the next attempt; None when the service asks for more patience than anybody has.

    `attempt` counts from 0, `jitter` is drawn from [0, 1). The delay doubles and is spread over its upper
    half, so that many clients do not come back at once (AWS Architecture Blog, "Exponential Backoff And
    Jitter", 2015). What `Retry-After` asks for is the least.
    """
    own: float = min(FIRST_S * 2**attempt, LONGEST_S) * (1 + jitter) / 2
    asked = retry_after(outcome) if isinstance(outcome, Answer) else None
    if asked is None:
        return own
    return asked + own / 4 if asked <= LONGEST_ASKED_S else None


def retry_after(answer: Answer) -> float | None:
    """Seconds that the header asks to wait (RFC 9110 §10.2.3: a number, or a date)."""
    text = answer.headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)
