"""A job's result as one page that needs nothing else: no script, no other file, no other host."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from app.api.formats import plot, words
from app.api.schemas.candidates import CandidateRead
from app.api.schemas.jobs import JobRead, VerdictRead

TEMPLATES = Path(__file__).parents[1] / "templates"
STYLE = (TEMPLATES / "page.css").read_text(encoding="utf-8")
DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
templates = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def response(
    job: JobRead, model: str, candidates: list[CandidateRead], verdict: VerdictRead | None, status: int
) -> HTMLResponse:
    """The page; without a verdict it says how far the job is, or why it has none."""
    text = templates.get_template("page.html").render(
        job=job,
        model=model,
        candidates=candidates,
        verdict=verdict,
        names={c.id: c.name for c in candidates},
        numbers={c.id: number for number, c in enumerate(candidates, 1)},
        plot=plot.of(candidates),
        words=words,
        style=STYLE,
    )
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Vary": "Accept"}
    return HTMLResponse(text, status, headers=headers)
