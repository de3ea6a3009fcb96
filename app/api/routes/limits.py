"""What is allowed, and how much of it is used."""

from fastapi import APIRouter

from app.api.deps import ReadDb, Service, Who
from app.api.rates import WINDOW_S
from app.api.schemas.limits import LimitsRead, RateRead, SandboxRead
from app.api.schemas.projects import QuotasModel, RetentionModel, UsageRead
from app.api.waiting import WAIT_SECONDS
from app.services import quotas, retention
from app.services.endpoints import MOST_ENDPOINTS

router = APIRouter()


@router.get("/limits")
def read_limits(caller: Who, db: ReadDb, service: Service) -> LimitsRead:
    """The limits on sizes, rates and work that hold for this key and its project."""
    settings = service.settings
    rates = {"reads": settings.rate_reads, "writes": settings.rate_writes}
    return LimitsRead(
        max_upload_bytes=settings.max_upload_bytes,
        max_json_bytes=settings.max_json_bytes,
        max_wait_s=WAIT_SECONDS,
        max_webhook_endpoints=MOST_ENDPOINTS,
        rates={name: RateRead(quota=quota, window_s=WINDOW_S) for name, quota in rates.items()},
        quotas=QuotasModel.of(quotas.of(db, caller.project_id, settings.quotas)),
        retention=RetentionModel.of(retention.of(db, caller.project_id, settings.retention)),
        sandbox=SandboxRead.of(settings),
    )


@router.get("/usage")
def read_usage(caller: Who, db: ReadDb, service: Service) -> UsageRead:
    """What this project has and does now, beside its quotas."""
    allowed = quotas.of(db, caller.project_id, service.settings.quotas)
    return UsageRead.of(caller.project_id, quotas.measure(db, caller.project_id), allowed)
