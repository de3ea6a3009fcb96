"""How often a key may ask: a counter per key, policy and minute in Redis, so that it holds across processes.

Without Redis each process counts for itself: no request fails because a counter is away.
Headers: draft-ietf-httpapi-ratelimit-headers.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from time import monotonic, time

from redis.asyncio import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)
PATIENCE_S = 0.25
AWAY_S = 5.0
WINDOW_S = 60


@dataclass(frozen=True)
class Policy:
    """At most `quota` requests in each minute."""

    name: str
    quota: int


@dataclass(frozen=True)
class Count:
    """How many requests there were in this minute, this one included."""

    policy: Policy
    used: int
    reset_s: int

    @property
    def exceeded(self) -> bool:
        """Whether this request is one too many."""
        return self.used > self.policy.quota

    def headers(self) -> dict[str, str]:
        """`RateLimit` and `RateLimit-Policy`, and when to try again after one too many."""
        name, quota, left = self.policy.name, self.policy.quota, max(self.policy.quota - self.used, 0)
        again = {"Retry-After": str(self.reset_s)} if self.exceeded else {}
        return again | {
            "RateLimit-Policy": f'"{name}";q={quota};w={WINDOW_S}',
            "RateLimit": f'"{name}";r={left};t={self.reset_s}',
        }


class Rates:
    """The counters."""

    def __init__(self, redis_url: str) -> None:
        self._redis = _connect(redis_url) if redis_url else None
        self._away_until = 0.0
        self._own: Counter[str] = Counter()
        self._own_minute = 0

    async def hit(self, policy: Policy, subject: str) -> Count:
        """Count one request of this subject."""
        now = time()
        minute, reset_s = int(now // WINDOW_S), WINDOW_S - int(now % WINDOW_S)
        used = await self._shared(f"fewbits:rate:{policy.name}:{subject}:{minute}")
        if used is None:
            used = self._alone(f"{policy.name}:{subject}", minute)
        return Count(policy, used, reset_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._redis:
            await self._redis.aclose()

    async def _shared(self, name: str) -> int | None:
        """The count in Redis; None while Redis is away, which is found out every few seconds."""
        if self._redis is None or monotonic() < self._away_until:
            return None
        try:
            pipeline = self._redis.pipeline(transaction=False)  # queues commands, and sends them at once
            pipeline.incr(name)
            pipeline.expire(name, WINDOW_S * 2)
            used, _ = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("no Redis to count requests in, counting alone: %s", error)
            self._away_until = monotonic() + AWAY_S
            return None
        return int(used)

    def _alone(self, name: str, minute: int) -> int:
        if minute != self._own_minute:
            self._own.clear()
            self._own_minute = minute
        self._own[name] += 1
        return self._own[name]


def _connect(url: str) -> Redis:
    """A client of the server that Celery's URL names."""
    plain = url.replace("redis+socket://", "unix://", 1)
    return Redis.from_url(plain, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)
