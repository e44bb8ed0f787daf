"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cmp_rerank.serving.batching import Pass

#: Seconds of a request, from a few short texts on an accelerator to a thousand long ones on a CPU.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one server. Each has a registry of its own, so that two servers of a process do not add up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cmp_rerank_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "cmp_rerank_request_seconds",
            "Seconds from a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("cmp_rerank_waiting_pairs", "Pairs that are not answered yet.", registry=self.registry)
        self.cut = Counter("cmp_rerank_cut_pairs", "Pairs that the window has cut.", registry=self.registry)
        self.tokens = Counter("cmp_rerank_tokens", "Tokens scored, without padding.", registry=self.registry)
        self.padding = Counter("cmp_rerank_padding_tokens", "Tokens of padding.", registry=self.registry)
        self.pass_seconds = Histogram(
            "cmp_rerank_pass_seconds", "Seconds of a pass.", buckets=_SECONDS, registry=self.registry
        )
        self.pass_pairs = Histogram(
            "cmp_rerank_pass_pairs", "Pairs of a pass.", buckets=_PAIRS, registry=self.registry
        )
        self.pass_requests = Histogram(
            "cmp_rerank_pass_requests", "Requests that share a pass.", buckets=_PAIRS, registry=self.registry
        )

    def add(self, one: Pass) -> None:
        """Count a pass."""
        self.tokens.inc(one.tokens)
        self.padding.inc(one.padding)
        self.pass_seconds.observe(one.seconds)
        self.pass_pairs.observe(one.pairs)
        self.pass_requests.observe(one.requests)

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
