"""The client for asyncio: `async with AsyncClient(token=...) as client: await client.generate("red heart")`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx2
from PIL import Image

from forebear_serve.audit_schemas import (
    Concentration,
    DuplicatePage,
    GroupsAudit,
    InfluentialPage,
    Norms,
    OutlierPage,
)
from forebear_serve.client import audit_calls, calls, job_calls, review_calls
from forebear_serve.client.asking import Came, again, answered
from forebear_serve.client.calls import Call, Upload
from forebear_serve.client.connection import SECONDS, Event, EventReader, Target, refusal
from forebear_serve.job_schemas import JobInfo
from forebear_serve.review_schemas import (
    ReviewChange,
    ReviewEvent,
    ReviewInfo,
    ReviewOpened,
    ReviewPage,
    ReviewRequest,
)
from forebear_serve.schemas import (
    AttributeOptions,
    EstimatorInfo,
    Generated,
    GeneratorInfo,
    GroupInfo,
    Health,
    IndexInfo,
    PictureInfo,
    SampleInfo,
    SamplePage,
    TokenInfo,
    Traced,
)

T = TypeVar("T")


class AsyncClient:
    """As `Client`, with methods to await and iterators to iterate with `async for`."""

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        retries: int = 3,
        seconds: float = SECONDS,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Address and token default to FOREBEAR_ADDRESS and FOREBEAR_TOKEN; `seconds` is waited for an answer."""
        self._target, self._retries = Target.of(address, token), retries
        self._http = httpx2.AsyncClient(
            base_url=self._target.address, headers=self._target.headers, timeout=seconds, transport=transport
        )

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self) -> Health:
        """Whether every part of the server answers."""
        return await self._ask(calls.health())

    async def metrics(self) -> str:
        """Numbers of the gateway replica that answers, in Prometheus's text format."""
        return await self._ask(calls.metrics())

    async def token(self) -> TokenInfo:
        """What this client's token allows, and until when."""
        return await self._ask(calls.token())

    async def generators(self) -> tuple[GeneratorInfo, ...]:
        return await self._ask(calls.generators())

    async def estimators(self) -> tuple[EstimatorInfo, ...]:
        return await self._ask(calls.estimators())

    async def index(self) -> IndexInfo:
        """What answers rest on."""
        return await self._ask(calls.index())

    async def groups(self, limit: int = 100) -> tuple[GroupInfo, ...]:
        return await self._ask(calls.groups(limit))

    async def samples(
        self, text: str = "", *, group: str | None = None, value: str | None = None, after: int = -1, limit: int = 60
    ) -> SamplePage:
        """A page of training images; `after` is `next` of the page before."""
        return await self._ask(calls.samples(text, group, value, after, limit))

    async def all_samples(
        self, text: str = "", *, group: str | None = None, value: str | None = None
    ) -> AsyncIterator[SampleInfo]:
        """Every training image that matches, page by page."""
        after: int | None = -1
        while after is not None:
            page = await self.samples(text, group=group, value=value, after=after, limit=500)
            for one in page.samples:
                yield one
            after = page.next

    async def sample(self, sample_id: str) -> SampleInfo:
        return await self._ask(calls.sample(sample_id))

    async def sample_image(self, sample_id: str, size: int = 128) -> Image.Image:
        return await self._ask(calls.sample_image(sample_id, size))

    async def picture(self, picture_id: str) -> PictureInfo:
        return await self._ask(calls.picture(picture_id))

    async def picture_image(self, picture_id: str) -> Image.Image:
        return await self._ask(calls.picture_image(picture_id))

    async def upload(self, image: Upload) -> PictureInfo:
        """Keep a picture on the server, to be traced by its id."""
        return await self._ask(calls.upload(image))

    async def generate(
        self, prompt: str = "", *, attribute: AttributeOptions | bool | None = None, **settings: Any
    ) -> Generated:
        """Make a picture; `settings` are the fields of GenerateRequest: seed, steps, guidance, generator ..."""
        return await self._ask(calls.generate(calls.generate_request(prompt, attribute, settings)))

    async def stream(
        self, prompt: str = "", *, attribute: AttributeOptions | bool | None = None, **settings: Any
    ) -> AsyncIterator[Event]:
        """`generate`, told as it happens: Progressed for each step, Picture, Traced, and at last Timings."""
        call = calls.generate(calls.generate_request(prompt, attribute, settings))
        headers = {"Accept": "text/event-stream"}
        try:
            async with self._http.stream(**call.arguments, headers=headers) as answer:
                if answer.is_error:
                    raise refusal(answer.status_code, await answer.aread())
                reader = EventReader()
                async for line in answer.aiter_lines():
                    for event in reader.line(line):
                        yield event
        except httpx2.TransportError as failed:
            raise self._target.unreachable(failed) from None

    async def attribute(
        self,
        image: Upload | PictureInfo | SampleInfo,
        *,
        prompt: str | None = None,
        label: int | None = None,
        **options: Any,
    ) -> Traced:
        """Trace a picture of the server's, or one of yours; `options` are the fields of AttributeOptions."""
        return await self._ask(calls.attribute(calls.attribute_request(image, prompt, label, options)))

    async def create_reviews(self, asked: Sequence[ReviewRequest]) -> tuple[ReviewOpened, ...]:
        """Open reviews of training images, all or none; one that is open already is given back."""
        return await self._ask(review_calls.create_reviews(asked))

    async def reviews(self, *, after: str | None = None, limit: int = 60, **chosen: Any) -> ReviewPage:
        """A page of reviews, the newest first; `chosen` are verdict, state, sample_id, picture_id, reviewer, text,
        group and value."""
        return await self._ask(review_calls.reviews(after, limit, chosen))

    async def all_reviews(self, **chosen: Any) -> AsyncIterator[ReviewInfo]:
        """Every review that matches, page by page."""
        after, more = None, True
        while more:
            page = await self.reviews(after=after, limit=500, **chosen)
            for one in page.reviews:
                yield one
            after, more = page.next, page.next is not None

    async def review(self, review_id: int) -> ReviewInfo:
        return await self._ask(review_calls.review(review_id))

    async def review_history(self, review_id: int) -> tuple[ReviewEvent, ...]:
        """Everything that happened to a review, the oldest first."""
        return await self._ask(review_calls.review_history(review_id))

    async def change_reviews(self, changes: Sequence[ReviewChange]) -> tuple[ReviewInfo, ...]:
        """Judge reviews, all or none; raises RefusedError 409 when somebody changed one of them meanwhile."""
        return await self._ask(review_calls.change_reviews(changes))

    async def export_reviews(self, kind: str, *, licence_issues: bool = False, **chosen: Any) -> bytes:
        """A file's bytes: `csv` or `parquet` of the reviews that `chosen` lets through, or the list `deny`."""
        return await self._ask(review_calls.export_reviews(kind, licence_issues, chosen))

    async def outliers(
        self, score: str = "self", *, estimator: str | None = None, after: int = 0, limit: int = 60
    ) -> OutlierPage:
        """Training images that stand out by `self`, `support` or `isolation`; `after` is `next` of the page before."""
        return await self._ask(audit_calls.outliers(score, estimator, after, limit))

    async def influential(self, *, estimator: str | None = None, after: int = 0, limit: int = 60) -> InfluentialPage:
        """Training images that count for everything, the most influential first."""
        return await self._ask(audit_calls.influential(estimator, after, limit))

    async def duplicates(
        self, measure: str = "pixel", *, estimator: str | None = None, after: int = 0, limit: int = 60
    ) -> DuplicatePage:
        """The nearest pairs of training images by `pixel`, `shifted` or `gradient`."""
        return await self._ask(audit_calls.duplicates(measure, estimator, after, limit))

    async def concentration(self, *, estimator: str | None = None) -> Concentration:
        return await self._ask(audit_calls.concentration(estimator))

    async def norms(self) -> Norms:
        return await self._ask(audit_calls.norms())

    async def audited_groups(
        self, group: str | None = None, *, estimator: str | None = None, limit: int = 100
    ) -> tuple[GroupsAudit, ...]:
        """How influential each value of the group columns is."""
        return await self._ask(audit_calls.audited_groups(group, estimator, limit))

    async def start_job(self, kind: str, **options: Any) -> JobInfo:
        """Start `embed`, `index` or `evaluate` on the server; raises RefusedError 409 while another job runs."""
        return await self._ask(job_calls.start_job(kind, options))

    async def jobs(self) -> tuple[JobInfo, ...]:
        return await self._ask(job_calls.jobs())

    async def job(self, job_id: str) -> JobInfo:
        """How it stands, and the end of its log."""
        return await self._ask(job_calls.job(job_id))

    async def cancel_job(self, job_id: str) -> JobInfo:
        """Ask it to stop; the same job, started again, goes on."""
        return await self._ask(job_calls.cancel_job(job_id))

    async def _ask(self, call: Call[T]) -> T:
        attempt, came = 0, await self._sent(call)
        while (seconds := again(call, came, attempt, self._retries)) is not None:
            await asyncio.sleep(seconds)
            attempt, came = attempt + 1, await self._sent(call)
        return answered(call, came, self._target)

    async def _sent(self, call: Call[T]) -> Came:
        try:
            return await self._http.request(**call.arguments)
        except httpx2.TransportError as failed:
            return failed
