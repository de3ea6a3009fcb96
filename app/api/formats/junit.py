"""A verdict as JUnit XML, as GitLab and Jenkins read it: red exactly when the gate blocks.

One case for the gate, one per check, one per candidate that could not be built. While the gate does not
block, what failed in a losing candidate is shown as skipped: a pipeline must not turn unstable by it.
"""

import re
from collections.abc import Sequence
from datetime import UTC
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from app.api.formats import words
from app.api.schemas.candidates import CandidateRead
from app.api.schemas.jobs import JobRead, VerdictRead
from app.domain.gate import Check

MEDIA_TYPE = "application/xml; charset=utf-8"
NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(job: JobRead, verdict: VerdictRead, candidates: Sequence[CandidateRead]) -> bytes:
    """The whole file."""
    suite = Element("testsuite", name="fewbits gate", hostname="fewbits", time=f"{_seconds(job):.3f}")
    suite.set("timestamp", (job.finished_at or job.created_at).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    _gate(suite, job, verdict, candidates)
    names = {c.id: c.name for c in candidates}
    for check in verdict.checks:
        _check(suite, check, names.get(check.candidate, check.candidate), blocking=verdict.blocking)
    for candidate in candidates:
        if candidate.error:
            _error(suite, candidate, blocking=verdict.blocking)
    root = Element("testsuites", name="fewbits", time=suite.get("time", "0"))
    root.append(suite)
    _count(root, suite)
    indent(root)
    text: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _gate(suite: Element, job: JobRead, verdict: VerdictRead, candidates: Sequence[CandidateRead]) -> None:
    case = _case(suite, "gate", f"the gate of {job.id}")
    text = words.sentence(verdict, candidates)
    if verdict.blocking:
        _outcome(case, "failure", verdict.conclusion, text)
    elif verdict.conclusion in {"fail", "inconclusive"}:
        _outcome(case, "skipped", verdict.conclusion, text)
    else:
        SubElement(case, "system-out").text = _clean(text)


def _check(suite: Element, check: Check, name: str, *, blocking: bool) -> None:
    case = _case(suite, name, words.limit(check))
    remark = f" ({words.remark(check)})" if words.remark(check) else ""
    text = f"measured {words.number(check.value)}, bound {words.number(check.bound)}{remark}"
    if check.conclusion == "pass":
        SubElement(case, "system-out").text = _clean(text)
    else:
        kind = "failure" if blocking and check.conclusion == "fail" else "skipped"
        _outcome(case, kind, check.conclusion, f"{check.conclusion}: {words.limit(check)}, {text}")


def _error(suite: Element, candidate: CandidateRead, *, blocking: bool) -> None:
    assert candidate.error is not None  # noqa: S101 - the caller chose it for that
    case = _case(suite, candidate.name, "build")
    _outcome(case, "error" if blocking else "skipped", candidate.error.code, candidate.error.detail)


def _case(suite: Element, owner: str, name: str) -> Element:
    return SubElement(suite, "testcase", classname=_clean(owner), name=_clean(name), time="0.000")


def _outcome(case: Element, kind: str, code: str, text: str) -> None:
    child = SubElement(case, kind, message=_clean(text))
    if kind != "skipped":
        child.set("type", _clean(code))
        child.text = _clean(text)


def _count(root: Element, suite: Element) -> None:
    counts = {"tests": "testcase", "failures": "testcase/failure", "errors": "testcase/error"}
    for name, path in counts.items():
        root.set(name, str(len(suite.findall(path))))
        suite.set(name, root.get(name, "0"))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))


def _seconds(job: JobRead) -> float:
    return (job.finished_at - job.created_at).total_seconds() if job.finished_at else 0.0


def _clean(text: str) -> str:
    """What XML 1.0 can hold."""
    return NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
