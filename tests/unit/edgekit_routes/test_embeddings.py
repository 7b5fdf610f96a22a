"""`edgekit.routes.embeddings`: what is asked of the model, and what becomes of its answer."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest

from edgekit.http import Headers, Request, Response
from edgekit.pipeline import Pipeline
from edgekit.processing.wordpiece import Vocabulary
from edgekit.routes.embeddings import embeddings_route
from fakes.edge_ports import FakeClock, InProcessClient, MemoryStore, make_ports
from fakes.embedding_model import FakeEmbedder, vector_of
from fakes.inference_backend import FakeBackend, Fault, Received, Reply, problem_reply

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s"]
DIGEST = "sha256:of-the-vocabulary"


class World:
    """One edge over memory, with a vocabulary of nine pieces."""

    def __init__(self, **variables: str) -> None:
        self.backend = FakeBackend()
        self.model = FakeEmbedder(vocabulary=DIGEST)
        self.backend.override = self.model
        self.client = InProcessClient(self.backend)
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.variables = variables
        self.pipeline = Pipeline([embeddings_route({DIGEST: Vocabulary.from_pieces(PIECES)})])

    def post(self, **members: Any) -> Response:
        ports = make_ports(
            client=self.client, store=self.store, clock=self.clock, variables=self.variables
        )
        body = json.dumps({"model": "vectors", **members}).encode()
        fields = Headers([("content-type", "application/json")])
        response = self.pipeline(Request("POST", "/v1/embeddings", "", fields, body), ports)
        for step in response.after:
            step()
        return response


def document(response: Response, status: int = 200) -> Any:
    assert isinstance(response.body, bytes)
    assert response.status == status, response.body
    return json.loads(response.body)


def vectors(response: Response) -> list[Any]:
    return [entry["embedding"] for entry in document(response)["data"]]


@pytest.fixture
def world() -> World:
    return World()


def test_embeddings_text_goes_to_the_model_between_its_special_tokens(world: World) -> None:
    found = document(world.post(input="The cats sat"))
    ids = [2, 5, 6, 8, 7, 3]
    assert world.model.seen == [[ids]]
    assert found == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector_of(ids)}],
        "model": "vectors",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


def test_embeddings_texts_of_unlike_length_share_one_padded_request(world: World) -> None:
    found = document(world.post(input=["the", "the cat sat", "cat"]))
    assert world.model.seen == [[[2, 5, 3], [2, 6, 3], [2, 5, 6, 7, 3]]]
    assert len(world.backend.infer_calls()) == 1
    assert [entry["index"] for entry in found["data"]] == [0, 1, 2]
    assert found["usage"]["prompt_tokens"] == 11


def test_embeddings_many_tokens_go_out_in_calls_of_like_length(world: World) -> None:
    world.model.max_tokens = 512
    given = [[number, *[1] * (500 if number % 2 else 3)] for number in range(20)]
    assert vectors(world.post(input=given)) == [vector_of(row) for row in given]
    sizes = [[len(row) for row in rows] for rows in world.model.seen]
    assert sizes == [[4] * 10, [501] * 8, [501] * 2]
    assert all(len(rows) * max(rows) <= 4096 for rows in sizes)


def test_embeddings_model_replaced_between_two_calls_answers_all_anew(world: World) -> None:
    world.model.max_tokens = 512

    def replaced(call: Received) -> Reply | None:
        if len(world.model.seen) == 1:
            world.model.version, world.model.digest = "2", "sha256:bbbb"
        return world.model(call)

    world.backend.override = replaced
    given = [[number, *[1] * 400] for number in range(12)]
    assert vectors(world.post(input=given)) == [vector_of(row) for row in given]
    assert [call.target for call in world.backend.infer_calls()[-2:]] == [
        "/v2/models/vectors/versions/2/infer"
    ] * 2


@pytest.mark.parametrize(
    ("given", "rows"), [([7, 8, 9], [[7, 8, 9]]), ([[7], [8, 9]], [[7], [8, 9]])]
)
def test_embeddings_token_ids_go_to_the_model_as_they_are(
    world: World, given: object, rows: list[list[int]]
) -> None:
    assert vectors(world.post(input=given)) == [vector_of(row) for row in rows]
    assert world.model.seen == [rows]


def test_embeddings_model_without_mask_gets_ids_alone(world: World) -> None:
    world.model.mask = None
    assert vectors(world.post(input=[4, 5])) == [vector_of([4, 5])]


def test_embeddings_base64_is_little_endian_float32(world: World) -> None:
    (text,) = vectors(world.post(input=[4, 5], encoding_format="base64"))
    assert list(struct.unpack("<4f", base64.b64decode(text))) == vector_of([4, 5])


def test_embeddings_half_precision_becomes_float32(world: World) -> None:
    world.model.datatype = "FP16"
    (text,) = vectors(world.post(input=[4, 5], encoding_format="base64"))
    assert list(struct.unpack("<4f", base64.b64decode(text))) == vector_of([4, 5])


def test_embeddings_dimensions_cut_and_make_the_length_one_again(world: World) -> None:
    (found,) = vectors(world.post(input=[3, 5], dimensions=2))
    assert found == pytest.approx([2 / math.hypot(2, 3), 3 / math.hypot(2, 3)], rel=1e-7)


def test_embeddings_more_dimensions_than_there_are_is_refused(world: World) -> None:
    error = document(world.post(input=[3], dimensions=5), 400)["error"]
    assert error["param"] == "dimensions"
    assert error["message"] == "dimensions is 5, the model's vectors have 4"
    assert error["type"] == "invalid_request_error"


def test_embeddings_text_that_is_too_long_is_refused_by_its_place(world: World) -> None:
    error = document(world.post(input=["cat", "cat " * 7]), 400)["error"]
    assert error["param"] == "input[1]"
    assert "more than 8 tokens" in error["message"]
    assert world.model.seen == []


def test_embeddings_text_of_exactly_the_limit_is_taken(world: World) -> None:
    world.post(input="cat " * 6)
    assert world.model.seen == [[[2, 6, 6, 6, 6, 6, 6, 3]]]


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("the " + "cat " * 1000, [2, 5, 6, 6, 6, 6, 6, 3]),
        ([[2, *range(10, 30), 3]], [2, *range(10, 16), 3]),
    ],
)
def test_embeddings_truncate_keeps_begin_and_last_token(
    world: World, given: object, ids: list[int]
) -> None:
    world.post(input=given, truncate="END")
    assert world.model.seen == [[ids]]


def test_embeddings_text_without_vocabulary_is_refused_and_ids_are_not(world: World) -> None:
    world.model.vocabulary = "sha256:another"
    error = document(world.post(input="cat"), 404)["error"]
    assert error["code"] == "model_not_found"
    assert "built without the vocabulary of model 'vectors'" in error["message"]
    assert vectors(world.post(input=[6])) == [vector_of([6])]


def test_embeddings_model_for_something_else_is_refused(world: World) -> None:
    error = document(world.post(model="pixels", input="cat"), 400)["error"]
    assert error["param"] == "model"
    assert "makes no vectors of texts" in error["message"]


@pytest.mark.parametrize("name", ["nobody", "a/b"])
def test_embeddings_unknown_model_is_not_found(world: World, name: str) -> None:
    error = document(world.post(model=name, input="cat"), 404)["error"]
    assert error["type"] == "not_found_error"


def test_embeddings_metadata_is_asked_for_once(world: World) -> None:
    world.post(input="cat")
    world.post(input="the")
    assert len(world.backend.metadata_calls()) == 1
    assert world.store.calls == ["get_many", "set_many"] * 2


def test_embeddings_answer_is_served_from_the_cache(world: World) -> None:
    world.variables = {"infer_cache_ttl_s": "60"}
    first = world.post(input="cat")
    second = world.post(input="cat")
    assert second.body == first.body
    assert "hit" in (second.headers.get("cache-status") or "")
    assert len(world.backend.infer_calls()) == 1
    world.post(input="cat", encoding_format="base64")
    assert len(world.backend.infer_calls()) == 2


def test_embeddings_replaced_model_is_asked_anew_in_its_own_terms(world: World) -> None:
    world.post(input="cat cat cat")
    world.model.version, world.model.digest = "2", "sha256:bbbb"
    world.model.max_tokens = 4
    error = document(world.post(input="cat cat cat"), 400)["error"]
    assert "more than 4 tokens" in error["message"]
    response = world.post(input="cat")
    assert vectors(response) == [vector_of([2, 6, 3])]
    assert 'version="2"' in (response.headers.get("inference-model") or "")


def test_embeddings_replacement_is_asked_by_the_version_that_answered(world: World) -> None:
    world.post(input="cat")
    world.model.version, world.model.digest = "2", "sha256:bbbb"
    assert vectors(world.post(input="cat")) == [vector_of([2, 6, 3])]
    assert [call.target for call in world.backend.received[-3:]] == [
        "/v2/models/vectors/infer",
        "/v2/models/vectors/versions/2",
        "/v2/models/vectors/versions/2/infer",
    ]


def test_embeddings_stored_limit_that_has_grown_is_found_out(world: World) -> None:
    world.model.max_tokens = 3
    world.post(input="cat")
    world.model.max_tokens = 8
    assert vectors(world.post(input="the cat")) == [vector_of([2, 5, 6, 3])]


def test_embeddings_refusal_of_an_unchanged_model_is_the_answer(world: World) -> None:
    world.post(input="cat")
    world.backend.override = lambda call: (
        problem_reply(400, "an id is out of range")
        if call.target.endswith("/infer")
        else world.model(call)
    )
    error = document(world.post(input=[10**6]), 400)["error"]
    assert error["message"] == "an id is out of range"


def test_embeddings_model_that_keeps_changing_is_not_ready(world: World) -> None:
    def changing(call: Received) -> Reply | None:
        if call.target.endswith("/infer"):
            world.model.digest += "x"
        return world.model(call)

    world.backend.override = changing
    response = world.post(input="cat")
    assert document(response, 503)["code"] == "model_not_ready"
    assert response.headers.get("retry-after") == "1"


def test_embeddings_backend_that_does_not_say_who_answered_is_believed(world: World) -> None:
    world.model.says_who = False
    response = world.post(input="cat")
    assert vectors(response) == [vector_of([2, 6, 3])]
    assert response.headers.get("inference-model") is not None


def test_embeddings_other_version_of_such_a_backend_is_asked_anew(world: World) -> None:
    world.model.says_who = False
    world.post(input="cat")
    world.model.version = "2"
    assert vectors(world.post(input="cat")) == [vector_of([2, 6, 3])]
    assert world.backend.received[-1].target == "/v2/models/vectors/versions/2/infer"


@pytest.mark.parametrize("shape", [[2, 2], [4], [1, 2, 2]])
def test_embeddings_answer_of_another_shape_is_the_fault_of_the_backend(
    world: World, shape: list[int]
) -> None:
    world.model.shape = shape
    assert document(world.post(input="cat"), 503)["code"] == "exhausted"


def test_embeddings_backend_that_is_away_says_so_in_the_form_of_openai(world: World) -> None:
    world.backend.fault = Fault.REFUSE
    response = world.post(input="cat")
    error = document(response, 503)["error"]
    assert error["type"] == "server_error"
    assert response.headers.get("retry-after") is not None


def test_embeddings_body_that_is_no_request_costs_no_call(world: World) -> None:
    assert document(world.post(input=""), 400)["error"]["param"] == "input"
    assert world.backend.received == []


IDENTITY = 'nomic;digest="sha256:0a10";engine="ollama"'


def engine_behind_the_backend(received: Received) -> Reply | None:
    """The backend knows no tensors of `nomic`, and asks another server for its vectors."""
    if received.target != "/v1/embeddings" or json.loads(received.body)["model"] != "nomic":
        return problem_reply(404, f"no model at {received.target}")
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
    body = json.dumps({"object": "list", "data": data, "model": "nomic", "usage": usage}).encode()
    return Reply(200, [("content-type", "application/json"), ("inference-model", IDENTITY)], body)


def test_embeddings_of_a_model_behind_another_server_pass_through_and_are_kept() -> None:
    world = World(infer_cache_ttl_s="60")
    world.backend.override = engine_behind_the_backend
    first = world.post(model="nomic", input="the cat", user="somebody")
    assert vectors(first) == [[0.5, 0.25]]
    assert first.headers.get("inference-model") == IDENTITY
    asked = world.backend.received[-1]
    assert (asked.method, asked.target) == ("POST", "/v1/embeddings")
    assert json.loads(asked.body) == {"model": "nomic", "input": "the cat", "user": "somebody"}
    calls = len(world.backend.received)
    again = world.post(model="nomic", input="the cat", user="somebody else")
    assert again.body == first.body
    assert (again.headers.get("cache-status") or "").startswith("edge;hit")
    assert len(world.backend.received) == calls


def test_embeddings_of_a_model_nobody_has_are_404_in_the_words_of_its_metadata() -> None:
    world = World()
    world.backend.override = engine_behind_the_backend
    problem = document(world.post(model="nobody", input="the cat"), 404)
    assert "/v2/models/nobody" in problem["detail"]
