"""The four requests that the node answers. Errors are {"error": "<words>"}."""

import logging
from typing import Annotated, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from dicomnode import __version__
from dicomnode.checked import Name, Uid, is_uid
from dicomnode.errors import DicomnodeError, DiskFull, JobError, JobUnknown, SourceUnknown, SpoolError
from dicomnode.settings import Web
from dicomnode.web.door import Door
from dicomnode.web.standing import House, JobTold, SeriesTold, Standing, told

LATER_SECONDS: Final = 60
"""What a client is told to wait while the disk is full."""
_STATUSES: Final = ((SourceUnknown, 404), (JobUnknown, 404), (JobError, 409), (SpoolError, 503))

log: Final = logging.getLogger(__name__)


class Wanted(BaseModel):
    """A series that shall be fetched, and from which of `web_sources`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    source: Name
    study_instance_uid: Uid
    series_instance_uid: Uid


class Health(BaseModel):
    """That the node is there."""

    status: str
    version: str
    ae_title: str


def interface(house: House, web: Web) -> ASGIApp:
    """The application that a server serves."""
    app = FastAPI(title="dicomnode", version=__version__, docs_url=None, redoc_url=None)
    standing = Standing(house)

    @app.get("/health")
    def health() -> Health:
        """Whether the node is there."""
        return Health(status="ok", version=__version__, ae_title=house.ae_title)

    @app.get("/series/{series_instance_uid}")
    def series(series_instance_uid: str) -> SeriesTold:
        """Where a series stands."""
        if not is_uid(series_instance_uid):
            raise HTTPException(422, "series_instance_uid: this is no UID")
        return standing.of(series_instance_uid)

    @app.post("/series", status_code=202)
    def fetch(wanted: Wanted) -> SeriesTold:
        """Fetch of a series what the node does not have; durable when it is answered."""
        house.fetch(wanted.source, wanted.study_instance_uid, wanted.series_instance_uid)
        return standing.of(wanted.series_instance_uid)

    @app.post("/jobs/{job_id}/retry", status_code=202)
    def retry(job_id: Annotated[str, Name]) -> JobTold:
        """Start a job again that has ended without its result everywhere."""
        return told(house.retry(job_id))

    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(DicomnodeError, _told)
    return Door(app, web)


def _error(status: int, words: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": words}, status, headers)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail))


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    """Which field is wrong, and never what stood there."""
    assert isinstance(error, RequestValidationError)
    lines = [".".join(map(str, one["loc"][1:])) + f": {one['msg']}" for one in error.errors()]
    return _error(422, "; ".join(lines))


async def _told(_: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, SpoolError):
        log.warning("a request cannot be kept: %s", type(error).__name__)
        words = "the node's disk is below its reserve" if isinstance(error, DiskFull) else "disk trouble"
        return _error(status, f"{words}; ask again later", {"Retry-After": str(LATER_SECONDS)})
    return _error(status, str(error))
