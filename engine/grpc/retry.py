"""Service configs, retries and hedging (gRFC A6, grpc/grpc doc/service_config.md).

Owns: what a service config says about a method, whether an attempt that failed is repeated, and when.
Never sends anything, never sleeps, and has no randomness of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from engine.errors import ConfigError, StatusCode

__all__ = ["HedgingPolicy", "MethodConfig", "RetryPolicy", "RetryThrottle", "ServiceConfig"]

MAX_ATTEMPTS = 5  # A6: "maxAttempts ... values greater than 5 are treated as 5"
JITTER = 0.2  # A6: each delay is multiplied by 0.8 to 1.2

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]{1,9})?)s")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retryPolicy` of a method."""

    max_attempts: int
    initial_backoff: float
    max_backoff: float
    multiplier: float
    codes: frozenset[StatusCode]

    def delay(self, retry: int, random: Random) -> float:
        """Seconds before the `retry`-th retry, from 1."""
        backoff = min(self.initial_backoff * self.multiplier ** (retry - 1), self.max_backoff)
        return backoff * random.uniform(1 - JITTER, 1 + JITTER)


@dataclass(frozen=True, slots=True)
class HedgingPolicy:
    """`hedgingPolicy` of a method: attempts side by side."""

    max_attempts: int
    delay: float  # seconds between them; 0: all at once
    codes: frozenset[StatusCode]  # nonFatalStatusCodes: the other attempts go on

    def without_more(self) -> HedgingPolicy:
        """The same, but no further attempt begins."""
        return replace(self, max_attempts=0)


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What a service config says about one method."""

    timeout: float | None = None
    wait_for_ready: bool | None = None
    max_response_size: int | None = None
    max_request_size: int | None = None
    retry: RetryPolicy | None = None
    hedging: HedgingPolicy | None = None


@dataclass(slots=True)
class RetryThrottle:
    """`retryThrottling`: a budget of the whole channel, so that retries cannot drown a sick server."""

    max_tokens: float
    token_ratio: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.max_tokens

    def failed(self) -> bool:
        """A retryable failure: True if a retry is affordable."""
        self.tokens = max(0.0, self.tokens - 1)
        return self.affordable

    @property
    def affordable(self) -> bool:
        """More than half of the budget is left."""
        return self.tokens > self.max_tokens / 2

    def succeeded(self) -> None:
        self.tokens = min(self.max_tokens, self.tokens + self.token_ratio)


_NOTHING = MethodConfig()


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """A parsed service config."""

    methods: Mapping[tuple[str, str], MethodConfig] = field(default_factory=dict)
    throttling: tuple[float, float] | None = None  # maxTokens, tokenRatio
    load_balancing: str | None = None

    def for_method(self, path: str) -> MethodConfig:
        """The most specific entry for `/service/Method`."""
        _, service, method = path.split("/", 2)
        found = self.methods.get((service, method)) or self.methods.get((service, ""))
        return found or self.methods.get(("", "")) or _NOTHING

    @classmethod
    def parse(cls, config: str | Mapping[str, Any]) -> ServiceConfig:
        """From JSON text, or what that decodes to. Fields that nobody here obeys are skipped.

        Raises:
            ConfigError: a value has not the form that doc/service_config.md gives it.
        """
        if isinstance(config, str):
            try:
                config = json.loads(config)
            except ValueError as error:
                raise ConfigError("service_config", None, f"give JSON ({error})") from None
        if not isinstance(config, Mapping):
            raise ConfigError("service_config", config, "give a JSON object")
        methods: dict[tuple[str, str], MethodConfig] = {}
        for entry in _list("methodConfig", config.get("methodConfig", [])):
            parsed = _method_config(entry)
            for name in _list("methodConfig.name", entry.get("name", [])):
                key = (name.get("service", ""), name.get("method", ""))
                if key in methods:
                    raise ConfigError("service_config.methodConfig.name", name, "name each method once")
                methods[key] = parsed
        return cls(methods, _throttling(config.get("retryThrottling")), _load_balancing(config))


def _list(key: str, value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ConfigError(f"service_config.{key}", value, "give a list of objects")
    return value


def _method_config(entry: Mapping[str, Any]) -> MethodConfig:
    retry, hedging = entry.get("retryPolicy"), entry.get("hedgingPolicy")
    if retry is not None and hedging is not None:
        raise ConfigError("service_config.methodConfig", entry, "give a retryPolicy or a hedgingPolicy, not both")
    return MethodConfig(
        timeout=_duration("timeout", entry["timeout"]) if "timeout" in entry else None,
        wait_for_ready=entry.get("waitForReady"),
        max_response_size=_size(entry, "maxResponseMessageBytes"),
        max_request_size=_size(entry, "maxRequestMessageBytes"),
        retry=None if retry is None else _retry_policy(retry),
        hedging=None if hedging is None else _hedging_policy(hedging),
    )


def _size(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"service_config.{key}", value, "give a number of bytes") from None


def _retry_policy(policy: Mapping[str, Any]) -> RetryPolicy:
    prefix = "service_config.retryPolicy"
    multiplier = policy.get("backoffMultiplier")
    if not isinstance(multiplier, int | float) or multiplier <= 0:
        raise ConfigError(f"{prefix}.backoffMultiplier", multiplier, "give a number above 0")
    codes = policy.get("retryableStatusCodes")
    if not isinstance(codes, list) or not codes:
        raise ConfigError(f"{prefix}.retryableStatusCodes", codes, 'give a list of codes, such as ["UNAVAILABLE"]')
    return RetryPolicy(
        max_attempts=_attempts(prefix, policy),
        initial_backoff=_duration("retryPolicy.initialBackoff", policy.get("initialBackoff")),
        max_backoff=_duration("retryPolicy.maxBackoff", policy.get("maxBackoff")),
        multiplier=float(multiplier),
        codes=frozenset(_code(f"{prefix}.retryableStatusCodes", code) for code in codes),
    )


def _hedging_policy(policy: Mapping[str, Any]) -> HedgingPolicy:
    prefix = "service_config.hedgingPolicy"
    codes = policy.get("nonFatalStatusCodes", [])
    if not isinstance(codes, list):
        raise ConfigError(f"{prefix}.nonFatalStatusCodes", codes, 'give a list of codes, such as ["UNAVAILABLE"]')
    delay = policy.get("hedgingDelay", "0s")
    return HedgingPolicy(
        max_attempts=_attempts(prefix, policy),
        delay=0.0 if delay in ("0s", "0.0s") else _duration("hedgingPolicy.hedgingDelay", delay),
        codes=frozenset(_code(f"{prefix}.nonFatalStatusCodes", code) for code in codes),
    )


def _attempts(prefix: str, policy: Mapping[str, Any]) -> int:
    attempts = policy.get("maxAttempts")
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 2:
        raise ConfigError(f"{prefix}.maxAttempts", attempts, "give a whole number of 2 or more")
    return min(attempts, MAX_ATTEMPTS)


def _code(key: str, value: Any) -> StatusCode:
    try:
        return StatusCode(value) if isinstance(value, int) else StatusCode[str(value).upper()]
    except (KeyError, ValueError):
        raise ConfigError(key, value, "give names or numbers of gRPC status codes") from None


def _duration(key: str, value: Any) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"service_config.{key}", value, 'give seconds with an s, such as "0.5s"')
    return float(match[1])


def _throttling(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    tokens = value.get("maxTokens") if isinstance(value, Mapping) else None
    ratio = value.get("tokenRatio") if isinstance(value, Mapping) else None
    if not isinstance(tokens, int | float) or not 0 < tokens <= 1000:
        raise ConfigError("service_config.retryThrottling.maxTokens", tokens, "give a number up to 1000")
    if not isinstance(ratio, int | float) or ratio <= 0:
        raise ConfigError("service_config.retryThrottling.tokenRatio", ratio, "give a number above 0")
    return float(tokens), int(ratio * 1000) / 1000  # A6: three decimal places


def _load_balancing(config: Mapping[str, Any]) -> str | None:
    """The first policy that we have."""
    for entry in _list("loadBalancingConfig", config.get("loadBalancingConfig", [])):
        for name in entry:
            if name in ("pick_first", "round_robin"):
                return str(name)
    policy = str(config.get("loadBalancingPolicy", "")).lower()
    return policy if policy in ("pick_first", "round_robin") else None
