"""A plain call of a model while a scorer examines it in another thread: both get what they get alone.

Nothing here is left to chance. One thread waits inside of a layer until the other is where it shall be: a whole plain
call in each layer of each pass of the examination, the whole examination in each layer of a plain call, and plain
calls that begin in the middle of it and end after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from test_strategies import ENCODERS
from tiny_models import OTHERS, PASSAGES, QUERIES, cross_encoder
from torch import Tensor, nn

from cmp_rerank import LongDocumentReranker
from cmp_rerank.ablations import CmpDrop, Example, Plan
from cmp_rerank.engine import Scorer
from cmp_rerank.engine.unpadded import Unpadded
from cmp_rerank.hooks import sites
from cmp_rerank.hooks.checkpointing import PassHooks
from cmp_rerank.hooks.sites import repeated_layers
from cmp_rerank.models.base import adapter_of
from cmp_rerank.models.pairs import tokenise

PAIRS = list(zip(QUERIES, PASSAGES, strict=True))
OTHER_PAIRS = list(zip(QUERIES[:3], OTHERS[:3], strict=True))
#: Seconds after which a thread no longer waits for the other one.
PATIENCE = 100

ABLATIONS = {
    "unpadded": CmpDrop(p=0.3),
    "trunk": CmpDrop(p=0.3, layers="top:1"),
    "auto": CmpDrop(p=0.3),
}
WAYS: dict[str, dict[str, Any]] = {
    "unpadded": dict(strategy="stacked", unpadded=True),
    "trunk": dict(strategy="trunk"),
    "auto": dict(activation_bytes=10**9),  # measures what a row keeps
}


class Case:
    """A model, a scorer that has not seen it for each call, and what both give alone."""

    def __init__(self, model: CrossEncoder, way: str, training: bool) -> None:
        self.model = model.train(training)
        self.way = way
        self.plan = Plan([ABLATIONS[way]])
        # Tokenised here: a tokenizer is no thing to share.
        self.examples: list[Example] = tokenise(model, PAIRS, self.plan)
        with torch.no_grad():
            self.batch = model.preprocess(OTHER_PAIRS)
        self.layers = list(dict.fromkeys(repeated_layers(model)[1]))
        self.unpadded: bool | None = None
        self.expected = self.scored()
        mode = model.training
        self.alone = self.plain()
        model.train(mode)

    def scored(self) -> Tensor:
        """Scores by a scorer that examines the model first."""
        scorer = Scorer(adapter_of(self.model), self.plan.on_model, tokens_per_chunk=10**6, **WAYS[self.way])
        views = [self.plan.views(example) for example in self.examples]
        with nullcontext() if self.way == "auto" else torch.no_grad():
            scores = scorer(self.model, self.examples, views).detach()
        if self.unpadded is None:
            self.unpadded = scorer.uses(Unpadded)
        assert scorer.uses(Unpadded) == self.unpadded
        return scores

    def plain(self) -> Tensor:
        """What ``predict`` does, after tokenisation."""
        self.model.eval()
        with torch.no_grad():
            scores: Tensor = self.model(dict(self.batch))["scores"]
        return scores

    @contextmanager
    def at_layers(self, do: Callable[[int], None], layers: list[int] | None = None) -> Iterator[None]:
        """Inside, something is done before layers, by the thread that calls this."""
        mine = threading.get_ident()
        with ExitStack() as stack:
            for number, layer in enumerate(self.layers):
                if layers is None or number in layers:

                    def hook(*_: Any, number: int = number) -> None:
                        if threading.get_ident() == mine:
                            do(number)

                    # First of all: those that come after it are called when it is over, on or off.
                    stack.callback(layer.register_forward_pre_hook(hook, prepend=True).remove)
            yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CrossEncoder]:
    made: dict[str, CrossEncoder] = {}

    def get(kind: str) -> CrossEncoder:
        if kind == "long documents":
            return LongDocumentReranker(get("bert"), passage_tokens=8)
        if kind not in made:
            made[kind] = cross_encoder(tmp_path_factory.mktemp(kind), *ENCODERS[kind])
        return made[kind]

    return get


CASES = [(kind, way) for kind in ("bert", "modernbert", "t5", "long documents") for way in WAYS]
CASES.remove(("long documents", "trunk"))  # passages share no trunk


@pytest.fixture(params=CASES, ids="-".join)
def case(request: Any, models: Callable[[str], CrossEncoder]) -> Case:
    kind, way = request.param
    return Case(models(kind), way, training=way == "auto")


def elsewhere(job: Callable[[], Tensor]) -> Tensor:
    """What a job gives in a thread of its own."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(job).result(PATIENCE)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_whole_plain_calls_within_the_examination(case: Case) -> None:
    """One in each layer of each of its passes."""
    found: list[Tensor] = []
    with case.at_layers(lambda _: found.append(elsewhere(case.plain))):
        scores = case.scored()
    assert len(found) >= 2 * len(case.layers)
    for each in found:
        same(each, case.alone)
    same(scores, case.expected)


