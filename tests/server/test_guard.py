"""Nobody but this machine's programs can use the server, unless its user has said so."""

from __future__ import annotations

import pytest

from mlx_oss import ScriptedEngine, load_tokenizer
from mlx_oss.server.app import application
from mlx_oss.server.guard import Access
from mlx_oss.server.models import Models
from mlx_oss.server.service import Service
from tests.server.conftest import Running
from tests.server.echo import Client, Echo, asked

BODY = {"text": "Hi"}


@pytest.fixture
def guarded():
    running = []

    def serve(*answers, **access):
        service = Service(Models.holding("nano", ScriptedEngine(*answers), load_tokenizer()))
        running.append(Running(application(service, [Echo()], Access(**access))))
        return running[-1].url

    yield serve
    for each in running:
        each.stop()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "192.168.1.2:80", "a b"])
def test_a_name_that_is_not_the_servers_is_refused(guarded, host):
    """A page of evil.example can give its name the address 127.0.0.1 after it was loaded."""
    url = guarded("A")
    for path, body in (("/echo", BODY), ("/v1/models", None), ("/health", None)):
        assert asked(url, path, body, Host=host)[0] in (400, 403)
    assert asked(url, "/echo", BODY)[1]["texts"] == ["A"]


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "127.0.0.1", "127.4.5.6:80", "[::1]:8642"])
def test_every_name_of_this_machine_is_the_servers(guarded, host):
    assert asked(guarded("A"), "/echo", BODY, Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "http://["])
def test_pages_of_others_are_refused(guarded, origin):
    url = guarded("A")
    status, body = asked(url, "/echo", BODY, Origin=origin)
    assert status == 403 and "--cors" in body["error"]["message"]
    assert asked(url, "/v1/models", Origin=origin)[0] == 403
    assert asked(url, "/echo", None, "OPTIONS", Origin=origin)[0] == 403


def test_its_own_page_may_use_it(guarded):
    url = guarded("A")
    assert asked(url, "/echo", BODY, Origin=url)[0] == 200


def test_a_request_that_a_page_sends_without_asking_first_is_refused(guarded):
    """text/plain and forms cross origins without a preflight."""
    url = guarded("A")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        status, body = asked(url, "/echo", BODY, Content_Type=kind)
        assert status == 415 and "application/json" in body["error"]["message"]
    assert asked(url, "/echo", BODY, Sec_Fetch_Site="cross-site")[0] == 403
    assert asked(url, "/echo", BODY, Content_Type="Application/JSON; charset=utf-8")[0] == 200


def test_an_origin_that_is_allowed_can_use_it(guarded):
    origin = "http://localhost:3000"
    url = guarded("A", origins=(origin,))
    preflight = Client(url).send("/echo", None, "OPTIONS", Origin=origin, Access_Control_Request_Headers="x-a, b")
    assert preflight.status == 204 and preflight.headers["Access-Control-Allow-Origin"] == origin
    assert preflight.headers["Access-Control-Allow-Headers"] == "x-a, b"
    response = Client(url).send("/echo", BODY, Origin=origin)
    assert response.status == 200 and response.headers["Access-Control-Allow-Origin"] == origin
    assert asked(url, "/echo", BODY, Origin=f"{origin}0")[0] == 403


def test_no_response_allows_other_origins_by_itself(guarded):
    assert "Access-Control-Allow-Origin" not in Client(guarded("A")).send("/echo", BODY).headers


def test_with_a_key_only_its_holders_can_ask(guarded):
    url = guarded("A", "B", key="secret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"x_api_key": "secret "[:3]}):
        status, body = asked(url, "/echo", BODY, **headers)
        assert status == 401 and "Bearer KEY" in body["error"]["message"]
        assert asked(url, "/v1/models", **headers)[0] == 401
    assert asked(url, "/echo", BODY, Authorization="bearer secret")[0] == 200
    assert asked(url, "/echo", BODY, x_api_key="secret")[0] == 200
    assert asked(url, "/health")[0] == 200


def test_a_client_without_the_key_is_told_not_to_try_again(guarded):
    """Claude Code would ask nine times, for minutes, before it tells its user."""
    response = Client(guarded("A", key="secret")).send("/echo", BODY)
    assert response.status == 401 and response.headers["X-Should-Retry"] == "false"


def test_with_a_key_the_server_may_be_called_by_any_name(guarded):
    url = guarded("A", key="secret", hosts=None)
    assert asked(url, "/echo", BODY, Host="mac.local:80", Authorization="Bearer secret")[0] == 200
    assert asked(url, "/echo", BODY, Host="mac.local:80")[0] == 401