def test_the_whole_examination_within_a_plain_call(case: Case) -> None:
    """One in each of its layers."""
    found: list[Tensor] = []
    with case.at_layers(lambda _: found.append(elsewhere(case.scored))):
        plain = case.plain()
    assert len(found) >= len(case.layers)
    same(plain, case.alone)
    for each in found:
        same(each, case.expected)


class Straddling:
    """Plain calls that begin in each layer that this thread runs, and go on past their first layer at its end.

    Args:
        case: What is called.
        most: How many begin at most.
    """

    def __init__(self, case: Case, most: int) -> None:
        self.case = case
        self.most = most
        self.calls: list[Future[Tensor]] = []
        self._over = threading.Event()

    def begin(self, _: int) -> None:
        if len(self.calls) == self.most:
            return
        arrived = threading.Event()

        def wait(_: int) -> None:
            arrived.set()
            assert self._over.wait(PATIENCE)

        def call() -> Tensor:
            with self.case.at_layers(wait, [0]):
                return self.case.plain()

        found: Future[Tensor] = Future()

        def run() -> None:
            try:
                found.set_result(call())
            except BaseException as error:
                found.set_exception(error)
            arrived.set()

        threading.Thread(target=run, daemon=True).start()
        assert arrived.wait(PATIENCE)
        self.calls.append(found)

    def end(self) -> list[Tensor]:
        self._over.set()
        return [call.result(PATIENCE) for call in self.calls]


@pytest.mark.parametrize("most", [1, 1000])
def test_plain_calls_that_outlast_the_examination(case: Case, most: int) -> None:
    """Hooks that they have met are off, and the mode that the first has set is not undone."""
    straddling = Straddling(case, most)
    try:
        with case.at_layers(straddling.begin):
            scores = case.scored()
    finally:
        found = straddling.end()
    assert len(found) >= min(most, 2 * len(case.layers))
    for each in found:
        same(each, case.alone)
    same(scores, case.expected)


def test_a_model_that_asks_for_the_name_of_its_attention(models: Callable[[str], CrossEncoder]) -> None:
    """Some compute in another way where it is not the one that they know."""
    case = Case(models("bert"), "unpadded", training=False)
    config = case.model[0].model.config  # type: ignore[union-attr]
    kind, names = type(config), []

    def ask(*_: Any) -> None:
        if threading.get_ident() != mine:
            names.append(config._attn_implementation)

    mine = threading.get_ident()
    handle = case.layers[0].register_forward_hook(ask)
    with case.at_layers(lambda _: same(elsewhere(case.plain), case.alone)):
        case.scored()
    handle.remove()
    assert set(names) == {"sdpa"}
    assert len(names) >= 2 * len(case.layers)
    assert type(config) is kind


def test_attributes_that_another_call_sets_stay(models: Callable[[str], CrossEncoder]) -> None:
    """Only what the examination has changed is put back; a module is never without its parts meanwhile."""
    model = models("bert").train()
    missing: list[str] = []

    class Children(dict[str, Any]):
        def clear(self) -> None:
            missing.append("all")
            super().clear()

    layer: Any = repeated_layers(model)[1][0]
    layer._modules = Children(layer._modules)
    CmpDrop().hooks(model, lambda: model.eval()(model.preprocess(PAIRS)))
    assert not missing
    assert not any(module.training for module in model.modules())


# The canaries: what keeps the two apart is taken away, and the tests above notice ----------------------------------


def fails(test: Callable[..., None], *arguments: Any) -> bool:
    """Whether a test fails, by whatever error: a hook in the wrong thread may break the call itself."""
    try:
        test(*arguments)
    except Exception:
        return True
    return False


def test_a_hook_that_asks_for_no_thread_is_noticed(
    models: Callable[[str], CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(models("bert"), "trunk", training=False)
    with monkeypatch.context() as patch:
        patch.setattr(sites, "in_this_thread", lambda hook: hook)
        assert fails(test_whole_plain_calls_within_the_examination, case)
    with monkeypatch.context() as patch:
        patch.setattr(PassHooks, "hook", lambda self, hook: hook)
        assert fails(test_plain_calls_that_outlast_the_examination, case, 1000)


def test_a_mode_that_is_put_back_is_noticed(
    models: Callable[[str], CrossEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(models("bert"), "auto", training=True)
    inspecting = sites.inspecting

    @contextmanager
    def with_the_mode(model: nn.Module) -> Iterator[None]:
        training = model.training
        with inspecting(model):
            yield
        model.train(training)

    monkeypatch.setattr(sites, "inspecting", with_the_mode)
    assert fails(test_plain_calls_that_outlast_the_examination, case, 1)
